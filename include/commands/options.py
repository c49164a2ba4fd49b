"""What commands take: options that several share, and how people write times and names."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from include.errors import BadInput
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
    """The time that an option names as people write it (ISO 8601; UTC where no zone is given)."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadInput(
            f"{option}: {text!r} is not a time: write ISO 8601, for example 2010-09-30 or 2010-09-30T14:00:00Z"
        ) from error


def listed(text: str | None) -> list[str]:
    """Names as people write them, with commas between."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def home() -> Settings:
    """The settings, their home checked and brought up to the present version."""
    from include.steps.migrate import opened

    return opened(load())
