"""readme: the tables of README.md and docs/, generated from benchmarks/results/*.json.

    python -m benchmarks readme            # write them
    python -m benchmarks readme --check    # exit 1 and name the tables that differ
    python -m benchmarks readme --check --release    # also when a table is older than the code that it measured

A table stands between `<!-- benchmark:NAME -->` and `<!-- /benchmark -->`; NAME is a key of TABLES, or the name of a
results file whose results are a flat object or a list of flat objects. Under each table: when, where, which commit.
A table that was measured on other code (`settings["code"]`, see `codehash`) says so.
"""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path

from benchmarks import gputables, sitetables, standardtables, trainertables
from benchmarks.codehash import changed_since
from benchmarks.results import read_results
from benchmarks.tables import TABLES as DETECTOR
from benchmarks.tables import Record, plain

ROOT = Path(__file__).parents[1]
TABLES = DETECTOR | trainertables.TABLES | standardtables.TABLES | gputables.TABLES | sitetables.TABLES
MARKED = re.compile(r"(<!-- benchmark:([a-z0-9_-]+) -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def command_of(name: str) -> str:
    """The command, with its options, behind a results file."""
    if name.startswith("standard_"):
        return "python -m trainer evaluate --standard"
    return "python -m benchmarks " + name.removeprefix("trainer_").replace("_int8", " --precision int8")


def source_line(record: Record) -> str:
    """Where the figures come from. A record with a "source" was not made by a benchmark of this project."""
    if "source" in record:
        return f"*{record['date'][:10]}, commit {record['commit']}; {record['source']}*"
    machine, vector = record["machine"], ", ".join(record["machine"].get("vector", [])) or "no vector extension"
    commit = f", commit {record['commit']}" if record["commit"] else ""
    load = record.get("settings", {}).get("load_before", 0.0)
    busy = f", **busy with other work before: load average {load:g}**" if load > 0.75 * machine["cores"] else ""
    command = command_of(record["name"])
    return (
        f"*{record['date'][:10]}{commit}; {machine['processor']}, {machine['cores']} cores ({vector}), "
        f"{machine['memory_gib']} GiB{busy}; `{command}`*"
    )


def rendered(name: str) -> str:
    """The text between the markers of NAME; says so where the benchmark has not been run."""
    file, render = TABLES.get(name, (name, plain))
    try:
        record = read_results(file)
    except FileNotFoundError:
        return f"Not measured yet: `{command_of(file)}`.\n"
    if file.startswith("standard_"):  # several records side by side: each row of their table is dated
        return f"{render(record)}\n\n*`{command_of(file)}`*\n"
    return f"{age(record)}{render(record)}\n\n{source_line(record)}\n"


def age(record: Record) -> str:
    """A sentence where the code has changed since; empty otherwise."""
    changed = changed_since(record)
    if not changed:
        return ""
    return f"**Not measured on this commit**: {', '.join(changed)} changed since; `{command_of(record['name'])}`.\n\n"


def outdated() -> list[str]:
    """The names of the tables on the pages that show figures of other code, or none."""
    names = {found[2] for page in pages() for found in MARKED.finditer(page.read_text(encoding="utf-8"))}
    return sorted(name for name in names if rendered(name).startswith(("Not measured yet", "**Not measured on this")))


def generated(text: str) -> str:
    """A page with every table made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{rendered(found[2])}{found[3]}", text)


def pages() -> list[Path]:
    """Where tables may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main(argv: list[str]) -> int:
    """Command line; with --check 1 when a page differs from the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a table differs")
    parser.add_argument("--release", action="store_true", help="exit 1 also when a table is older than the code")
    args = parser.parse_args(argv)
    differing = 0
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = generated(old)
        if new == old:
            continue
        differing += 1
        name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
        if args.check:
            print("\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), name, "results", "", "", 0, "")))
            print(f"{name} differs from benchmarks/results; run `python -m benchmarks readme`")
        else:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {name}")
    old_tables = outdated() if args.release else []
    for name in old_tables:
        command = command_of(TABLES.get(name, (name,))[0])
        print(f"table {name} is older than the code, or was never measured; run `{command}`")
    return 1 if (args.check and differing) or old_tables else 0
