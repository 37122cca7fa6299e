"""The generated pages of the documentation: settings, events, metrics, errors, commands, library.

    python packaging/reference.py DIR        write them there (the site does so by itself: `site_hooks.py`)

Each page is made from what the program itself uses: the models of the configuration, the JSON schemas of the events, a
scrape's registry, the `raise` statements of the source, the parser and `stream_detector.__all__`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("COLUMNS", "100")
ROOT = Path(__file__).parents[1]
for entry in (str(ROOT), str(Path(__file__).parent)):
    if entry not in sys.path:
        sys.path.insert(0, entry)

import settings_table  # noqa: E402

import stream_detector  # noqa: E402
from stream_detector import errors  # noqa: E402
from stream_detector.cli.main import whole_parser  # noqa: E402
from stream_detector.telemetry.collector import Telemetry  # noqa: E402
from stream_detector.telemetry.prometheus import make_registry  # noqa: E402
from stream_detector.types import SystemClock  # noqa: E402

PACKAGE = ROOT / "stream_detector"
SCHEMAS = PACKAGE / "events" / "schemas"
NOTE = "*This page is generated; it cannot differ from the program.*\n"
SUFFIX = {"counter": "_total", "gauge": "", "histogram": "_bucket"}


def cell(text: object) -> str:
    """A text in a cell of a table."""
    return re.sub(r"([<{])", r"\\\1", " ".join(str(text).split()).replace("|", "\\|"))


def code(text: object) -> str:
    """A text as code in a cell."""
    text = " ".join(str(text).split()).replace("|", "\\|")
    return f"`{text}`" if text else ""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join('---' for _ in head)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


# --- events ----------------------------------------------------------------------------------------------------------


def events_page() -> str:
    """Every message on the wire, from the schemas that ship with the package."""
    parts = ["# Every event\n", NOTE, "[How events travel](../protocol.md): topics, order, recovery, encryption.\n"]
    for path in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        parts += [f"## {schema.get('title', path.stem)}\n", f"`{schema['$id']}`. {schema.get('description', '')}\n"]
        required = set(schema.get("required", []))
        rows = [
            [code(key), kind_of(value, schema), "yes" if key in required else "no", cell(meaning(value, schema))]
            for key, value in schema.get("properties", {}).items()
        ]
        parts.append(table(["key", "type", "always", "meaning"], rows))
    return "\n".join(parts)


def resolved(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A property with what it refers to."""
    reference = value.get("$ref", "")
    return schema.get("$defs", {}).get(reference.rpartition("/")[2], {}) | value if reference else value


def kind_of(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """The type of a property, in words."""
    value = resolved(value, schema)
    if "const" in value:
        return code(json.dumps(value["const"]))
    if "enum" in value:
        return ", ".join(code(json.dumps(each)) for each in value["enum"])
    kinds = value.get("type", "")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "minimum" in value and "maximum" in value:
        text += f", {value['minimum']} to {value['maximum']}"
    return cell(text or "object")


def meaning(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """The description of a property, and of what it holds."""
    value = resolved(value, schema)
    inside = value.get("items", value)
    keys = inside.get("properties", {}) if isinstance(inside, dict) else {}
    text: str = value.get("description", "")
    return f"{text} Keys: {', '.join(keys)}.".strip() if keys else text


# --- metrics ---------------------------------------------------------------------------------------------------------


def metrics_page() -> str:
    """Every metric that a scrape gives."""
    telemetry = Telemetry(["gate"], SystemClock())
    rows = []
    for family in make_registry(telemetry).collect():
        labels = ", ".join(code(label) for label in getattr(family, "_labelnames", ()))
        rows.append([code(family.name + SUFFIX[family.type]), family.type, labels, cell(family.documentation)])
    return "\n".join(
        [
            "# Every metric\n",
            NOTE,
            "`--metrics-port PORT` serves them at `/metrics` on 127.0.0.1 in Prometheus' format; the page serves them "
            "too, to those who have signed in. [A dashboard for Grafana and alert rules](../deploy/README.md#docker) "
            "use them.\n",
            table(["metric", "kind", "labels", "meaning"], rows),
            "A histogram also has `_sum` and `_count`. Stages are those of `timing` in [the events](events.md).\n",
        ]
    )


# --- errors ----------------------------------------------------------------------------------------------------------


def sentences() -> Iterator[tuple[str, str, str]]:
    """(class of the error, sentence with {…} for what it names, module) of every `raise` with a text."""
    known = {name for name, value in vars(errors).items() if isinstance(value, type)}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
                continue
            name = node.exc.func.id if isinstance(node.exc.func, ast.Name) else ""
            text = template(node.exc.args[0])
            if name in known and len(text) > 20:
                yield name, text, module


def template(node: ast.expr) -> str:
    """The text of a literal; an f-string's values by the last part of their names, in braces."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        names = [
            each.attr if isinstance(each, ast.Attribute) else each.id
            for each in ast.walk(node.value)
            if isinstance(each, ast.Attribute | ast.Name)
        ]
        found = next((name for name in names if name not in ("str", "repr", "type", "len", "join", "map")), "value")
        return "{" + found.strip("_") + "}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return ""


def errors_page() -> str:
    """Every sentence with which the program refuses or gives up, and what helps."""
    parts = [
        "# Errors and their cures\n",
        NOTE,
        "An error is one sentence on standard error: what is wrong, then, behind a semicolon, what to do. `{…}` stands "
        "for what the sentence names. `--debug` shows where it came from; `stream-detector doctor` finds most "
        "causes.\n",
        table(
            ["exit code", "meaning"],
            [
                ["0", "done"],
                ["1", "ran and failed"],
                ["2", "usage or bad input"],
                ["130, 143", "interrupted (SIGINT, SIGTERM)"],
                ["141", "the reader of standard output went away"],
            ],
        ),
    ]
    grouped: dict[str, dict[str, str]] = {}
    for name, text, module in sentences():
        grouped.setdefault(name, {}).setdefault(" ".join(text.split()), module)
    for name in sorted(grouped):
        kind = getattr(errors, name)
        first = " ".join((kind.__doc__ or "").split())
        parts += [f"## {name}\n", f"{first} Exit code {kind.exit_code}.\n"]
        rows = []
        for text, module in sorted(grouped[name].items()):
            wrong, _, cure = text.partition("; ")
            rows.append([cell(wrong), cell(cure), code(module)])
        parts.append(table(["sentence", "what to do", "from"], rows))
    return "\n".join(parts)


# --- commands --------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its options."""
    parts = ["# Commands\n", NOTE, "`stream-detector COMMAND --help` shows the same; so does `man stream-detector`.\n"]
    parts += _commands(whole_parser(), "stream-detector")
    return "\n".join(parts)


def _commands(parser: argparse.ArgumentParser, title: str) -> list[str]:
    parts: list[str] = []
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for name, child in action.choices.items():
            parts.append(f"{'##' if title == 'stream-detector' else '###'} {title} {name}\n")
            parts.append(f"{cell(child.description or '')}\n")
            rows = [[_spelling(each), cell(_help(each, child))] for each in child._actions if _shown(each)]
            if rows:
                parts.append(table(["", ""], rows))
            parts += _commands(child, f"{title} {name}")
    return parts


def _shown(action: argparse.Action) -> bool:
    return (
        not isinstance(action, argparse._SubParsersAction | argparse._HelpAction) and action.help != argparse.SUPPRESS
    )


def _help(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    return (action.help or "") % (vars(action) | {"prog": parser.prog})


def _spelling(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    value = metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if not action.option_strings:
        return code(value)
    return ", ".join(code(f"{each} {value}" if action.nargs != 0 else each) for each in action.option_strings)


# --- library ---------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """Every public name, by mkdocstrings from its docstring."""
    parts = ["# Library\n", NOTE, "Everything is imported from `stream_detector`. [Examples](../library.md).\n"]
    for name in stream_detector.__all__:
        value = getattr(stream_detector, name)
        module = getattr(value, "__module__", "")
        if not name.startswith("__") and module.startswith("stream_detector"):
            parts.append(f"::: {module}.{value.__name__}\n")
    return "\n".join(parts)


PAGES = {
    "settings.md": settings_table.page,
    "events.md": events_page,
    "metrics.md": metrics_page,
    "errors.md": errors_page,
    "commands.md": commands_page,
    "api.md": api_page,
}


def write(folder: Path) -> list[Path]:
    """Write every page that has changed; returns all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        path, text = folder / name, make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return [folder / name for name in PAGES]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    for written in write(parser.parse_args().folder):
        print(written)
