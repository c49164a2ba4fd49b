"""What a person wants to see of one user or one item, as text."""

import json
from datetime import datetime
from typing import Any

from include.columns import INTEREST_SHARES, Reason, VectorTable, interest_columns
from include.errors import BadInput
from include.readable import readable
from include.settings import Settings
from include.stores import behaviour, lake, popularity, publications, vectors

RECENT = 8
NEAREST = 3  # items that say what an interest is
LONGEST = 120  # characters of a title or an id


def _shown(text: str) -> str:
    return readable(text, LONGEST)


def show_user(settings: Settings, user_id: str, publication: str | None = None, top: int = 10) -> str:
    """A user's recent history, interest vectors in figures, and recommendations with their reasons.

    Raises:
        BadInput: the publication does not know the user.
    """
    manifest = publications.named_or_serving(settings, publication)
    snapshot, as_of = manifest["lake_snapshot"], datetime.fromisoformat(manifest["as_of"])
    lists = {
        name.removeprefix(VectorTable.recommendations("")): _row(settings, manifest, name, user_id)
        for name in sorted(manifest["tables"])
        if name.startswith(VectorTable.recommendations(""))
    }
    if not any(lists.values()):
        raise BadInput(
            f"user '{_shown(user_id)}' is not in publication {manifest['id']}: to an unknown user show recent popularity, "
            f"which begins with {', '.join(map(_shown, _popular(settings, manifest, 3)))}"
        )
    with lake.connect(settings) as connection:
        recent = behaviour.recent_events(connection, snapshot, as_of, user_id, RECENT)
        named = {row["item_id"] for row in recent if row["item_id"]}
        for row in lists.values():
            if row:
                named |= set(row["items"][:top]) | {b["item_id"] for r in row["reasons"][:top] for b in r["because"]}
        vector = _row(settings, manifest, VectorTable.USERS, user_id)
        near = {} if vector is None else _near_interests(settings, manifest, vector, NEAREST)
        title = behaviour.titles(connection, snapshot, as_of, sorted(named.union(*near.values())))
    lines = [f"user {_shown(user_id)} in publication {manifest['id']} (as of {manifest['as_of']})"]
    if vector is None:
        names = manifest.get("segment_by", [])
        with lake.connect(settings) as connection:
            segment = behaviour.segments_of_users(connection, snapshot, [user_id], names).get(user_id)
        among = "" if segment is None else f" among users with {_segment(names, segment)}"
        lines.append(f"  no history before T: recent popularity{among} is shown")
    else:
        lines.append(f"  {vector['n_interactions']} interactions, the last event at {vector['last_event_ts']}")
    lines += [
        f"  {row['event_ts']:%Y-%m-%d %H:%M}  {row['event_type']:<9} {_shown(title.get(row['item_id'], row['text'] or ''))}"
        for row in recent
    ]
    for share, (_, items) in zip((vector or {}).get(INTEREST_SHARES, []), near.items(), strict=False):
        lines.append(f"  an interest, {share:.0%} of the history: near " + " | ".join(_shown(title[i]) for i in items))
    for surface, row in lists.items():
        if row is None:
            continue
        lines.append(f"  {surface}:")
        for rank, (item, score, reasons) in enumerate(
            zip(row["items"][:top], row["scores"], row["reasons"], strict=False), start=1
        ):
            lines.append(f"  {rank:>3}. {score:7.3f}  {_shown(title[item])}")
            lines.append(f"               {_why(reasons, title)}")
    return "\n".join(lines)


def _popular(settings: Settings, manifest: publications.Manifest, most: int) -> list[str]:
    """Titles of what was popular before the lists' T, by the half-life of the first surface, of what can be had."""
    lists = manifest["lists"]
    with lake.connect(settings) as connection:
        snapshot, as_of = manifest["lake_snapshot"], datetime.fromisoformat(manifest["as_of"])
        there = behaviour.available_items(connection, snapshot, as_of)
        half_life = settings.surfaces[0].popularity_half_life_days
        moment = (lists["lake_snapshot"], datetime.fromisoformat(lists["as_of"]))
        counts = popularity.counts(settings, connection, *moment, half_life)
        best = sorted(counts.keys() & there, key=lambda item: (-counts[item], item))[:most]
        title = behaviour.titles(connection, snapshot, as_of, best)
    return [title[item] for item in best]


def _segment(names: list[str], segment: str) -> str:
    """A segment as people read it."""
    values = zip(names, json.loads(segment), strict=True)
    return ", ".join(f"{_shown(name)} {'unknown' if value is None else _shown(value)}" for name, value in values)


def _near_interests(
    settings: Settings, manifest: publications.Manifest, vector: dict[str, Any], most: int
) -> dict[str, list[str]]:
    """The items nearest by text to each of a user's several interests, by the name of its column."""
    version = manifest["tables"][VectorTable.ITEMS]["version"]

    def near(name: str) -> list[str]:
        found = vectors.nearest(
            settings, manifest["encoder_id"], VectorTable.ITEMS, version, "text", vector[name], most
        )
        return [item for item, _ in found]

    return {name: near(name) for name in interest_columns(vector) if any(vector[name])}


def _why(reasons: dict[str, Any], title: dict[str, str]) -> str:
    parts = [f"{name} {value:+.2f}" for name, value in reasons.items() if name != "because" and value]
    if reasons.get(Reason.EXPLORATION):
        parts = ["a place kept for new items, drawn by nearness of text and by chance"]
    because = ", ".join(_shown(title[entry["item_id"]]) for entry in reasons["because"])
    return ", ".join(parts) + (f"; because of {because}" if because else "")


def show_item(settings: Settings, item_id: str, publication: str | None = None, top: int = 10) -> str:
    """An item's versions, its text's hash, and the items whose texts are nearest.

    Raises:
        BadInput: the publication does not know the item.
    """
    manifest = publications.named_or_serving(settings, publication)
    snapshot, as_of = manifest["lake_snapshot"], datetime.fromisoformat(manifest["as_of"])
    row = _row(settings, manifest, VectorTable.ITEMS, item_id)
    if row is None:
        raise BadInput(f"item '{_shown(item_id)}' is not in publication {manifest['id']}")
    lines = [f"item {_shown(item_id)} in publication {manifest['id']} (as of {manifest['as_of']})"]
    with lake.connect(settings) as connection:
        for version in behaviour.item_versions(connection, snapshot, item_id):
            until = version["valid_to"] or "now"
            lines.append(
                f"  version {version['version']}: {version['valid_from']} to {until}: {_shown(version['title'] or '(no title)')}"
            )
            lines.append(f"    categories: {_shown(', '.join(version['categories'] or [])) or '(none)'}")
        if row["text_hash"] is None:
            lines.append("  no text: its text vector is zero, behaviour and popularity alone speak for it")
        else:
            near = [
                (name, score)
                for name, score in vectors.nearest(
                    settings,
                    manifest["encoder_id"],
                    VectorTable.ITEMS,
                    manifest["tables"][VectorTable.ITEMS]["version"],
                    "text",
                    row["text"],
                    top + 1,
                )
                if name != item_id
            ][:top]
            title = behaviour.titles(connection, snapshot, as_of, [name for name, _ in near])
            lines.append(f"  text {row['text_hash']}; nearest by text:")
            lines += [f"    {score:.3f}  {_shown(title[name])}" for name, score in near]
    return "\n".join(lines)


def _row(settings: Settings, manifest: publications.Manifest, name: str, key: str) -> dict[str, Any] | None:
    table = manifest["tables"][name]
    found = vectors.read(settings, manifest["encoder_id"], name, table["version"], keys=[key]).to_pylist()
    return found[0] if found else None
