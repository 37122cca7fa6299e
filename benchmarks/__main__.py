"""`python -m benchmarks NAME …`: each benchmark is a module here with `main(argv) -> int`; its docstring says what it
answers.
"""

from __future__ import annotations

import ast
import importlib
import sys
from functools import cache
from pathlib import Path

from benchmarks.options import OPTIONS, parse

NOT_BENCHMARKS = {"__init__", "__main__", "results"}


@cache
def names() -> dict[str, str]:
    """Return every benchmark and the question that it answers: the first paragraph of its docstring."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.stem not in NOT_BENCHMARKS and any(
            isinstance(n, ast.FunctionDef) and n.name == "main" for n in tree.body
        ):
            question = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
            found[path.stem] = question.removeprefix(f"{path.stem}: ")
    return found


def main(argv: list[str]) -> int:
    """Run one benchmark; exit code 2 for an unknown one."""
    known = names()
    if not argv or argv[0] in ("-h", "--help") or argv[0].replace("-", "_") not in known:
        print("python -m benchmarks NAME [options]", *(f"  {n:14} {text}" for n, text in known.items()), sep="\n")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    name = argv[0].replace("-", "_")
    if name in OPTIONS:
        parse(name, argv[1:])  # --help and wrong usage end here, before the large libraries are loaded
    return int(importlib.import_module(f"benchmarks.{name}").main(argv[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
