"""Erase a user, whose rows are out of the landed files, from all else that the home keeps; prove it, and record it.

A command and no DAG: what triggers a DAG run is kept in Airflow's database (docs/adr/0021-erasing-a-user.md).
"""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from include.errors import BadInput, TidemarkError
from include.models import encoder
from include.models.texts import item_text_hashes, text_hash
from include.readable import some
from include.settings import Settings
from include.steps.clean import said_of_vanished
from include.steps.gate_lake import judge_newest
from include.steps.prune import Plan, grace, let_go
from include.steps.report import write_page
from include.stores import (
    batches,
    behaviour,
    erasures,
    files,
    lake,
    landing,
    maintenance,
    pages,
    publications,
    traces,
    vectors,
)
from include.stores.lock import writing
from include.stores.traces import Trace, Wanted

log = logging.getLogger(__name__)

NOW = timedelta(0)
SHOWN = 10
"""Files, and rows of a file, that a message names."""
FOLLOW = "`python -m include clean`, then `python -m include recommend`"
OUT_OF_REACH = "backups, exports and reports outside the home, earlier copies of its disk, and the files that the user's rows were landed from"


def forget(
    settings: Settings,
    user: str,
    *,
    reference: str | None = None,
    also_kept: bool = False,
    exact: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Erase a user: let go of every publication but the newest, and of all that only the others needed, at once.

    May die anywhere, and may be run again: what was left to do is done then.

    Args:
        settings: all settings.
        user: the user's id.
        reference: what the record is to say, such as the number of a request.
        also_kept: let go of publications that somebody keeps, too.
        exact: look for the id in columns of user ids alone, as for a short one: it is an ordinary word or number.
        dry_run: only say what refuses, what would go, and what names the user.

    Returns:
        `publication` (what is left), counts of what went, `named` (places that named the user before), `scanned` (files in which
        nothing names the user now), `looked_at` and `out_of_reach`. Of a dry run `refused`, `publications`, `kept`, and `named_in`.

    Raises:
        BadInput: something is to be done first; nothing was changed.
        TidemarkError: something names the user still: it says what.
    """
    if not user.strip():
        raise BadInput("say whom to forget: the id is empty")
    _refuse_a_cluster(settings)
    wanted = Wanted.of(user, exact)
    if not wanted.exact and wanted.is_in(reference or ""):
        raise BadInput(
            "--reference names the user, and the record of an erasure does not: give the number of a request, or the like"
        )
    started = datetime.now(UTC)
    with writing(settings):
        if dry_run:
            return _foretell(settings, wanted, also_kept)
        for refusal in _refusals(settings, wanted, also_kept=also_kept):
            raise BadInput(refusal)
        named, _ = traces.scan(wanted, traces.everywhere(settings))
        everything, against = _decide(settings, wanted, named)
        # To look into a large home takes minutes.
        for refusal in (*against, *_runs(settings, publications.newest(settings))):
            raise BadInput(refusal)
        if everything:
            if not named:
                log.warning(
                    "nothing in the home names this user, but an erasure was killed: it is finished now, and takes every publication but "
                    "the newest"
                )
            erasures.begin(settings)
        else:
            log.warning(
                "no row of the home is of this user: is the id spelled as it was landed? Publications stay; vectors of texts that nobody "
                "has go, as nothing says whose they were"
            )
        done = _erase(settings, wanted, started, everything=everything)
        left, scanned = traces.scan(wanted, traces.everywhere(settings))
        if texts := _texts_left(settings, publications.newest(settings)):
            raise TidemarkError(
                f"{settings.text_vectors} still has vectors of {texts} texts that nobody has any more, which may be this user's: run this again"
            )
        if left:
            if not any(_goes(settings, wanted, trace, everything=True) for trace in left):
                erasures.end(settings)  # what is left is not for the next one to do, whoever that is of
            raise TidemarkError(
                f"{len(left)} files still name this user: {some(_shown(settings, left), SHOWN)}. Tidemark does not know them, or does not "
                f"own them: delete them or what they say, and run this again{_by_chance(wanted)}"
            )
        record = {
            "reference": reference,
            "looked_at": _looked_at(wanted),
            "named": len(named),
            **done,
            "scanned": scanned,
        }
        erasures.write(settings, record)
    return {**record, "out_of_reach": OUT_OF_REACH}


def _decide(settings: Settings, wanted: Wanted, named: list[Trace]) -> tuple[bool, list[str]]:
    """Whether all that is old is to go, and what speaks against beginning at all.

    A slip must not cost every publication: only what holds the user decides, and no word, number or broken file.
    """
    if any(trace.holds and _goes(settings, wanted, trace, everything=True) for trace in named):
        return True, []
    # Killed near its end, a run before this one may have left what names nobody.
    everything = erasures.under_way(settings)
    stay = [trace for trace in named if not _goes(settings, wanted, trace, everything=everything)]
    if not stay:
        return everything, []
    return everything, [
        f"no row that forget could erase is of this user, and it would leave {len(stay)} files that name the id or cannot be read: "
        f"{some(_shown(settings, stay), SHOWN)}. Is the id spelled as it was landed? If so, delete these or what they say{_by_chance(wanted)}"
    ]


def _goes(settings: Settings, wanted: Wanted, trace: Trace, *, everything: bool) -> bool:
    """Whether to erase takes a trace away; without `everything`, whether it is of what goes anyway."""
    file, newest = trace.file, publications.newest(settings)
    if _is_in(file, *maintenance.leftovers(settings, NOW)):
        return True
    if trace.unread and not everything:
        return False
    if file == lake.catalogue_file(settings):
        return trace.where == "its bytes" or "column_stats" in trace.where
    corrected = None
    if file.parent == settings.lake / "gates":
        corrected = lake.without_examples(json.loads(file.read_bytes()))
    elif newest is not None and file == settings.publications / newest["id"] / "manifest.json":
        corrected = publications.without_user(newest, wanted.user)
    if corrected is not None:
        return not _still_named(wanted, corrected)
    if file.parent != settings.reports and _is_in(file, settings.reports, settings.home / "airflow" / "logs"):
        return True
    old = _is_in(file, settings.publications) and file.parent.name not in (
        settings.publications.name,
        newest and newest["id"],
    )
    return everything and (old or _is_in(file, lake.data(settings), settings.vectors, settings.artefacts))


def _is_in(file: Path, *folders: Path | str) -> bool:
    return any(file.is_relative_to(folder) for folder in folders)


def _still_named(wanted: Wanted, content: dict[str, Any]) -> bool:
    return traces.names(content, wanted.user) or (
        not wanted.exact and wanted.is_in(json.dumps(content, ensure_ascii=False))
    )


def _by_chance(wanted: Wanted) -> str:
    return "" if wanted.exact else ". Where they hold it by chance, --exact looks at columns of user ids alone"


def _looked_at(wanted: Wanted) -> str:
    return "columns of user ids" if wanted.exact else "every text, and the bytes of every file"


def _refuse_a_cluster(settings: Settings) -> None:
    if files.is_remote(settings.home) or settings.lake_catalogue is not None:
        raise BadInput(
            f"forget works on a home that is one folder; {settings.home} has its files or its catalogue elsewhere, where old objects and "
            "dead rows would stay unseen: docs/runbooks/forget_a_user.md says what to do there"
        )


# What is to be done first


def _refusals(settings: Settings, wanted: Wanted, *, also_kept: bool, look: bool = False) -> Iterator[str]:
    """Everything that is to be done before, each with the command that does it, in the order to do it in.

    With `look` not even a gate is judged.
    """
    yield from _rows(settings, wanted)
    if lake.exists(settings) and not batches.unfinished(settings):
        if not look:
            judge_newest(settings)  # as after a run of this that was killed: the same rows, in other files
        elif lake.gated_snapshot(settings) != lake.newest_snapshot(settings):
            yield "the newest snapshot of the lake was not judged yet: run `python -m include clean`"
    newest = publications.newest(settings)
    if newest is not None and not _is_of_the_newest_rows(settings, newest):
        yield (
            f"publication {newest['id']}, or its lists, were made before the newest changes of the lake, and may hold the user: run "
            "`python -m include recommend`"
        )
    yield from _runs(settings, newest)
    serving = publications.serving_id(settings)
    if newest is not None and serving != newest["id"]:
        yield (
            f"publication {serving} serves, and not the newest, {newest['id']}: `python -m include publications rollback {newest['id']}`, "
            "then `python -m include publications unpin`"
        )
    for name in publications.shadows(settings):
        yield (
            f"challenger {name} waits: decide about it with `python -m include publications approve {name}` or `publications reject {name}`"
        )
    kept = _kept(settings, newest)
    if kept and not also_kept:
        yield (
            f"{len(kept)} publications are kept by hand and would go: {some(kept, SHOWN)}. Say --also-kept, or end that with `python -m include "
            "publications keep ID --undo`"
        )


def _kept(settings: Settings, newest: publications.Manifest | None) -> list[str]:
    return [name for name in _others(settings, newest) if publications.kept(settings, name)]


def _others(settings: Settings, newest: publications.Manifest | None) -> list[str]:
    return [entry["id"] for entry in publications.manifests(settings) if newest is None or entry["id"] != newest["id"]]


def _rows(settings: Settings, wanted: Wanted) -> Iterator[str]:
    """What the lake, or a landed file that it does not hold yet, says of the user."""
    stale = batches.stale(settings)
    waiting = [batch.name for batch in stale if batch.state != "vanished"]
    if waiting:
        yield (
            f"{len(waiting)} batches changed since they were cleaned: {some(waiting, SHOWN)}. Run `python -m include clean`: then the lake says "
            "whether they name the user"
        )
    found = traces.in_lake(settings, wanted)
    landed = [rows for rows in found if rows.file is not None]
    if landed:
        hours = {"/".join(str(rows.file).split("/")[:3]) for rows in landed}
        gone = [
            each
            for each in stale
            if each.state == "vanished" and landing.batch_name(each.table, each.arrival_hour) in hours
        ]
        vanished = f". Of these, {said_of_vanished([each.as_dict() for each in gone])}" if gone else ""
        yield (
            f"{_said_of(landed, 'landed rows')}. Write these files anew without the rows (docs/runbooks/forget_a_user.md), then run "
            f"{FOLLOW}{vanished}"
        )
    if found and not landed:
        yield f"{_said_of(found, 'rows')}, and no landed row does: run {FOLLOW}"


def _said_of(found: list[traces.Landed], what: str) -> str:
    """Rows of the user, then rows that hold the id in a text, which may be somebody else's."""
    parts = []
    for own, does in ((True, f"{what} are of this user"), (False, f"{what} name the id in a text")):
        rows = [each for each in found if each.own == own]
        if rows:
            parts.append(
                f"{sum(len(each.rows) for each in rows):,} {does}: {some([_place(each) for each in rows], SHOWN, '; ')}"
            )
    if any(not each.own for each in found):
        parts[-1] += " (they may be somebody else's: look first; --exact looks at columns of user ids alone)"
    return ". ".join(parts)


def _place(rows: traces.Landed) -> str:
    numbers = some([str(row) for row in rows.rows], SHOWN)
    if rows.file is None:
        return rows.table
    return f"landing/{rows.file} row{'s' if len(rows.rows) > 1 else ''} {numbers}"


def _is_of_the_newest_rows(settings: Settings, entry: publications.Manifest) -> bool:
    """Whether a publication and its lists are of snapshots with the rows of the newest one, or of it."""
    with lake.connect(settings) as connection:
        newest = lake.newest_of(connection)
        for snapshot in {entry["lake_snapshot"], entry["lists"]["lake_snapshot"]} - {newest}:
            if not behaviour.has_changes(connection, snapshot, newest):
                return False
            if any(any(counts.values()) for counts in behaviour.row_changes(connection, snapshot, newest).values()):
                return False
    return True


def _runs(settings: Settings, newest: publications.Manifest | None) -> Iterator[str]:
    """Runs that are under way, or were killed so lately that they may be."""
    old = datetime.now(UTC) - grace(settings)
    override = "or, where it was killed and nothing runs, put TIDEMARK_RETENTION__GRACE_HOURS=0 before this command"
    for name, _, last in publications.candidates(settings):
        if newest is not None and newest["candidate"] == name:
            yield f"publication {newest['id']} is not switched to yet: run `python -m include recommend`"
        elif last > old:
            yield f"a run is under way (candidate {name}, last at {last:%Y-%m-%dT%H:%MZ}): wait for its end, {override}"
    # What is written without the lock. All else that is left aside is of writers that are gone: the lock is ours.
    for path in maintenance.leftovers(settings, NOW):
        aside = path.is_relative_to(settings.work) or path.is_relative_to(settings.landing)
        if aside and not path.name.startswith(".") and maintenance.age(path) < grace(settings):
            yield f"a backtest, training or land may be under way (it wrote {path} lately): wait for its end, {override}"


# What goes


def _foretell(settings: Settings, wanted: Wanted, also_kept: bool) -> dict[str, Any]:
    newest = publications.newest(settings)
    named, scanned = traces.scan(wanted, traces.everywhere(settings))
    everything, against = _decide(settings, wanted, named)
    return {
        "refused": [*_refusals(settings, wanted, also_kept=also_kept, look=True), *against],
        "publication": newest and newest["id"],
        "publications": _others(settings, newest) if everything else [],
        "kept": _kept(settings, newest),
        "named_in": _shown(settings, named),
        "looked_at": _looked_at(wanted),
        "files": scanned,
        "out_of_reach": OUT_OF_REACH,
        "dry_run": True,
    }


def _erase(settings: Settings, wanted: Wanted, started: datetime, *, everything: bool) -> dict[str, Any]:
    """Let go of all that may hold the user; without `everything`, of what does not say whose it is."""
    newest = publications.newest(settings)
    gone = _leave_one_publication(settings, newest) if everything else {"publications": 0}
    maintenance.purge_catalogue(settings)
    return {
        "publication": newest and newest["id"],
        **gone,
        "texts": _drop_texts(settings, _texts_there(settings, newest)),
        "reports": _drop_what_names(settings, wanted, newest, started),
    }


def _leave_one_publication(settings: Settings, newest: publications.Manifest | None) -> dict[str, Any]:
    """Let go of all but the newest; the lake's files come first, so that by then the one that stays names the new ones."""
    rewritten = maintenance.rewrite_deleted(settings)
    if lake.exists(settings):
        judge_newest(settings)  # the same rows
        if newest is not None:
            publications.move_lake(settings, newest["id"], lake.newest_snapshot(settings))
    going = Plan(_others(settings, newest), [name for name, _, _ in publications.candidates(settings)], {})
    gone = let_go(settings, going, NOW)
    maintenance.delete_orphaned_files(settings, NOW)  # the writer's lock is ours: no transaction is open
    gone["versions"] += _leave_one_version(settings, newest)
    del gone["texts"]  # encoders whose vectors went, and not texts
    return {
        **gone,
        "publications": len(going.publications),
        "candidates": len(going.candidates),
        "lake_files": rewritten,
    }


def _leave_one_version(settings: Settings, newest: publications.Manifest | None) -> int:
    """Write the tables that stay without the rows that were deleted from them, and let go of every other version."""
    if newest is None:
        return 0
    encoder_id = newest["encoder_id"]
    versions = {
        name: vectors.without_deleted(settings, encoder_id, name, table["version"])
        for name, table in newest["tables"].items()
    }
    publications.move_tables(settings, newest["id"], versions)
    count: int = let_go(settings, Plan([], [], {}), NOW)["versions"]
    return count + sum(vectors.drop_old_versions(settings, encoder_id, name, NOW, unended=True) for name in versions)


def _texts_there(settings: Settings, newest: publications.Manifest | None) -> dict[str, set[str]]:
    """What the texts that the lake holds are kept under, by encoder."""
    named = None if newest is None else newest.get("encoder")
    found: dict[str, set[str]] = {}
    if not lake.exists(settings):
        return found
    with lake.connect(settings) as connection:
        items, wrote = behaviour.texts(connection, lake.newest_of(connection))
    for own in (settings.encoder, settings.with_encoder(named).encoder):
        for each in (own, encoder.base(own)):
            hashes = {text_hash(each.user_prefix + text) for text in wrote}
            hashes |= {found for found in item_text_hashes(items, each.item_prefix) if found is not None}
            found[encoder.identify(each)] = hashes
    return found


def _drop_texts(settings: Settings, there: dict[str, set[str]]) -> int:
    """Let go of the vectors of texts that the lake does not hold: nothing says whose they were."""
    count = 0
    for name in vectors.text_encoders(settings):
        if name in there:
            count += vectors.keep_only_texts(settings, name, there[name])
        else:
            count += len(vectors.known_texts(settings, name))
            vectors.drop_texts(settings, name)
    return count


def _texts_left(settings: Settings, newest: publications.Manifest | None) -> int:
    """How many texts that the lake does not hold have a vector in some file, whether a table still names it or not."""
    there = _texts_there(settings, newest)
    return sum(
        len(vectors.stored_texts(settings, name) - there.get(name, set())) for name in vectors.text_encoders(settings)
    )


def _drop_what_names(
    settings: Settings, wanted: Wanted, newest: publications.Manifest | None, started: datetime
) -> int:
    """Take the user, and examples of rows, out of what reports on runs; returns how many reports and files went whole."""
    lake.drop_examples(settings)
    if newest is not None:
        entry = publications.leave_out(settings, newest["id"], wanted.user)
        if pages.path(settings, newest["id"]).exists() and "report" in entry["run"]:
            write_page(settings, entry)
    # Great Expectations' results hold examples of rows, of whom nothing says.
    going = [settings.reports / name for name in ("validations", "data_docs")]
    # What was begun since is of somebody who writes without the lock.
    going += maintenance.leftovers(settings, datetime.now(UTC) - started)
    going += [report for report in settings.reports.glob("*/*") if _names(wanted, report)]
    going += {trace.file for trace in traces.scan(wanted, [settings.home / "airflow" / "logs"])[0]}
    there = [path for path in going if path.exists()]
    for path in there:
        maintenance.delete(path)
    return len(there)


def _names(wanted: Wanted, path: Path) -> bool:
    return bool(traces.scan(wanted, [path])[0])


def _shown(settings: Settings, found: list[Trace]) -> list[str]:
    return [f"{files.seen_from(settings.home, trace.file)} ({trace.where})" for trace in found]
