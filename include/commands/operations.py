"""Commands of a home in operation: quality, doctor, maintain, forget, backup, restore."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from include.commands.options import AsJson, DryRun, home
from include.commands.output import CONSOLE, printed
from include.settings import load

app = typer.Typer()


@app.command()
def quality(
    days: Annotated[int, typer.Option(min=1, help="How many of the last scored days of each surface to show.")] = 7,
    score: Annotated[bool, typer.Option("--score", help="First score the whole days that are not scored yet.")] = False,
    again: Annotated[
        int,
        typer.Option(min=0, max=3650, metavar="N", help="First score the last N days again, such as after a data fix."),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """What the served lists were worth: each past day's lists against what users then did, beside recent popularity.

    `recommend_daily` scores each day; the history is in the lake's tables list_quality and list_clicks (make sql). A ratio is
    that of the lists' NDCG to the method's, with its 95 % interval. Exit code 1: on the last seven scored days they were
    never better than popularity (docs/runbooks/served_lists.md).

    Example: python -m include quality --score
    """
    from include.steps.check_served import check_served, quality_lines
    from include.stores import list_quality

    settings = home()
    if score or again:
        from include.steps.score_served import score_served

        summary = score_served(settings, again)
        for day, reason in summary["skipped"].items():
            logging.getLogger("include").info("%s is not scored: %s", day, reason)
    found = {name: list_quality.read(settings, name, days).to_pylist() for name in list_quality.SCHEMAS}
    if as_json:
        printed(found)
    else:
        typer.echo("\n".join(quality_lines(found)))
    check_served(settings)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at settings, versions, stores, disk and stale batches, and say what to do."""
    from include.steps.doctor import doctor as step

    found = step(home(), load().encoder)
    if as_json:
        printed(found)
        return
    for name in ("home", "settings_hash", "encoder_id", "publication"):
        CONSOLE.print(f"{name:>15}: {found[name]}")
    CONSOLE.print(
        f"{'lake':>15}: newest snapshot {found['lake']['newest_snapshot']}, gated {found['lake']['gated_snapshot']}"
    )
    CONSOLE.print(f"{'disk (GB)':>15}: " + ", ".join(f"{name} {size}" for name, size in found["disk_gb"].items()))
    CONSOLE.print(f"{'versions':>15}: " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    CONSOLE.print(f"{'stale batches':>15}: {len(found['stale_batches'])}")
    if found["erasures"]["count"]:
        CONSOLE.print(f"{'erasures':>15}: {found['erasures']['count']}, the last {found['erasures']['last'][:10]}")
    for surface, said in found["freshness"].items():
        CONSOLE.print(f"{'freshness':>15}: {surface}: {said}")
    for line in found["advice"] or ["all is well"]:
        CONSOLE.print(f"  → {line}")


@app.command()
def maintain(dry_run: DryRun = False) -> None:
    """Prune by retention, remove orphans and old reports, hold the disk budget, put small files together; says what was freed."""
    from include.steps.maintain import maintain as step

    printed(step(home(), dry_run=dry_run))


@app.command()
def forget(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user's id; - reads it from standard input.")],
    reference: Annotated[
        str | None, typer.Option(help="What the record is to say, such as the number of a request. Not the name.")
    ] = None,
    also_kept: Annotated[bool, typer.Option("--also-kept", help="Let go of publications that are kept, too.")] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="The id is an ordinary word: look for it in columns of user ids alone. So are ids of digits, and of fewer than 6 characters.",
        ),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Erase a user whose rows you took out of the landed files; proves that nothing in the home names them, and records it.

    First take the rows out, `clean`, `recommend`: until then it refuses, and names the files and rows, or the command to run. Then
    every publication but the one that serves goes, with old lake snapshots, vector versions, text vectors of texts that nobody has,
    and reports that name the user. There is no way back to them. An id that no row and no list holds takes no publication with it.
    In the end every file of the home is looked into. Start nothing else meanwhile. Backups and exports elsewhere are out of reach: a backup from before brings the user back (docs/runbooks/forget_a_user.md).

    Example: python -m include forget u4711 --dry-run
    """
    from include.steps.forget import forget as step

    name = typer.get_text_stream("stdin").read().strip() if user == "-" else user
    printed(step(home(), name, reference=reference, also_kept=also_kept, exact=exact, dry_run=dry_run))


@app.command()
def backup(path: Annotated[Path, typer.Argument(metavar="FILE.tar", help="The file to write.")]) -> None:
    """Write the home to one file. Writers wait meanwhile; what serves can be read."""
    from include.steps.backup import backup as step

    printed(step(home(), path))


@app.command()
def restore(path: Annotated[Path, typer.Argument(metavar="FILE.tar", help="A file that `backup` wrote.")]) -> None:
    """Check a backup and put it into the home, which must be empty."""
    from include.steps.restore import restore as step

    printed(step(load(), path))
