"""What commands print. Values come from data: what a terminal would act on in them is escaped."""

import json
import sys
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from include.readable import readable

# Without markup: what stands in brackets is text.
CONSOLE = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def printed(content: Any) -> None:
    """JSON."""
    text = json.dumps(content, indent=2, default=str, ensure_ascii=False)
    # What a terminal would act on, as JSON escapes it: still the same JSON.
    typer.echo("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def print_table(table: Table) -> None:
    """A table as wide as the terminal; in a file, as wide as it needs."""
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def interval(ratio: dict[str, float | None]) -> str:
    """A ratio and its 95 % interval; a dash where there is none."""
    if ratio["ratio"] is None:
        return "-"
    return f"{ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


def lines(text: str) -> str:
    """Text whose lines stay lines, each of them readable."""
    return "\n".join(map(readable, text.split("\n")))
