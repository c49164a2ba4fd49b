"""What a person wants to see of one user or one item, as text."""

from datetime import datetime
from typing import Any

from include.columns import VectorTable
from include.errors import BadInput
from include.readable import readable
from include.settings import Settings
from include.stores import behaviour, lake, publications, vectors

RECENT = 8
LONGEST = 120  # characters of a title or an id


def _manifest(settings: Settings, publication: str | None) -> publications.Manifest:
    return publications.manifest(settings, publication) if publication else publications.serving(settings)


def _shown(text: str) -> str:
    return readable(text, LONGEST)


def show_user(settings: Settings, user_id: str, publication: str | None = None, top: int = 10) -> str:
    """A user's recent history, interest vectors in figures, and recommendations with their reasons.

    Raises:
        BadInput: the publication does not know the user.
    """
    manifest = _manifest(settings, publication)
    snapshot, as_of = manifest["lake_snapshot"], datetime.fromisoformat(manifest["as_of"])
    lists = {
        name.removeprefix(VectorTable.recommendations("")): _row(settings, manifest, name, user_id)
        for name in sorted(manifest["tables"])
        if name.startswith(VectorTable.recommendations(""))
    }
    if not any(lists.values()):
        raise BadInput(f"user '{_shown(user_id)}' is not in publication {manifest['id']}")
    with lake.connect(settings) as connection:
        recent = behaviour.recent_events(connection, snapshot, as_of, user_id, RECENT)
        named = {row["item_id"] for row in recent if row["item_id"]}
        for row in lists.values():
            if row:
                named |= set(row["items"][:top]) | {b["item_id"] for r in row["reasons"][:top] for b in r["because"]}
        title = behaviour.titles(connection, snapshot, as_of, sorted(named))
    vector = _row(settings, manifest, VectorTable.USERS, user_id)
    lines = [f"user {_shown(user_id)} in publication {manifest['id']} (as of {manifest['as_of']})"]
    if vector is None:
        lines.append("  no history before T: recent popularity is shown")
    else:
        lines.append(f"  {vector['n_interactions']} interactions, the last event at {vector['last_event_ts']}")
    lines += [
        f"  {row['event_ts']:%Y-%m-%d %H:%M}  {row['event_type']:<9} {_shown(title.get(row['item_id'], row['text'] or ''))}"
        for row in recent
    ]
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


def _why(reasons: dict[str, Any], title: dict[str, str]) -> str:
    parts = [f"{name} {value:+.2f}" for name, value in reasons.items() if name != "because" and value]
    because = ", ".join(_shown(title[entry["item_id"]]) for entry in reasons["because"])
    return ", ".join(parts) + (f"; because of {because}" if because else "")


def show_item(settings: Settings, item_id: str, publication: str | None = None, top: int = 10) -> str:
    """An item's versions, its text's hash, and the items whose texts are nearest.

    Raises:
        BadInput: the publication does not know the item.
    """
    manifest = _manifest(settings, publication)
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
