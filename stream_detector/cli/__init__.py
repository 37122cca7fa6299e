"""The command line, one module a command.

In: arguments.
Out: exit codes, tables, JSON.
Imports: every package.
"""
