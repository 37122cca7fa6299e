"""Whether the code that a benchmark measured is still the code: a hash of what it does, not of how it is written.

A results file keeps the hashes of the modules it measured under `settings["code"]`; a table whose code has changed
since says so. Comments, docstrings and layout do not count, nor does the version of Python.
"""

from __future__ import annotations

import hashlib
import io
import tokenize
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_SKIPPED = {tokenize.COMMENT, tokenize.NL}
_BEFORE_DOCSTRING = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def code_of(*names: str) -> dict[str, str]:
    """Hash by name. names: files or folders of Python below the repository's root."""
    return {name: _hash(ROOT / name) for name in names}


def changed_since(record: dict[str, Any]) -> list[str]:
    """What of the code that a results file measured has changed or gone since; empty also where it does not say."""
    then: dict[str, str] = record.get("settings", {}).get("code", {})
    return [name for name, value in then.items() if _hash(ROOT / name) != value]


def _hash(path: Path) -> str:
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.is_file()
    digest = hashlib.sha256()
    for file in files:
        digest.update(
            f"{file.relative_to(path.parent).as_posix()}\n{essence(file.read_text(encoding='utf-8'))}".encode()
        )
    return digest.hexdigest()[:16] if files else ""


def essence(source: str) -> str:
    """Python source without comments, docstrings and layout, one line a statement."""
    parts: list[str] = []
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in _SKIPPED]
    for number, token in enumerate(tokens):
        if token.type == tokenize.STRING and _stands_alone(tokens, number):
            continue
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            parts.append(">" if token.type == tokenize.INDENT else "<")
        elif token.type == tokenize.NEWLINE:
            parts.append("\n")
        else:
            parts.append(token.string)
    lines = "".join(parts).split("\n")
    return "\n".join(line for line in lines if line)


def _stands_alone(tokens: list[tokenize.TokenInfo], number: int) -> bool:
    before = tokens[number - 1].type if number else tokenize.NEWLINE
    return before in _BEFORE_DOCSTRING and tokens[number + 1].type == tokenize.NEWLINE
