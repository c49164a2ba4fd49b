"""What a person wants to see of one user or one item: the facts, and the same as text."""

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


@lake.attached_once
def of_user(settings: Settings, user_id: str, publication: str | None = None, top: int = 10) -> dict[str, Any]:
    """A user's recent history, interests, and recommendations with their reasons.

    Returns:
        `user_id`, `publication`, `as_of`; `n_interactions` and `last_event_ts` (None without a history before T); `segment`
        (`{attribute: value or None}`, whose popularity is shown then; empty for everybody's); `recent` (`{event_ts,
        event_type, what}`, the newest first); `interests` (`{share, near}`, with titles of items); `lists` (by surface,
        `{item_id, title, score, parts, because}`, with what adds to the score by name, and titles of past items).

    Raises:
        BadInput: the publication does not know the user.
    """
    manifest = publications.named_or_serving(settings, publication)
    snapshot, as_of = manifest["lake_snapshot"], datetime.fromisoformat(manifest["as_of"])
    lists = lists_of(settings, manifest, user_id)
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
        vector = row_of(settings, manifest, VectorTable.USERS, user_id)
        near = {} if vector is None else _near_interests(settings, manifest, vector, NEAREST)
        title = behaviour.titles(connection, snapshot, as_of, sorted(named.union(*near.values())))
        names = manifest.get("segment_by", []) if vector is None else []
        segment = behaviour.segments_of_users(connection, snapshot, [user_id], names).get(user_id)
    listed = {surface: _listed(row, top, title) for surface, row in lists.items() if row is not None}
    # Of a segment that did nothing yet, everybody's popularity is shown.
    counts = any(Reason.SEGMENT in entry["parts"] for entries in listed.values() for entry in entries)
    shares = (vector or {}).get(INTEREST_SHARES, [])
    return {
        "user_id": user_id,
        "publication": manifest["id"],
        "as_of": manifest["as_of"],
        **{name: vector and vector[name] for name in ("n_interactions", "last_event_ts")},
        "segment": dict(zip(names, json.loads(segment), strict=True)) if segment is not None and counts else {},
        "recent": [
            {
                "event_ts": row["event_ts"],
                "event_type": row["event_type"],
                "what": title.get(row["item_id"], row["text"] or ""),
            }
            for row in recent
        ],
        "interests": [
            {"share": share, "near": [title[item] for item in items]}
            for share, items in zip(shares, near.values(), strict=False)
        ],
        "lists": listed,
    }


def _listed(row: dict[str, Any], top: int, title: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "item_id": item,
            "title": title[item],
            "score": score,
            "parts": {name: value for name, value in reasons.items() if name != "because" and value},
            "because": [title[entry["item_id"]] for entry in reasons["because"]],
        }
        for item, score, reasons in zip(row["items"][:top], row["scores"], row["reasons"], strict=False)
    ]


def user_as_text(found: dict[str, Any]) -> str:
    """What `of_user` found as people read it."""
    lines = [f"user {_shown(found['user_id'])} in publication {found['publication']} (as of {found['as_of']})"]
    if found["n_interactions"] is None:
        among = f" among users with {segment_in_words(found['segment'])}" if found["segment"] else ""
        lines.append(f"  no history before T: recent popularity{among} is shown")
    else:
        lines.append(f"  {found['n_interactions']} interactions, the last event at {found['last_event_ts']}")
    lines += [
        f"  {row['event_ts']:%Y-%m-%d %H:%M}  {row['event_type']:<9} {_shown(row['what'])}" for row in found["recent"]
    ]
    for interest in found["interests"]:
        near = " | ".join(map(_shown, interest["near"]))
        lines.append(f"  an interest, {interest['share']:.0%} of the history: near {near}")
    for surface, listed in found["lists"].items():
        lines.append(f"  {surface}:")
        for rank, entry in enumerate(listed, start=1):
            because = ", ".join(map(_shown, entry["because"]))
            lines.append(f"  {rank:>3}. {entry['score']:7.3f}  {_shown(entry['title'])}")
            lines.append(f"               {why(entry['parts'])}" + (f"; because of {because}" if because else ""))
    return "\n".join(lines)


def why(parts: dict[str, float]) -> str:
    """What adds to a score, in words."""
    if parts.get(Reason.EXPLORATION):
        return "a place kept for new items, drawn by nearness of text and by chance"
    return ", ".join(f"{name} {value:+.2f}" for name, value in parts.items())


def segment_in_words(segment: dict[str, str | None]) -> str:
    """A segment as people read it."""
    return ", ".join(
        f"{_shown(name)} {'unknown' if value is None else _shown(value)}" for name, value in segment.items()
    )


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


def _near_interests(
    settings: Settings, manifest: publications.Manifest, vector: dict[str, Any], most: int
) -> dict[str, list[str]]:
    """The items nearest by text to each of a user's several interests, by the name of its column."""

    def near(name: str) -> list[str]:
        return [item for item, _ in _nearest(settings, manifest, vector[name], most)]

    return {name: near(name) for name in interest_columns(vector) if any(vector[name])}


@lake.attached_once
def of_item(settings: Settings, item_id: str, publication: str | None = None, top: int = 10) -> dict[str, Any]:
    """An item's versions, its text's hash, and the items whose texts are nearest.

    Returns:
        `item_id`, `publication`, `as_of`, `versions` (`{version, valid_from, valid_to, title, categories}`, the oldest first),
        `text_hash` (None where it has no text) and `near` (`{item_id, title, cosine}`, the nearest first).

    Raises:
        BadInput: the publication does not know the item.
    """
    manifest = publications.named_or_serving(settings, publication)
    snapshot, as_of = manifest["lake_snapshot"], datetime.fromisoformat(manifest["as_of"])
    row = row_of(settings, manifest, VectorTable.ITEMS, item_id)
    if row is None:
        raise BadInput(f"item '{_shown(item_id)}' is not in publication {manifest['id']}")
    found = [] if row["text_hash"] is None else _nearest(settings, manifest, row["text"], top + 1)
    near = [(name, cosine) for name, cosine in found if name != item_id][:top]
    with lake.connect(settings) as connection:
        versions = behaviour.item_versions(connection, snapshot, item_id)
        title = behaviour.titles(connection, snapshot, as_of, [name for name, _ in near])
    return {
        "item_id": item_id,
        "publication": manifest["id"],
        "as_of": manifest["as_of"],
        "versions": versions,
        "text_hash": row["text_hash"],
        "near": [{"item_id": name, "title": title[name], "cosine": cosine} for name, cosine in near],
    }


def item_as_text(found: dict[str, Any]) -> str:
    """What `of_item` found as people read it."""
    lines = [f"item {_shown(found['item_id'])} in publication {found['publication']} (as of {found['as_of']})"]
    for version in found["versions"]:
        until, title = version["valid_to"] or "now", _shown(version["title"] or "(no title)")
        lines.append(f"  version {version['version']}: {version['valid_from']} to {until}: {title}")
        lines.append(f"    categories: {_shown(', '.join(version['categories'] or [])) or '(none)'}")
    if found["text_hash"] is None:
        lines.append("  no text: its text vector is zero, behaviour and popularity alone speak for it")
    else:
        lines.append(f"  text {found['text_hash']}; nearest by text:")
        lines += [f"    {entry['cosine']:.3f}  {_shown(entry['title'])}" for entry in found["near"]]
    return "\n".join(lines)


def _nearest(
    settings: Settings, manifest: publications.Manifest, vector: list[float], most: int
) -> list[tuple[str, float]]:
    """Items by text, with their cosines."""
    version = manifest["tables"][VectorTable.ITEMS]["version"]
    return vectors.nearest(settings, manifest["encoder_id"], VectorTable.ITEMS, version, "text", vector, most)


def row_of(settings: Settings, manifest: publications.Manifest, name: str, key: str) -> dict[str, Any] | None:
    """A row of one of a publication's tables; None where it has none of this key."""
    table = manifest["tables"][name]
    found = vectors.read(settings, manifest["encoder_id"], name, table["version"], keys=[key]).to_pylist()
    return found[0] if found else None


def lists_of(settings: Settings, manifest: publications.Manifest, user_id: str) -> dict[str, dict[str, Any] | None]:
    """A user's row of each surface's table, by surface; None where a surface has no list for the user."""
    return {
        surface: row_of(settings, manifest, VectorTable.recommendations(surface), user_id)
        for surface in publications.surfaces(manifest)
    }
