"""What differs between two publications: whose interests moved, which lists changed, what they were made of."""

import io
from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from include.columns import USER_VECTORS, Artefact, VectorTable
from include.models.comparison import first_codes, movement, quantiles, shared
from include.readable import readable
from include.settings import Settings
from include.stores import behaviour, lake, publications, vectors

TOP = 10
"""How many items of a list people look at."""
LONGEST = 60  # characters of an id or a title in a table
Manifest = publications.Manifest


def compare(settings: Settings, before: str, after: str, top: int = 10) -> dict[str, Any]:
    """Compare two publications.

    Args:
        settings: all settings.
        before: id of one.
        after: id of the other.
        top: how many users and items to name.

    Returns:
        `before`, `after`; `made_of` and `counts` (what differs, as `{name: [before, after]}`); `gates` (those that differ,
        likewise); `users` (see `users_moved`); `lists` (by surface, see `lists_changed`, and `items`).

    Raises:
        BadInput: there is no such publication.
    """
    one, other = publications.manifest(settings, before), publications.manifest(settings, after)
    lists = {}
    for surface, found in lists_changed(settings, one, other).items():
        lists[surface] = found | (
            {"items": _items(settings, one, other, surface, top)} if "refused" not in found else {}
        )
    return {
        "before": one["id"],
        "after": other["id"],
        "made_of": _different(_made_of(one), _made_of(other)),
        "counts": _different(_counts(one), _counts(other)),
        "gates": _different(_gates(one), _gates(other)),
        "users": users_moved(settings, one, other, top),
        "lists": lists,
    }


def _made_of(manifest: Manifest) -> dict[str, Any]:
    names = ("as_of", "lake_snapshot", "encoder_id", "settings_hash", "code_version")
    lists = {f"lists {name}": manifest["lists"][name] for name in ("as_of", "lake_snapshot")}
    return {**{name: manifest[name] for name in names}, **manifest["artefacts"], **lists}


def _counts(manifest: Manifest) -> dict[str, int]:
    found: dict[str, int] = {}
    for table, rows in manifest["rows"].items():
        for name, value in rows.items():
            if isinstance(value, dict):
                found |= {f"{table} {name}: {reason}": n for reason, n in value.items()}
            else:
                found[f"{table} {name}"] = value
    found |= {f"users {name}": manifest["run"]["users"][name] for name in ("total", "with_history")}
    return found | {"items total": manifest["run"]["items"]["total"]}


def _gates(manifest: Manifest) -> dict[str, str]:
    return {
        gate["name"]: "passed" if gate["passed"] else f"failed {len(gate['failed'])} of {gate['expectations']}"
        for gate in manifest["gates"]
    }


def _different(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    names = [*before, *(name for name in after if name not in before)]
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}


def _version(manifest: Manifest, name: str) -> vectors.Version:
    return manifest["encoder_id"], manifest["tables"][name]["version"]


def comparable(before: Manifest, after: Manifest) -> tuple[list[str], dict[str, str]]:
    """Which vectors of users are of one space in two publications, and why the others cannot be compared, by name."""
    if before["encoder_id"] != after["encoder_id"]:
        why = f"vectors of encoder {before['encoder_id']} and of encoder {after['encoder_id']} cannot be compared"
        return [], dict.fromkeys(USER_VECTORS, why)
    factors = [manifest["artefacts"][Artefact.ITEM_FACTORS] for manifest in (before, after)]
    if factors[0] == factors[1]:
        return list(USER_VECTORS), {}
    why = f"vectors of {factors[0]} and of {factors[1]} cannot be compared"
    return [name for name in USER_VECTORS if name != "behaviour"], {"behaviour": why}


def users_moved(settings: Settings, before: Manifest, after: Manifest, top: int) -> dict[str, Any]:
    """Whose interest vectors moved between two publications, and how far (one minus the cosine).

    Returns:
        `came` and `went` (numbers of users with a history), `moved` (number of others whose vectors differ), `quantiles`
        (for each vector, of those who moved) and `most` (`{user_id, long, short, behaviour}`, the furthest first). `refused`
        names what cannot be compared and why: vectors of two encoders, or behaviour vectors of two trainings.
    """
    names, refused = comparable(before, after)
    if not names:
        return {"refused": refused}
    versions = _version(before, VectorTable.USERS), _version(after, VectorTable.USERS)
    came, went, rewritten = vectors.differing(settings, VectorTable.USERS, *versions)
    ids: list[str] = []
    found = [np.zeros((0, len(names)))]
    for one, other in vectors.pairs(settings, VectorTable.USERS, *versions, rewritten, names):
        far = np.stack(
            [movement(vectors.vector_array(one[name]), vectors.vector_array(other[name])) for name in names], 1
        )
        moved = np.flatnonzero(far.any(axis=1))
        ids += one["user_id"].take(pa.array(moved)).to_pylist()
        found.append(far[moved])
    far = np.concatenate(found)
    order = np.argsort(-far.max(axis=1, initial=0.0), kind="stable")[:top]
    return {
        "came": len(came),
        "went": len(went),
        "moved": len(ids),
        "quantiles": {name: quantiles(far[:, column]) for column, name in enumerate(names)},
        "most": [
            {"user_id": ids[row], **{name: round(float(far[row, column]), 6) for column, name in enumerate(names)}}
            for row in order
        ],
        "refused": refused,
    }


def lists_changed(settings: Settings, before: Manifest, after: Manifest) -> dict[str, dict[str, Any]]:
    """For each surface whose top 10 changed.

    Returns:
        `{surface: {"came", "went", "changed", "kept"}}`: numbers of users who have a list in one only, and of those whose first
        ten items differ in which they are or in their order; the share of these items that stayed in, on the average of the
        lists that changed (1 where none did). `refused` and why where one publication has no such surface.
    """
    found: dict[str, dict[str, Any]] = {}
    for surface in sorted({*publications.surfaces(before), *publications.surfaces(after)}):
        name = VectorTable.recommendations(surface)
        lacking = [manifest.get("id", "to be made") for manifest in (before, after) if name not in manifest["tables"]]
        if lacking:
            found[surface] = {"refused": f"publication {lacking[0]} has no such surface"}
            continue
        versions = _version(before, name), _version(after, name)
        came, went, rewritten = vectors.differing(settings, name, *versions)
        kept: list[NDArray[np.float64]] = []
        for one, other in vectors.pairs(settings, name, *versions, rewritten, ["items"]):
            a, b = _first_items(one, other)
            changed = (a != b).any(axis=1)
            kept.append(shared(a[changed], b[changed]))
        share = np.concatenate([*kept, np.zeros(0)])
        found[surface] = {
            "came": len(came),
            "went": len(went),
            "changed": len(share),
            "kept": round(float(share.mean()), 4) if len(share) else 1.0,
        }
    return found


def _first_items(*sides: pa.Table) -> list[NDArray[np.int64]]:
    """The beginnings of both sides' lists, (n, TOP) each, with the same number for the same item."""
    columns = [side["items"].combine_chunks() for side in sides]
    flat = pa.chunked_array([column.flatten() for column in columns], pa.string()).combine_chunks()
    codes = np.asarray(flat.dictionary_encode().indices, dtype=np.int64)
    lengths = [np.asarray(column.value_lengths(), dtype=np.int64) for column in columns]
    cuts = np.split(codes, [int(lengths[0].sum())])
    return [first_codes(part, length, TOP) for part, length in zip(cuts, lengths, strict=True)]


def _items(settings: Settings, before: Manifest, after: Manifest, surface: str, top: int) -> dict[str, Any]:
    """Which items are in more or fewer top-10 lists than before; `entered` and `left` count those that were or are in none."""
    name = VectorTable.recommendations(surface)
    if _version(before, name) == _version(after, name):
        return {"entered": 0, "left": 0, "most": []}
    old, new = (_listed(settings, manifest, name) for manifest in (before, after))
    changes = {item: new[item] - old[item] for item in old.keys() | new.keys() if new[item] != old[item]}
    chosen = sorted(changes, key=lambda item: (-abs(changes[item]), item))[:top]
    with lake.connect(settings) as connection:
        known = behaviour.has_snapshot(connection, after["lake_snapshot"])
        as_of = datetime.fromisoformat(after["as_of"])
        title = behaviour.titles(connection, after["lake_snapshot"], as_of, chosen) if known else {}
    return {
        "entered": len(new.keys() - old.keys()),
        "left": len(old.keys() - new.keys()),
        "most": [
            {"item_id": item, "title": title.get(item, item), "before": old[item], "after": new[item]}
            for item in chosen
        ],
    }


def _listed(settings: Settings, manifest: Manifest, name: str) -> Counter[str]:
    """In how many top-10 lists each item is."""
    found: Counter[str] = Counter()
    encoder_id, version = _version(manifest, name)
    for batch in vectors.batches(settings, encoder_id, name, version, ["items"]):
        for each in pc.value_counts(pc.list_flatten(pc.list_slice(batch["items"], 0, TOP))).to_pylist():
            found[each["values"]] += each["counts"]
    return found


def as_text(found: dict[str, Any]) -> str:
    """A comparison as people read it."""
    page = io.StringIO()
    out = Console(file=page, width=160, markup=False, highlight=False, emoji=False)
    out.print(f"before: {found['before']}\nafter:  {found['after']}")
    for title, group in (("made of", "made_of"), ("counts", "counts"), ("gates", "gates")):
        if found[group]:
            _table(out, [title, "before", "after"], [[name, *pair] for name, pair in found[group].items()])
        else:
            out.print(f"{title}: the same")
    users = found["users"]
    for name, why in users["refused"].items():
        out.print(f"{name} interest: {why}")
    if "moved" in users:
        out.print(
            f"users: {users['came']:,} came, {users['went']:,} went, the interests of {users['moved']:,} others moved"
        )
        names = list(users["quantiles"])
        if users["most"]:
            _table(
                out,
                ["moved most (1 - cosine)", *names],
                [[row["user_id"], *(f"{row[n]:.6f}" for n in names)] for row in users["most"]],
            )
    for surface, lists in found["lists"].items():
        if "refused" in lists:
            out.print(f"{surface}: {lists['refused']}")
            continue
        items = lists["items"]
        out.print(
            f"{surface}: {lists['changed']:,} top-{TOP} lists changed and kept {lists['kept']:.0%} of their items, {lists['came']:,} came, {lists['went']:,} went; "
            f"{items['entered']:,} items entered, {items['left']:,} left"
        )
        if items["most"]:
            _table(
                out,
                ["item", "title", "lists before", "lists after"],
                [[row["item_id"], row["title"], row["before"], row["after"]] for row in items["most"]],
            )
    return page.getvalue().rstrip("\n")


def _table(out: Console, heads: list[str], rows: list[list[Any]]) -> None:
    table = Table(*heads)
    for row in rows:
        table.add_row(*("" if value is None else readable(str(value), LONGEST) for value in row))
    out.print(table)
