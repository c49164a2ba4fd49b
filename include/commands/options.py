"""What commands take: options that several share, and how people write times and names."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from include import durations
from include.settings import Settings, load

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Serve = Annotated[
    bool,
    typer.Option(
        "--serve",
        help="Serve the result even though its T or lake snapshot precedes that of what serves, or serving is pinned; a pin stays.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and let nothing go.")]
ToPublication = Annotated[
    str | None, typer.Option("--publication", metavar="P", help="A publication's id; by default the one that serves.")
]

Every = Annotated[str, typer.Option(metavar="7d|12h", help="From one cut to the next, and the window behind each.")]
Cuts = Annotated[int, typer.Option(min=1, max=1000, help="How many cuts.")]
ResultsFolder = Annotated[Path, typer.Option(metavar="DIR", help="The folder of the results.")]
ListLength = Annotated[int, typer.Option(min=1, max=1000, help="Items in a list.")]
OfSurface = Annotated[str, typer.Option(help="Whose policy holds.")]
LastWindowEnd = Annotated[
    str | None, typer.Option(metavar="T", help="The end of the last window; by default where the data end.")
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Of everything that draws.")]


def moment(text: str | None, option: str) -> datetime | None:
    """The time that an option names as people write it; None where it is not given."""
    return None if text is None else durations.moment(text, option)


def listed(text: str | None) -> list[str]:
    """Names as people write them, with commas between."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def home() -> Settings:
    """The settings, their home checked and brought up to the present version."""
    from include.steps.migrate import opened

    return opened(load())
