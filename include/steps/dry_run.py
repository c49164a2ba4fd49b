"""Say beforehand what a clean would do, by the same rules, and leave nothing behind."""

import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from include.readable import readable
from include.settings import Settings
from include.steps.clean import build, choose, landed_rows, read_rows, refuse_part_hours, said_of_vanished
from include.stores import batches
from include.stores.foretold import foretold

log = logging.getLogger(__name__)

NAMED = 20  # ids and batches that are named
LONGEST = 80  # characters of an id
WANTED = (
    "fct_interactions",
    "fct_user_texts",
    "int_touched_profiles",
    "int_touched_items",
    "int_item_outcomes",
    "int_user_outcomes",
)


def dry_run(settings: Settings, start: datetime | None = None, end: datetime | None = None) -> dict[str, Any]:
    """What a clean of a span would do: the same models run beside the lake, which is only read.

    It takes no lock: where another run cleans meanwhile, what it has written counts as being there.

    Returns:
        `batches` (`{table, arrival_hour, state, rows_before, rows_after}`), `rows` (by mart `{added, changed, removed}` by
        identity), `users` and `items` (`{recomputed, changed, ids}`: how many cleaning looks at, how many change so that
        their vectors follow, and the first of those), `vanished` (batches that it would leave as they are, since their files
        are gone and no span was given; see `stores.batches.stale`). What an item's first event does to the time from
        which it holds is only known afterwards.

    Raises:
        BadInput: the span is not of whole hours, or a landed file cannot be read.
        GateFailed: a data test of the models would fail.
    """
    refuse_part_hours(start, end)
    chosen, left = choose(settings, start, end)
    vanished = [batch.as_dict() for batch in left]
    nothing = {"recomputed": 0, "changed": 0, "ids": []}
    if not chosen:
        return {"batches": [], "rows": {}, "users": nothing, "items": nothing, "vanished": vanished}
    with TemporaryDirectory(prefix="tidemark-dry-run-") as name:
        here = {"home": Path(name), "work": Path(name) / "work", "lake_catalogue": None}
        scratch = settings.model_copy(update=here)
        rows = landed_rows(scratch)
        rows.mkdir(parents=True)
        counts = read_rows(settings, chosen, rows)
        touched = batches.touched_folder(scratch)
        batches.touch_nothing(touched)
        # What a clean that did not end well has touched, the next one touches again.
        for file in batches.touched_folder(settings).glob("*.parquet"):
            (touched / file.name).write_bytes(file.read_bytes())
        build(
            scratch,
            *("--select", *(f"+{model}" for model in WANTED), "--indirect-selection", "cautious"),
            variables={"marts_database": "memory"},
            reads=settings if batches.cleaned_rows(settings) is not None else None,
            dry_run=Path(name),
        )
        found = foretold(settings, Path(name), touched)
    before = batches.cleaned_rows(settings) or {}
    return {
        "batches": [
            {
                "table": batch.table,
                "arrival_hour": batch.arrival_hour.isoformat(),
                "state": batch.state,
                "rows_before": before.get((batch.table, batch.arrival_hour), 0),
                "rows_after": counts.get((batch.table, batch.arrival_hour), 0),
            }
            for batch in chosen
        ],
        "rows": found["rows"],
        **{
            kind: {
                "recomputed": len(found[kind]["recomputed"]),
                "changed": len(found[kind]["changed"]),
                "ids": found[kind]["changed"][:NAMED],
            }
            for kind in ("users", "items")
        },
        "vanished": vanished,
    }


def dry_run_lines(found: dict[str, Any]) -> Iterator[str]:
    """A dry run as people read it, a line at a time."""
    yield from _cleaned_lines(found)
    if found["vanished"]:
        yield said_of_vanished(found["vanished"])


def _cleaned_lines(found: dict[str, Any]) -> Iterator[str]:
    if not found["batches"]:
        which = "every batch that has files" if found["vanished"] else "every batch of the span"
        yield f"nothing to clean: {which} is in the lake as it is landed"
        return
    yield f"a clean would take {len(found['batches']):,} batches and leave this (nothing was written):"
    for batch in found["batches"][:NAMED]:
        yield (
            f"  {batch['table']} {batch['arrival_hour']}: {batch['state']}, "
            f"{batch['rows_before']:,} rows before, {batch['rows_after']:,} after"
        )
    if len(found["batches"]) > NAMED:
        yield f"  and {len(found['batches']) - NAMED:,} more"
    for what, counts in found["rows"].items():
        yield f"  {what}: " + ", ".join(f"{n:,} {change}" for change, n in counts.items())
    for kind in ("users", "items"):
        one = found[kind]
        named = ", ".join(readable(name, LONGEST) for name in one["ids"]) + (
            " …" if one["changed"] > len(one["ids"]) else ""
        )
        yield f"  {kind}: {one['recomputed']:,} recomputed by cleaning, {one['changed']:,} change" + (
            f" ({named})" if named else ""
        )
