"""Commands of what was landed: land, clean, accept a gate, ask the lake."""

import contextlib
import io
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from include.commands.options import home, moment
from include.commands.output import lines, printed
from include.errors import BadInput
from include.settings import Settings

app = typer.Typer()


class Format(StrEnum):
    canonical = "canonical"
    movielens = "movielens"
    online_retail = "online-retail"
    stackexchange = "stackexchange"
    ifdb = "ifdb"
    amazon_reviews = "amazon-reviews"
    complete_journey = "complete-journey"


class Landed(StrEnum):
    events = "events"
    items = "items"
    users = "users"


@app.command()
def land(
    path: Annotated[Path, typer.Argument(help="A file, or the folder of a data set.")],
    format: Annotated[
        Format, typer.Option(help="Who made the file; `canonical` is Tidemark's own (see the README).")
    ] = Format.canonical,
    table: Annotated[Landed | None, typer.Option(help="What the file holds; by default its name says so.")] = None,
    arrival: Annotated[
        str | None,
        typer.Option(
            metavar="T|event",
            help="The hour of arrival; `event` spreads rows by their own hour, for replays. By default one bulk arrival.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of what the table had in the batches it lands in.")
    ] = False,
    events_from: Annotated[str | None, typer.Option(metavar="T", help="Leave out earlier events.")] = None,
    events_to: Annotated[str | None, typer.Option(metavar="T", help="Leave out events at or after T.")] = None,
) -> None:
    """Put a file of behaviour where the next clean finds it.

    Example: python -m include land shop.csv --table events
    """
    from include.steps.land import land as step

    printed(
        step(
            home(),
            path,
            format=format.value,
            table=None if table is None else table.value,
            arrival="event" if arrival == "event" else moment(arrival, "--arrival"),
            replace=replace,
            events_from=moment(events_from, "--events-from"),
            events_to=moment(events_to, "--events-to"),
        )
    )


@app.command()
def clean(
    start: Annotated[str | None, typer.Option("--from", metavar="T", help="First arrival hour.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="End of the span, itself left out.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which batches, rows, users and items it would touch.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a dry run as JSON for programs.")] = False,
) -> None:
    """Clean landed batches into the lake and pass the gate; by default those that are new or changed."""
    if as_json and not dry_run:
        raise BadInput("--json is of a dry run: add --dry-run, or leave it out")
    settings = home()
    if dry_run:
        from include.steps.dry_run import dry_run as step
        from include.steps.dry_run import dry_run_lines

        found = step(settings, moment(start, "--from"), moment(end, "--to"))
        if as_json:
            printed(found)
        else:
            typer.echo("\n".join(dry_run_lines(found)))
        return
    printed(clean_and_gate(settings, moment(start, "--from"), moment(end, "--to")))


def clean_and_gate(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> dict[str, Any]:
    from include.steps.clean import clean as step
    from include.steps.gate_lake import gate_lake

    cleaned = step(settings, start, end)
    gate = gate_lake(settings)
    return {
        "batches": len(cleaned["batches"]),
        "rows": cleaned["rows"],
        "superseded": cleaned["superseded"],
        "snapshot": gate["snapshot"],
        "gate": gate["gate"],
    }


@app.command("accept-gate")
def accept_gate(
    snapshot: Annotated[int, typer.Argument(help="The lake snapshot whose gate failed.")],
    reason: Annotated[str, typer.Option(help="Why it is right all the same; recorded.")],
) -> None:
    """Let a snapshot pass although its gate failed."""
    from include.steps.gate_lake import accept_gate as step

    printed(step(home(), snapshot, reason))


@app.command()
def sql(query: Annotated[str | None, typer.Argument(help="One query; without it a prompt opens.")] = None) -> None:
    """A DuckDB shell on the lake, read-only: `lake.main.fct_interactions` and its like."""
    import duckdb

    from include.stores import lake

    with lake.connect(home()) as connection:
        if query is not None:
            try:
                _show(connection.sql(query))
            except duckdb.Error as error:
                raise BadInput(f"{type(error).__name__}: {error}") from error
            return
        typer.echo(
            "The lake is attached as `lake`; SHOW TABLES lists it. End a statement with ; and the shell with Ctrl-D."
        )
        statement = ""
        while True:
            try:
                statement += input("… " if statement else "lake> ") + "\n"
            except EOFError:
                return
            if statement.rstrip().endswith(";"):
                try:
                    _show(connection.sql(statement))
                except Exception as error:  # a typing mistake must not end the shell
                    typer.echo(f"{type(error).__name__}: {lines(str(error))}", err=True)
                statement = ""


def _show(result: Any) -> None:
    """Print a result's table, if there is one; what stands in it is data."""
    if result is None:
        return
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        result.show(max_width=200)
    typer.echo(lines(table.getvalue().rstrip("\n")))
