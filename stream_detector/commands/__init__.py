"""The commands of the command line, one module each: `add_parser(subparsers)` and `main(args) -> int`."""
