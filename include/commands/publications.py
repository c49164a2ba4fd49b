"""Commands of publications that there are: look at them, compare, export, keep, prune, roll back, decide."""

from enum import StrEnum
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from include.commands.options import AsJson, DryRun, ToPublication, home, moment
from include.commands.output import CONSOLE, print_table, printed
from include.durations import duration
from include.errors import BadInput
from include.readable import readable
from include.settings import Settings

app = typer.Typer()
publications_app = typer.Typer(
    help="List, show, keep, prune and roll back publications.", no_args_is_help=True, rich_markup_mode=None
)
show_app = typer.Typer(
    help="Show one user or one item as the serving publication knows it.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(publications_app, name="publications")
app.add_typer(show_app, name="show")


@publications_app.command("list")
def publications_list(as_json: AsJson = False) -> None:
    """All publications, the oldest first."""
    from include.stores import publications

    found = publications.listed(home())
    if as_json:
        printed(found)
        return
    table = Table(*["", "publication", "as of", "kind", "encoder", "made", "users", "texts embedded"])
    for row in found:
        marks = [
            "▶" if row["serving"] else "shadow" if row["shadow"] else "kept" if row["kept"] else "",
            row["id"],
            row["as_of"],
            row["kind"],
            row["encoder_id"],
            row["made_at"][:19],
        ]
        table.add_row(*marks, str(row["users_touched"]), str(row["texts_embedded"]))
    print_table(table)


@publications_app.command("show")
def publications_show(
    publication: Annotated[
        str | None, typer.Argument(help="A publication's id; by default the one that serves.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A publication's manifest: what it was made of, its counts, its gates."""
    from include.stores import publications

    settings = home()
    entry = publications.named_or_serving(settings, publication)
    entry = {**entry, "serving": entry["id"] == publications.serving_id(settings)}
    if as_json:
        printed(entry)
        return
    events, run_ = entry["rows"]["events"], entry["run"]
    CONSOLE.print(
        f"{entry['id']} {'serves' if entry['serving'] else 'does not serve'}; as of {entry['as_of']}, made by {entry['kind']}"
    )
    CONSOLE.print(
        f"lake snapshot {entry['lake_snapshot']}, encoder {entry['encoder_id']}, artefacts {', '.join(entry['artefacts'].values())}"
    )
    if "challenger" in entry:
        CONSOLE.print(
            f"challenges {entry['challenger']['champion']}, {_decision(settings, entry)}: {readable(entry['challenger']['reason'])}"
        )
    for name, counts in entry["rows"].items():
        flat = {k: sum(v.values()) if isinstance(v, dict) else v for k, v in counts.items()}
        CONSOLE.print(f"  {name}: " + ", ".join(f"{value:,} {key}" for key, value in flat.items()))
    if events["rejected"]:
        CONSOLE.print(
            "  events rejected because: " + ", ".join(f"{reason} {n:,}" for reason, n in events["rejected"].items())
        )
    CONSOLE.print(
        f"  this run: {run_['users']['touched']:,} of {run_['users']['total']:,} users and {run_['items']['touched']:,} of {run_['items']['total']:,} items touched; {run_['texts']['embedded']:,} texts embedded, {run_['texts']['reused']:,} reused"
    )
    if new := run_.get("exploration"):
        CONSOLE.print(
            f"  new items: {new['new_items']:,} have places in lists, {new['came']:,} of them since the base and {new['went']:,} no more, "
            f"which changed the lists of {new['relisted']:,} other users"
        )
    if "report" in run_:
        from include.steps.report import report_lines

        for line in report_lines(run_["report"]):
            CONSOLE.print(f"  {line}")
    for gate in entry["gates"]:
        CONSOLE.print(
            f"  gate {gate['name']}: {'passed' if gate['passed'] else 'failed'} ({gate['expectations']} expectations)"
        )


def _decision(settings: Settings, entry: dict[str, Any]) -> str:
    """What became of a challenger."""
    from include.stores import publications

    if publications.served(settings, entry["line"]):
        return "approved"
    return "waits" if publications.rejection(settings, entry["line"]) is None else "rejected"


@publications_app.command("diff")
def publications_diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A publication's id.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one's.")],
    as_json: AsJson = False,
    top: Annotated[int, typer.Option(min=1, help="How many users and items to name.")] = 10,
) -> None:
    """Compare two publications: whose interests moved, which lists and items changed, counts, gates, what they are made of."""
    from include.steps.compare import as_text, compare

    found = compare(home(), before, after, top)
    if as_json:
        printed(found)
    else:
        typer.echo(as_text(found))


@publications_app.command()
def rollback(
    publication: Annotated[str | None, typer.Argument(help="Where to; by default the one that served before.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; recorded.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would serve.")] = False,
) -> None:
    """Let an earlier publication serve again, at once, and pin it there until `unpin`."""
    from include.steps.roll_back import choose_publication, roll_back

    printed(choose_publication(home(), publication) if dry_run else roll_back(home(), publication, reason))


@publications_app.command()
def approve(
    publication: Annotated[str, typer.Argument(help="A challenger's shadow.")],
    reason: Annotated[str, typer.Option(help="Why; recorded.")] = "",
) -> None:
    """Let a challenger serve: it is brought up to the newest gated snapshot, then switched to in one step."""
    from include.steps.challenge import approve as step

    printed(step(home(), publication, getuser(), reason))


@publications_app.command()
def reject(
    publication: Annotated[str, typer.Argument(help="A challenger's shadow.")],
    reason: Annotated[str, typer.Option(help="Why; recorded.")] = "",
) -> None:
    """Record that a challenger is not to serve; retention then takes it away in time."""
    from include.steps.challenge import reject as step

    printed(step(home(), publication, getuser(), reason))


@publications_app.command()
def unpin() -> None:
    """End the pin of a rollback: the next publication serves again."""
    from include.stores import publications
    from include.stores.lock import writing

    settings = home()
    with writing(settings):
        publications.unpin(settings)
    printed({"serving": publications.serving_id(settings), "pinned": False})


@publications_app.command()
def keep(
    publication: Annotated[str, typer.Argument(help="A publication's id.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let retention decide about it again.")] = False,
) -> None:
    """Keep a publication, and all that it needs, whatever its age."""
    from include.steps.prune import keep as step

    printed(step(home(), publication, undo=undo))


@publications_app.command()
def prune(dry_run: DryRun = False) -> None:
    """Let go of publications that are older than the retention, and of what only they needed."""
    from include.steps.prune import prune as step

    printed(step(home(), dry_run=dry_run))


@show_app.command("user")
def show_user(
    user_id: str,
    publication: ToPublication = None,
    top: Annotated[int, typer.Option(min=1)] = 10,
    timeline: Annotated[bool, typer.Option("--timeline", help="The user's interests over time instead.")] = False,
    at: Annotated[
        list[str] | None, typer.Option(metavar="T", help="With --timeline: as of when; may be repeated.")
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="7d|12h", help="With --timeline: from one point to the next; by default 7d.")
    ] = None,
    points: Annotated[
        int | None, typer.Option(min=1, max=1000, help="With --timeline: how many points; by default 8.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="With --timeline: a file for the vectors.")
    ] = None,
) -> None:
    """A user's recent history, and what is recommended and why; or how the user's interests moved."""
    if not timeline:
        from include.steps.show import of_user, user_as_text

        if at or out or every or points:
            raise BadInput("--at, --every, --points and --out go with --timeline")
        typer.echo(user_as_text(of_user(home(), user_id, publication, top)))
        return
    from include.steps.timeline import as_text
    from include.steps.timeline import timeline as past

    times = [time for text in at or [] if (time := moment(text, "--at")) is not None]
    found = past(
        home(), user_id, at=times, every=duration(every or "7d"), points=points or 8, publication=publication, out=out
    )
    typer.echo(as_text(found))


@show_app.command("item")
def show_item(item_id: str, publication: ToPublication = None, top: Annotated[int, typer.Option(min=1)] = 10) -> None:
    """An item's versions and its nearest items by text."""
    from include.steps.show import item_as_text, of_item

    typer.echo(item_as_text(of_item(home(), item_id, publication, top)))


class Exported(StrEnum):
    recommendations = "recommendations"
    user_vectors = "user-vectors"
    item_vectors = "item-vectors"


@app.command()
def export(
    what: Annotated[Exported, typer.Argument(help="What to export.")],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="The file to write.")],
    publication: ToPublication = None,
) -> None:
    """Write recommendations or vectors to a Parquet file; the same publication gives the same bytes."""
    from include.steps.export import export as step

    printed(step(home(), what.value, out, publication))
