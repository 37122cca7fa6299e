"""The findings of the doctor: one record per check, and their table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. advice: what to do about it; empty if nothing is to be done."""

    name: str
    state: State
    detail: str
    advice: str = ""


def print_findings(checks: list[Check], able: bool) -> None:
    """Print the table and the verdict. able: whether no check failed."""
    console = Console()
    signs: dict[State, Text] = {
        "ok": Text("ok", "green"),
        "warn": Text("look", "yellow"),
        "fail": Text("FAIL", "bold red"),
    }
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        detail = Text(check.detail)
        if check.advice:
            detail.append(f"\n→ {check.advice}", style="yellow" if check.state != "ok" else "bright_black")
        table.add_row(signs[check.state], Text(check.name, "bold"), detail)
    console.print(table)
    verdict = (
        "The detector can run here."
        if able
        else "The detector cannot run here as configured; see the lines marked FAIL."
    )
    console.print(Text(verdict, "green" if able else "bold red"))
