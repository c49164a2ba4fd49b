"""A user's interests at chosen times, computed from the clean history: there is no table of the past."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from include.columns import INTEREST_SHARES, USER_VECTORS, VectorTable, interest_columns
from include.errors import BadInput
from include.models import encoder
from include.models.comparison import movement
from include.readable import readable
from include.settings import Settings
from include.steps.export import refuse_other_files
from include.steps.update_items import item_rows
from include.steps.update_users import user_rows
from include.stores import behaviour, files, lake, publications, vectors

NEAREST = 3
SPARE = 50  # nearest items to look at first, since some were not there yet at an earlier T
LONGEST = 80  # characters of a title or an id


@lake.attached_once
def timeline(
    settings: Settings,
    user_id: str,
    *,
    at: Sequence[datetime] = (),
    every: timedelta = timedelta(days=7),
    points: int = 8,
    publication: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Recompute a user's interest vectors as of some times, with a publication's snapshot, encoder and artefacts.

    Each is what `rebuild --as-of T --publication P` would write of this user, if the artefacts were used for that T.

    Args:
        settings: all settings; those that the publication was made with.
        user_id: whose.
        at: the times; by default `points` times up to the publication's T.
        every: time from one point to the next.
        points: how many.
        publication: by default the one that serves.
        out: a Parquet file for the vectors: `user_id, as_of, long, short, behaviour, interest_1, …, interest_shares`, sorted.

    Returns:
        `publication`, `user_id` and `points`: `as_of, n_interactions, last_event_ts, moved` (since the point before, one minus
        the cosine by vector; None at the first and where the user had no history), `near` (titles of the items nearest to the
        long, the short and each of several interests, of those that were there) and `shares` (of each of several interests).

    Raises:
        BadInput: the publication was made with other settings, its snapshot is gone, a text of the past was never
            embedded, or the user has no history before any of the times.
    """
    if out is not None:
        refuse_other_files(out)
    manifest = publications.named_or_serving(settings, publication)
    settings = settings.with_encoder(manifest.get("encoder"))
    _refuse_others(settings, manifest)
    last = datetime.fromisoformat(manifest["as_of"])
    try:
        times = sorted(set(at)) or [last - every * step for step in reversed(range(points))]
    except OverflowError as error:
        raise BadInput(f"{points:,} points, one every {every.days:,} days, begin before the year 1") from error
    rows = {time: _vectors(settings, manifest, user_id, time) for time in times}
    if not any(row.num_rows for row in rows.values()):
        raise BadInput(
            f"user '{readable(user_id, LONGEST)}' has no history before {times[-1].isoformat()} in publication {manifest['id']}"
        )
    if out is not None:
        files.write_parquet(out, _exported(rows))
    found, before = [], None
    for time, row in rows.items():
        found.append(_point(settings, manifest, time, row, before))
        before = row if row.num_rows else None
    return {"publication": manifest["id"], "user_id": user_id, "points": found}


def _refuse_others(settings: Settings, manifest: publications.Manifest) -> None:
    found = encoder.identify(settings.encoder)
    if manifest["encoder_id"] != found or manifest["settings_hash"] != settings.hash:
        raise BadInput(
            f"publication {manifest['id']} was made with other settings (encoder {manifest['encoder_id']}, hash "
            f"{manifest['settings_hash']}; now {found}, {settings.hash}): "
            "set them again, or name a publication that was made with those that are set now"
        )
    with lake.connect(settings) as connection:
        if not behaviour.has_snapshot(connection, manifest["lake_snapshot"]):
            raise BadInput(
                f"lake snapshot {manifest['lake_snapshot']} of publication {manifest['id']} is no longer kept"
            )


def _vectors(settings: Settings, manifest: publications.Manifest, user_id: str, time: datetime) -> pa.Table:
    def items_then(settings: Settings, state: dict[str, Any], items: list[str]) -> pa.Table:
        return item_rows(settings, state, state["lake_snapshot"], state["as_of"], items)

    try:
        return user_rows(settings, {**manifest, "as_of": time.isoformat()}, [user_id], items_then)
    except vectors.NotEmbedded as error:
        raise BadInput(f"{error}: `python -m include rebuild --as-of {time.isoformat()}` embeds them") from error


def _exported(rows: dict[datetime, pa.Table]) -> pa.Table:
    parts = [
        row.select(
            ["user_id", *USER_VECTORS, *_several(row), *([INTEREST_SHARES] if _several(row) else [])]
        ).add_column(1, "as_of", pa.array([time] * row.num_rows, pa.timestamp("us", "UTC")))
        for time, row in rows.items()
    ]
    return pa.concat_tables(parts)


def _point(
    settings: Settings, manifest: publications.Manifest, time: datetime, row: pa.Table, before: pa.Table | None
) -> dict[str, Any]:
    point: dict[str, Any] = {"as_of": time.isoformat(), "n_interactions": 0, "last_event_ts": None, "moved": None}
    if not row.num_rows:
        return point | {"near": {}, "shares": {}}
    point |= {name: row[name][0].as_py() for name in ("n_interactions", "last_event_ts")}
    if before is not None:
        pairs = {name: [vectors.vector_array(each[name]) for each in (before, row)] for name in USER_VECTORS}
        point["moved"] = {name: round(float(movement(one, other)[0]), 6) for name, (one, other) in pairs.items()}
    shares = row[INTEREST_SHARES][0].as_py() if _several(row) else []
    names = ("long", "short", *(name for name, share in zip(_several(row), shares, strict=True) if share))
    return point | {
        "near": {name: _near(settings, manifest, time, row, name) for name in names},
        "shares": {name: round(share, 6) for name, share in zip(_several(row), shares, strict=True) if share},
    }


def _several(row: pa.Table) -> list[str]:
    return interest_columns(row.schema.names)


def _near(settings: Settings, manifest: publications.Manifest, time: datetime, row: pa.Table, name: str) -> list[str]:
    vector = vectors.vector_array(row[name])[0]
    if not vector.any():
        return []
    version = manifest["tables"][VectorTable.ITEMS]["version"]
    most = SPARE
    while True:
        near = vectors.nearest(
            settings, manifest["encoder_id"], VectorTable.ITEMS, version, "text", vector.tolist(), most
        )
        with lake.connect(settings) as connection:
            there = behaviour.items(connection, manifest["lake_snapshot"], time, [item for item, _ in near])
        title = {item["item_id"]: item["title"] or item["item_id"] for item in there.to_pylist()}
        found = [title[item] for item, _ in near if item in title]
        if len(found) >= NEAREST or len(near) < most:
            return found[:NEAREST]
        most *= 10  # of a catalogue that grew since, the nearest may all be younger


def as_text(found: dict[str, Any]) -> str:
    """A timeline as people read it."""
    lines = [f"user {readable(found['user_id'], LONGEST)} over time, by publication {found['publication']}"]
    for point in found["points"]:
        if not point["n_interactions"] and point["last_event_ts"] is None:
            lines.append(f"  {point['as_of']}: no history yet")
            continue
        moved = point["moved"] and ", ".join(f"{name} {value:.6f}" for name, value in point["moved"].items())
        lines.append(
            f"  {point['as_of']}: {point['n_interactions']:,} interactions, the last event at {point['last_event_ts']}"
            + (f"; moved {moved}" if moved else "")
        )
        for name, titles in point["near"].items():
            part = f" ({point['shares'][name]:.0%})" if name in point["shares"] else ""
            shown = " | ".join(readable(title, LONGEST) for title in titles)
            lines.append(f"    {name.replace('_', ' ')}{part} near: {shown}")
    return "\n".join(lines)
