"""Publications: one manifest each, and the pointer to the one that serves.

A run works on a candidate, a folder that nobody reads. When all its gates passed, its manifest is written under the
publication's id; then one atomic replacement of `serving.json` makes it serve.

Publications that follow one another are a line, which its manifests name (`line`; a home's first has no name). A challenger
begins a line of its own, beside the one that serves. Runs build on the newest of the line that serves, and so keep to its
encoder and its artefacts. Only an approval or a rollback lets another line serve.
"""

import contextlib
import hashlib
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from include.columns import VectorTable
from include.errors import BadInput
from include.settings import Settings
from include.stores import files, lake

Manifest = dict[str, Any]
AT_ONCE = 16
"""Manifests that are asked of an object store side by side."""


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8")))


# Candidates


def candidate_folder(settings: Settings, candidate: str) -> Path:
    """Where a candidate's files are."""
    return settings.publications / "candidates" / candidate


def new_name() -> str:
    """A name that nothing else has."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S") + "-" + uuid.uuid4().hex[:8]


def new_candidate(
    settings: Settings,
    content: dict[str, Any],
    touched: dict[str, list[str]],
    *,
    relisted: list[str] | None,
    texts: pa.Table,
) -> str:
    """Write down what a run is about to do, and return the candidate's id.

    Args:
        settings: where publications are kept.
        content: the plan (as of, snapshot, base, artefacts, …).
        touched: ids of touched users and items; empty where everything is computed anew.
        relisted: whose lists are written; None stands for everyone.
        texts: `text_hash, text, kind` of the texts to embed.
    """
    candidate = new_name()
    folder = candidate_folder(settings, candidate)
    files.write_json(folder / "touched.json", touched)
    files.write_json(folder / "relisted.json", {"users": relisted})
    files.write_table(folder / "texts.arrow", texts)
    files.write_json(folder / "candidate.json", content)
    return candidate


def candidate(settings: Settings, name: str) -> dict[str, Any]:
    """A candidate's state.

    Raises:
        BadInput: there is no such candidate (it was published or discarded).
    """
    file = candidate_folder(settings, name) / "candidate.json"
    if not file.exists():
        raise BadInput(f"candidate {name} is gone: it was published or discarded; start again from the plan")
    return _read(file)


def planned(settings: Settings, name: str) -> dict[str, Any]:
    """The state of a candidate that a step goes on with.

    Raises:
        BadInput: there is no such candidate, or it was planned with other settings, and with these would be of neither.
    """
    state = candidate(settings, name)
    now = settings.with_encoder(state.get("encoder")).hash
    if state["settings_hash"] != now:
        raise BadInput(
            f"candidate {name} was planned with other settings (hash {state['settings_hash']}; now {now}): set back what changed, "
            "or start again from the plan"
        )
    return state


def touched(settings: Settings, name: str) -> dict[str, list[str]]:
    """Ids of the users and items that a candidate touches."""
    return _read(candidate_folder(settings, name) / "touched.json")


def texts(settings: Settings, name: str) -> pa.Table:
    """The texts that a candidate embeds: `text_hash, text, kind`."""
    return files.read_table(candidate_folder(settings, name) / "texts.arrow")


def relisted(settings: Settings, name: str) -> list[str] | None:
    """Whose lists a candidate writes: None stands for everyone."""
    users: list[str] | None = _read(candidate_folder(settings, name) / "relisted.json")["users"]
    return users


def relist(settings: Settings, name: str, users: list[str]) -> None:
    """Say anew whose lists a candidate writes."""
    files.write_json(candidate_folder(settings, name) / "relisted.json", {"users": users})


def extend_candidate(settings: Settings, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Add to a candidate's state, groups within it merged, and return it whole."""
    state = candidate(settings, name)
    for key, value in changes.items():
        state[key] = {**state[key], **value} if isinstance(value, dict) and isinstance(state.get(key), dict) else value
    files.write_json(candidate_folder(settings, name) / "candidate.json", state)
    return state


def add_gate(settings: Settings, name: str, result: dict[str, Any]) -> None:
    """Note a gate's result in a candidate; judged again, the newer result stands."""
    others = [gate for gate in candidate(settings, name)["gates"] if gate["name"] != result["name"]]
    extend_candidate(settings, name, {"gates": [*others, result]})


def candidates(settings: Settings) -> list[tuple[str, dict[str, Any], datetime]]:
    """Every candidate: its id, its state and when it last got on. Of one that was killed at its start the state is empty."""
    found = []
    for folder in sorted((settings.publications / "candidates").glob("[0-9]*")):
        file = folder / "candidate.json"
        with contextlib.suppress(FileNotFoundError):  # published or discarded meanwhile
            state = _read(file) if file.exists() else {}
            # A step that takes long writes its parts, and the state only at its end.
            last = files.last_written(folder)
            if last is not None:
                found.append((folder.name, state, datetime.fromtimestamp(last, UTC)))
    return found


def is_under_way(settings: Settings, name: str) -> bool:
    """Whether a candidate is there: it goes when its publication is switched to, or when it is given up."""
    return (candidate_folder(settings, name) / "candidate.json").exists()


def discard_candidate(settings: Settings, name: str) -> None:
    """Forget a candidate; what it wrote into tables is never read and is overwritten by the next run."""
    # This file says that there is a candidate, so it goes first.
    (candidate_folder(settings, name) / "candidate.json").unlink(missing_ok=True)
    files.remove_folder(candidate_folder(settings, name))


# Manifests


def _manifest_file(settings: Settings, name: str) -> Path:
    return settings.publications / name / "manifest.json"


def manifest(settings: Settings, name: str) -> Manifest:
    """The manifest of a publication.

    Raises:
        BadInput: there is no such publication.
    """
    if Path(name).name != name or not _manifest_file(settings, name).exists():
        raise BadInput(f"there is no publication {name!r}: `python -m include publications list` names them")
    return _read(_manifest_file(settings, name))


def manifests(settings: Settings) -> list[Manifest]:
    """All publications, the oldest first by when they were made."""

    def read(file: Path) -> Manifest | None:
        with contextlib.suppress(FileNotFoundError):  # given up meanwhile
            return _read(file)
        return None

    # An object store takes as long for one as for many at once, and a home that is updated each hour has hundreds.
    with ThreadPoolExecutor(AT_ONCE if files.is_remote(settings.publications) else 1) as pool:
        found = [entry for entry in pool.map(read, settings.publications.glob("[0-9]*/manifest.json")) if entry]
    return sorted(found, key=lambda entry: (entry["made_at"], entry["id"]))


def listed(settings: Settings, last: int | None = None) -> list[dict[str, Any]]:
    """A row for each publication, or for the last ones, the oldest first: whether it serves, is kept or waits, what its run did."""
    serves, lines = serving_id(settings), waiting(settings)
    entries = manifests(settings)
    return [
        {
            "id": entry["id"],
            "as_of": entry["as_of"],
            "kind": entry["kind"],
            "made_at": entry["made_at"],
            "serving": entry["id"] == serves,
            "kept": kept(settings, entry["id"]),
            "shadow": line_of(entry) in lines,
            "encoder_id": entry["encoder_id"],
            "users_touched": entry["run"]["users"]["touched"],
            "texts_embedded": entry["run"]["texts"]["embedded"],
        }
        for entry in (entries if last is None else entries[-last:])
    ]


def identity(state: dict[str, Any]) -> str:
    """Name a publication by (T, S, A): as of, lake snapshot, and what else its content follows from."""
    as_of = datetime.fromisoformat(state["as_of"]).strftime("%Y%m%dT%H%M%SZ")
    rest = {key: state[key] for key in ("encoder_id", "artefacts", "settings_hash", "code_version")}
    rest["lists"] = {key: state["lists"][key] for key in ("as_of", "lake_snapshot")}
    return (
        f"{as_of}-s{state['lake_snapshot']}-{hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8]}"
    )


def of_candidate(settings: Settings, name: str) -> Manifest | None:
    """The publication that a candidate became, if it was published and its switch was done."""
    found = [entry for entry in manifests(settings) if entry["candidate"] == name]
    return found[0] if found and not is_under_way(settings, name) else None


def add(settings: Settings, content: Manifest) -> Manifest:
    """Write a manifest under its id; the same state published again gets a numbered id of its own."""
    base = identity(content)
    name, number = base, 1
    while _manifest_file(settings, name).exists():
        if _read(_manifest_file(settings, name))["candidate"] == content["candidate"]:
            return _read(_manifest_file(settings, name))
        number += 1
        name = f"{base}-{number}"
    entry = {"id": name, "made_at": datetime.now(UTC).isoformat(), **content}
    files.write_json(_manifest_file(settings, name), entry)
    return entry


def move_tables(settings: Settings, name: str, versions: dict[str, int]) -> None:
    """Let a manifest name other versions of its tables, with the same rows in them, in one atomic step."""
    content = manifest(settings, name)
    items = content["tables"][VectorTable.ITEMS]["version"]
    if content["lists"]["item_vectors"] == items:
        content["lists"]["item_vectors"] = versions.get(VectorTable.ITEMS, items)
    for table, version in versions.items():
        content["tables"][table]["version"] = version
    files.write_json(_manifest_file(settings, name), content)


def move_lake(settings: Settings, name: str, snapshot: int) -> None:
    """Let a manifest name another lake snapshot with the same rows, for itself and its lists, in one atomic step."""
    content = manifest(settings, name)
    content["lake_snapshot"] = content["lists"]["lake_snapshot"] = snapshot
    files.write_json(_manifest_file(settings, name), content)


def without_user(content: Manifest, user: str) -> Manifest:
    """A manifest without a user in what it reports, and without the examples of rows in its gates."""
    left = {**content, "gates": [lake.without_examples(gate) for gate in content["gates"]]}
    report = content["run"].get("report")
    if report is not None:
        users = {**report["users"], "ids": [each for each in report["users"]["ids"] if each != user]}
        most = [row for row in report["moved"].get("most", []) if row["user_id"] != user]
        report = {**report, "users": users, "moved": {**report["moved"], "most": most}}
        left["run"] = {**content["run"], "report": report}
    return left


def leave_out(settings: Settings, name: str, user: str) -> Manifest:
    """Take a user out of a manifest; returns it."""
    content = without_user(manifest(settings, name), user)
    files.write_json(_manifest_file(settings, name), content)
    return content


def _kept_file(settings: Settings, name: str) -> Path:
    return settings.publications / name / "kept.json"


def kept(settings: Settings, name: str) -> bool:
    """Whether somebody asked for a publication to be kept."""
    return _kept_file(settings, name).exists()


def keep(settings: Settings, name: str) -> None:
    """Let no retention take a publication away."""
    manifest(settings, name)
    files.write_json(_kept_file(settings, name), {"at": datetime.now(UTC).isoformat()})


def unkeep(settings: Settings, name: str) -> None:
    """Let retention decide about a publication again."""
    manifest(settings, name)
    _kept_file(settings, name).unlink(missing_ok=True)


def remove(settings: Settings, name: str) -> None:
    """Forget a publication; from the first step on nobody sees it any more."""
    _manifest_file(settings, name).unlink(missing_ok=True)
    files.remove_folder(settings.publications / name)


# The pointer


def _pointer(settings: Settings) -> dict[str, Any]:
    file = settings.publications / "serving.json"
    return _read(file) if file.exists() else {"id": None, "pinned": False, "changes": []}


def serving_id(settings: Settings) -> str | None:
    """Id of the publication that serves, or None before the first."""
    name = _pointer(settings)["id"]
    return None if name is None else str(name)


def pinned(settings: Settings) -> bool:
    """Whether a rollback holds serving where it is."""
    return bool(_pointer(settings)["pinned"])


def changes(settings: Settings) -> list[dict[str, Any]]:
    """Every switch of the pointer: at, to, from, why."""
    return list(_pointer(settings)["changes"])


def served_at(settings: Settings, moment: datetime) -> str | None:
    """Id of the publication that served at a moment of the clock, whether it is still there or not."""
    earlier = [change["to"] for change in changes(settings) if datetime.fromisoformat(change["at"]) <= moment]
    return earlier[-1] if earlier else None


def served_before(settings: Settings) -> str | None:
    """Id of the publication that served before the one that serves now first did, of those that are still there.

    So one rollback after another goes further back, and not to what the last one took out of use.
    """
    pointer = _pointer(settings)
    served = [change["to"] for change in pointer["changes"]]
    earlier = served[: served.index(pointer["id"])] if served else []
    return next((name for name in reversed(earlier) if name and _manifest_file(settings, name).exists()), None)


def serving(settings: Settings) -> Manifest:
    """The manifest that serves.

    Raises:
        BadInput: nothing serves yet.
    """
    name = serving_id(settings)
    if name is None:
        raise BadInput(f"nothing is published in {settings.home} yet: land a file and run `python -m include run`")
    return manifest(settings, name)


def named_or_serving(settings: Settings, name: str | None) -> Manifest:
    """The manifest of a publication; None: of the one that serves."""
    return manifest(settings, name) if name else serving(settings)


def encoder(settings: Settings) -> dict[str, Any] | None:
    """What names the encoder that serves; None where nothing serves, or what serves was made by an earlier Tidemark."""
    found = _pointer(settings)
    return None if found["id"] is None else found.get("encoders", {}).get(manifest(settings, found["id"])["encoder_id"])


def encoders_of_the_past(settings: Settings) -> list[dict[str, Any]]:
    """What names each encoder that serves or ever served."""
    return list(_pointer(settings).get("encoders", {}).values())


def line_of(entry: Manifest) -> str | None:
    """The line of a publication."""
    name = entry.get("line")
    return None if name is None else str(name)


def surfaces(entry: Manifest) -> list[str]:
    """The surfaces that a publication has lists of, by name."""
    prefix = VectorTable.recommendations("")
    return sorted(name.removeprefix(prefix) for name in entry["tables"] if name.startswith(prefix))


def serving_line(settings: Settings) -> str | None:
    """The line of the publication that serves; the first line where nothing does."""
    name = serving_id(settings)
    return None if name is None else line_of(manifest(settings, name))


def newest(settings: Settings) -> Manifest | None:
    """What the next update builds on: the newest of the line that serves."""
    return newest_of(settings, serving_line(settings))


def knows(entry: Manifest) -> tuple[datetime, int]:
    """T and the lake snapshot."""
    return datetime.fromisoformat(entry["as_of"]), int(entry["lake_snapshot"])


def age(entry: Manifest) -> tuple[tuple[datetime, int], tuple[datetime, int]]:
    """What a publication knows, then what its lists know: of two of a line, the greater one is not to give way."""
    return knows(entry), knows(entry["lists"])


def order(entry: Manifest) -> tuple[Any, str]:
    """By age, then by when they were made: the greatest of a line is its newest."""
    return age(entry), entry["made_at"]


def newest_of(settings: Settings, line: str | None) -> Manifest | None:
    """The newest of a line: the publication that was made last among those that know most."""
    return max((entry for entry in manifests(settings) if line_of(entry) == line), key=order, default=None)


def serve(settings: Settings, name: str, why: str, *, pin: bool) -> dict[str, Any]:
    """Let a publication serve, in one atomic step, and record it."""
    entry = manifest(settings, name)
    before = _pointer(settings)
    change = {"at": datetime.now(UTC).isoformat(), "from": before["id"], "to": name, "why": why, "line": line_of(entry)}
    encoders = dict(before.get("encoders", {}))
    # What it takes the place of may be of an earlier Tidemark, whose manifests do not name their encoder.
    for made_with in (entry.get("challenger"), entry):
        if made_with is not None and "encoder" in made_with:
            encoders[made_with["encoder_id"]] = made_with["encoder"]
    content = {"id": name, "pinned": pin, "encoders": encoders, "changes": [*before["changes"], change]}
    files.write_json(settings.publications / "serving.json", content)
    return change


def because(what: str, reason: str | None) -> str:
    """What a record says of a decision: what was done, and why, where somebody said so."""
    said = (reason or "").strip()
    return f"{what}: {said}" if said else what


def unpin(settings: Settings) -> None:
    """Let the next publication serve again after a rollback; nothing to do where none holds serving where it is."""
    before = _pointer(settings)
    if not before["pinned"]:
        return
    change = {"at": datetime.now(UTC).isoformat(), "from": before["id"], "to": before["id"], "why": "unpinned"}
    files.write_json(
        settings.publications / "serving.json", {**before, "pinned": False, "changes": [*before["changes"], change]}
    )


# Challengers


def _rejection_file(settings: Settings, line: str) -> Path:
    return settings.publications / "rejections" / f"{line}.json"


def reject(settings: Settings, line: str, why: str) -> dict[str, Any]:
    """Record that a line is not to serve."""
    record = {"at": datetime.now(UTC).isoformat(), "line": line, "why": why}
    files.write_json(_rejection_file(settings, line), record)
    return record


def rejection(settings: Settings, line: str) -> dict[str, Any] | None:
    """The record of a line's rejection, if it was rejected."""
    file = _rejection_file(settings, line)
    return _read(file) if file.exists() else None


def served(settings: Settings, line: str) -> bool:
    """Whether a line serves or ever served, so whether it was approved."""
    return any(change.get("line") == line for change in changes(settings))


def waiting(settings: Settings) -> set[str]:
    """The lines that were neither approved nor rejected yet."""
    approved = {change.get("line") for change in changes(settings)}
    lines = {line for line in map(line_of, manifests(settings)) if line is not None}
    return {line for line in lines - approved if rejection(settings, line) is None}


def shadows(settings: Settings) -> list[str]:
    """Ids of the challengers' publications that wait: of each line the newest."""
    found = (newest_of(settings, line) for line in sorted(waiting(settings)))
    return [entry["id"] for entry in found if entry is not None]
