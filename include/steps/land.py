"""Lands files: puts what arrived, as it came, into the landing folder's batches."""

import filecmp
import logging
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from dataclasses import replace as with_other
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb

from include.columns import LANDED_TABLES
from include.errors import BadInput
from include.readable import readable
from include.settings import Settings
from include.stores import files as stored
from include.stores import landing
from include.stores.formats import staged
from include.stores.formats.progress import Progress
from include.stores.formats.rows import Chunk, kind_of, read
from include.stores.formats.sources import Source, files_of, landed_name, sources
from include.stores.formats.staged import UNREADABLE, Spool, Staged
from include.stores.formats.times import Seen, hour_of, usable
from include.stores.lock import writing

log = logging.getLogger(__name__)

CUT = ".jsonl.zst"
"""What the name of a canonical file ends in of which a part lands in one batch."""

NAMED = 20
"""Files of the same name that a summary names."""


def land(
    settings: Settings,
    path: Path,
    *,
    format: str,
    table: str | None = None,
    arrival: datetime | Literal["event"] | None = None,
    replace: bool = False,
    events_from: datetime | None = None,
    events_to: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Put a file, or a folder of files, into the landing folder. Nothing lands unless all of it can.

    By default an event file is one bulk arrival, in the hour of its last usable event time; items and users land in the last
    of these hours, or in the current one where no events are beside them. Landing the same file into the same hour again
    takes the place of its earlier landing, and changes nothing if the content is the same.

    Args:
        settings: whose landing folder, and since when times are usable.
        path: a file or a folder.
        format: one of `stores.formats.sources.FORMATS`.
        table: for canonical files whose name does not say it.
        arrival: the hour of arrival of all (UTC unless it has a zone); `event` spreads event rows over their own hours, those
            without a usable time into the last, with items and users in the first.
        replace: whether the files that the landed tables have in the same batches are removed.
        events_from: only event rows from this time on. Rows without a usable time are kept in a bulk arrival only.
        events_to: only event rows before this time.
        progress: takes lines about the progress; None shows it on stderr.

    Returns:
        `files` (relative to the landing folder, sorted), `rows` and `unreadable` (landed, by table), `left_out` (event rows
        outside `events_from` and `events_to`), `hours` ([first, last] arrival hour, ISO 8601), `replaced` (those of the files in
        whose place others of the same name were), `same_name` (up to 20 event files of the same name in other hours that may be an
        earlier delivery, of which what they hold stays) and `ignored` (files of a folder that are not of the format, though of a
        kind that can be read).

    Raises:
        BadInput: an option is unusable, or a file cannot be read or is not of the format; names file, position and what to do.
    """
    at = hour_of(_utc(arrival)) if isinstance(arrival, datetime) else arrival
    earliest = datetime.fromisoformat(settings.earliest_event).replace(tzinfo=UTC)
    if isinstance(at, datetime):
        landing.refuse_ahead(at, f"--arrival {at.isoformat()}")
        if at < earliest:
            raise BadInput(f"--arrival {at.isoformat()} is before {settings.earliest_event} (setting earliest_event)")
    span = (_utc(events_from) if events_from else None, _utc(events_to) if events_to else None)
    if span[0] and span[1] and span[0] >= span[1]:
        raise BadInput(f"--events-from {span[0].isoformat()} is not before --events-to {span[1].isoformat()}")
    found = sources(path, format, table)
    now = datetime.now(UTC)
    # Beside its place, so that a rename takes it there; what goes to an object store is prepared on this machine.
    beside = settings.work if stored.is_remote(settings.landing) else settings.landing
    aside = beside / f"{landing.INCOMING}{uuid.uuid4().hex}"
    try:
        aside.mkdir(parents=True)
        with (
            staged.bounded(settings.work) as connection,
            Progress(sum(source.path.stat().st_size for source in found), progress) as shown,
        ):
            work = _Work(connection, shown, aside, at, span, (earliest, now))
            for source in found:
                work.stage(source)
            files = work.files()
            earlier = {place for file in files for place in _places(settings, file) if place.is_file()}
            replaced = _put_in_place(settings, files, replace)
            same_name = _same_name(settings, files, earlier, replace=replace)
    except OSError as error:
        raise BadInput(f"{path}: could not be landed: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    hours = sorted({file.hour for file in files if file.hour is not None})
    work.say_what_is_odd()
    if hours and at is None and not any(file.table == "events" for file in files):
        _say_if_after_events(settings, hours[-1])
    if same_name:
        log.warning(
            "%d files of the same name lie in other hours, such as %s. Where they are an earlier delivery of what was landed now, what they "
            "hold stays: delete them and clean their hours (docs/runbooks/fix_the_data.md)",
            len(same_name),
            same_name[0],
        )
    return {
        "files": sorted(_target(settings, file).relative_to(settings.landing).as_posix() for file in files),
        "rows": dict(work.rows),
        "unreadable": dict(work.unreadable),
        "left_out": work.left_out,
        "hours": [hours[0].isoformat(), hours[-1].isoformat()] if hours else [],
        "replaced": sorted(target.relative_to(settings.landing).as_posix() for target in replaced),
        "same_name": same_name[:NAMED],
        "ignored": _ignored(path, found),
    }


def _same_name(settings: Settings, files: list[Staged], earlier: set[Path], *, replace: bool) -> list[str]:
    """Event files that a delivery of the same events may have left in other hours, relative to the landing folder.

    Of what replaces hours one by one they lie between the first and the last. Of a bulk arrival in an hour in which no file of
    its name was before, it is the one other of that name, behind its first event: a name that is used more often is that of a series.
    """
    events = [file for file in files if file.table == "events" and file.hour is not None]
    bulk = {
        name: hour_of(file.since)
        for file in events
        if file.since is not None and earlier.isdisjoint(_places(settings, file))
        for name in (file.name, file.instead)
    }
    spread: dict[str, list[datetime]] = {}
    for file in events:
        if replace and file.since is None and file.hour is not None:
            spread.setdefault(file.name, []).append(file.hour)
    landed = {_target(settings, file) for file in files}
    others: dict[str, list[tuple[datetime, Path]]] = {}
    with suppress(BadInput):  # what belongs to no batch is said by whatever reads them
        for batch in landing.batches(settings) if bulk or spread else []:
            for there in batch.files if batch.table == "events" else ():
                if there.name in bulk.keys() | spread.keys() and there.path not in landed:
                    others.setdefault(there.name, []).append((batch.arrival_hour, there.path))
    found = [
        each[0][1] for name, each in others.items() if name in bulk and len(each) == 1 and each[0][0] >= bulk[name]
    ]
    for name, hours in spread.items():
        found += [path for hour, path in others.get(name, []) if min(hours) <= hour <= max(hours)]
    return sorted(path.relative_to(settings.landing).as_posix() for path in found)


def _say_if_after_events(settings: Settings, hour: datetime) -> None:
    """Of a past data set, items and users that land in the hour of now are none as of the last events, as of which lists are made."""
    with suppress(BadInput):  # what belongs to no batch is said by whatever reads them
        hours = (batch.arrival_hour for batch in landing.batches(settings) if batch.table == "events")
        last = max(hours, default=hour)
        if hour - last > timedelta(days=1):
            log.warning(
                "these land in %s, after the last events, of %s: what they say counts once events arrive then. Where they belong "
                "to those events, land them in one folder with them, or say --arrival %s",
                f"{hour:%Y-%m-%dT%H}",
                f"{last:%Y-%m-%dT%H}",
                f"{last:%Y-%m-%dT%H:%M}",
            )


def _ignored(path: Path, found: list[Source]) -> list[str]:
    taken = {source.path for source in found}
    return [readable(file.name) for file in files_of(path) if kind_of(file) and file not in taken]


@dataclass
class _Work:
    """What has been staged so far."""

    connection: duckdb.DuckDBPyConnection
    shown: Progress
    aside: Path
    arrival: datetime | Literal["event"] | None
    span: tuple[datetime | None, datetime | None]
    bounds: tuple[datetime, datetime]
    staged: list[Staged] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANDED_TABLES, 0))
    unreadable: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANDED_TABLES, 0))
    left_out: int = 0
    seen: dict[Path, Seen] = field(default_factory=lambda: defaultdict(Seen))
    """The times of each file of events."""

    def say_what_is_odd(self) -> None:
        """Warn of files of which no time can be used, and of a few events far behind all others, which T would follow."""
        for path, seen in self.seen.items():
            name = readable(path.name)
            if seen.unusable and not seen.days:
                log.warning(
                    "%s: none of %s times can be used, such as %s: `clean` will reject these events (docs/bring-your-own-data.md)",
                    name,
                    f"{seen.unusable:,}",
                    readable(repr(seen.example)),
                )
            stray = None if isinstance(self.arrival, datetime) else seen.stray()
            if stray is not None:
                last, count, behind = stray
                log.warning(
                    "%s: %s of %s events are of %s or later, %d days after all others, and lists are made as of the last event: "
                    "--events-to %s would leave them out",
                    name,
                    f"{count:,}",
                    f"{seen.days.total():,}",
                    behind,
                    (behind - last).days,
                    last + timedelta(days=1),
                )

    def stage(self, source: Source) -> None:
        """Read a file to its end and write aside what will land."""
        folder = self.aside / str(len(self.staged))
        folder.mkdir()
        cut = source.table == "events" and (self.arrival == "event" or any(self.span))
        with landing.unwritten(source.path):
            if source.as_is and not cut:
                self._copy(source, folder)
            else:
                self._rewrite(source, folder)
        self.shown.file_done(source.path.stat().st_size)

    def files(self) -> list[Staged]:
        """All files, each with its hour."""
        hours = [file.hour for file in self.staged if file.table == "events" and file.hour is not None]
        pick = min if self.arrival == "event" else max
        beside = self._bulk(pick(hours, default=None))
        return [with_other(file, hour=file.hour or beside) for file in self.staged]

    def _bulk(self, last: datetime | None) -> datetime:
        if isinstance(self.arrival, datetime):
            return self.arrival
        return hour_of(last if last is not None else self.bounds[1])

    def _copy(self, source: Source, folder: Path) -> None:
        name = landed_name(source.path.name)
        # The copy is what is checked: the original may change meanwhile.
        copy = folder / name
        shutil.copyfile(source.path, copy)
        first, last = None, None
        for _, times in self._read(source, copy):
            first, last = _earliest(first, times), _latest(last, times)
            self._saw(source, times)
        if source.table == "events":
            self.staged.append(Staged(copy, "events", self._bulk(last), name, first, f"{source.stem}{CUT}"))
        else:
            self.staged.append(Staged(copy, source.table, None, name))

    def _rewrite(self, source: Source, folder: Path) -> None:
        spool = Spool(folder / "spool")
        first, last = None, None
        columns: tuple[str, ...] = ()
        rows = 0
        try:
            for chunk, times in self._read(source, source.path):
                keep = self._keep(source, times)
                kept = times if keep is None else [time for time, kept in zip(times, keep, strict=True) if kept]
                first, last = _earliest(first, kept), _latest(last, kept)
                self._saw(source, kept)
                rows += len(kept)
                if keep is not None:
                    self._leave_out(source, chunk, keep)
                spool.add(chunk, times, keep)
                columns = chunk.columns
        finally:
            spool.close()
        if rows or not any(self.span):  # a span without events makes no batch
            self._write(source, folder, spool.path, columns, self._bulk(last), first)

    def _write(
        self,
        source: Source,
        folder: Path,
        spool: Path,
        columns: tuple[str, ...],
        bulk: datetime,
        since: datetime | None,
    ) -> None:
        otherwise = bulk.replace(tzinfo=None)
        spread = source.table == "events" and self.arrival == "event"
        hour = bulk if source.table == "events" else None
        if spread:
            for naive, file in staged.spread_lines(self.connection, spool, otherwise, folder):
                self.staged.append(Staged(file, source.table, naive.replace(tzinfo=UTC), f"{source.stem}.jsonl"))
        elif source.as_is:
            file = folder / f"{source.stem}{CUT}"
            staged.write_lines(self.connection, spool, file)
            whole = landed_name(source.path.name)
            self.staged.append(Staged(file, source.table, hour, file.name, since, whole))
        else:
            file = folder / f"{source.stem}.parquet"
            staged.write_parquet(self.connection, spool, columns or source.required, file)
            self.staged.append(Staged(file, source.table, hour, file.name, since))
            beside = folder / f"{source.stem}{UNREADABLE}"
            if beside.exists():
                self.staged.append(Staged(beside, source.table, hour, beside.name))
        if source.items_within:
            items = folder / "items"
            items.mkdir()
            written = staged.items_of_lines(self.connection, spool, None if spread else otherwise, otherwise, items)
            for naive, file, rows in written:
                self.staged.append(Staged(file, "items", naive.replace(tzinfo=UTC), f"{source.stem}.parquet"))
                self.rows["items"] += rows

    def _read(self, source: Source, path: Path) -> Iterator[tuple[Chunk, list[datetime | None]]]:
        """The chunks of a file with the usable times of their rows; counts them, and checks that it is of the format."""
        rows = unreadable = 0
        columns: tuple[str, ...] = ()
        for chunk in landing.named(source.path, path, read(path, source.dialect, kind=source.kind)):
            rows += len(chunk.raw)
            unreadable += len(chunk.raw) - chunk.errors.null_count
            columns = chunk.columns
            self.shown.at(readable(source.path.name), chunk.position, rows)
            yield chunk, self._times(source, chunk)
        if rows and rows == unreadable:
            raise BadInput(
                f"{source.path}: none of its {rows:,} rows can be read, from row 1 on: is it really {path.suffix}?"
            )
        missing = [column for column in source.required if column not in columns]
        if missing and (rows or columns):
            raise BadInput(
                f"{source.path}: no column {', '.join(missing)}; expected {', '.join(source.required)}; "
                f"found {', '.join(columns[:30]) or 'none'}{', …' if len(columns) > 30 else ''} (docs/bring-your-own-data.md)"
            )
        self.rows[source.table] += rows
        self.unreadable[source.table] += unreadable

    def _times(self, source: Source, chunk: Chunk) -> list[datetime | None]:
        if source.time_column is None or not len(chunk.raw):
            return [None] * len(chunk.raw)
        texts = staged.column_texts(self.connection, chunk.raw, chunk.errors, source.time_column).to_pylist()
        found = usable(texts, *self.bounds)
        self.seen[source.path].refused(texts, found)
        return found

    def _saw(self, source: Source, times: list[datetime | None]) -> None:
        if source.time_column is not None:
            self.seen[source.path].days.update(time.date() for time in times if time is not None)

    def _keep(self, source: Source, times: list[datetime | None]) -> list[bool] | None:
        if source.table != "events" or not any(self.span):
            return None
        start, end = self.span
        bulk = self.arrival != "event"
        return [
            bulk if time is None else (start is None or time >= start) and (end is None or time < end) for time in times
        ]

    def _leave_out(self, source: Source, chunk: Chunk, keep: list[bool]) -> None:
        left_out = keep.count(False)
        unreadable = sum(
            error is not None and not kept for error, kept in zip(chunk.errors.to_pylist(), keep, strict=True)
        )
        self.rows[source.table] -= left_out
        self.unreadable[source.table] -= unreadable
        self.left_out += left_out


def _put_in_place(settings: Settings, files: list[Staged], replace: bool) -> list[Path]:
    """Rename the staged files into their batches; no cleaning run sees half of them. Returns where others were before."""
    targets: set[Path] = set()
    replaced: list[Path] = []
    for file in files:
        target = _target(settings, file)
        if target in targets:
            raise BadInput(f"two files would land as {target}: rename one, or land them on their own")
        targets.add(target)
    with writing(settings):
        for file in files:
            target = _target(settings, file)
            # The same content again leaves the batch untouched, so that nothing is cleaned again for it.
            if not _holds(settings, target, file.path):
                if target.is_file():
                    replaced.append(target)
                stored.put(file.path, target)
            # Of one file there is the whole or a part, whichever came last.
            for other in _places(settings, file):
                if other not in targets and other.is_file():
                    replaced.append(other)
                    other.unlink()
            # What could not be read in an earlier delivery of this file is no longer part of it.
            earlier = target.with_name(target.name.removesuffix(".parquet") + UNREADABLE)
            if target.suffix == ".parquet" and earlier not in targets:
                earlier.unlink(missing_ok=True)
        if replace:
            for parent in sorted({target.parent for target in targets}):
                for other in sorted(parent.rglob("*")):
                    if other.is_file() and other not in targets and not landing.is_ignored(other.name):
                        other.unlink()
    return replaced


def _holds(settings: Settings, target: Path, content: Path) -> bool:
    if not target.is_file() or target.stat().st_size != content.stat().st_size:
        return False
    with stored.local(target, settings.work) as here:
        return filecmp.cmp(content, here, shallow=False)


def _target(settings: Settings, file: Staged) -> Path:
    assert file.hour is not None
    return landing.folder(settings, file.table, file.hour) / file.name


def _places(settings: Settings, file: Staged) -> list[Path]:
    """Where a file lands, and where it would have landed were it not whole, or not cut."""
    target = _target(settings, file)
    return [target] if file.instead is None else [target, target.with_name(file.instead)]


def _earliest(first: datetime | None, times: list[datetime | None]) -> datetime | None:
    return min((time for time in (first, *times) if time is not None), default=None)


def _latest(last: datetime | None, times: list[datetime | None]) -> datetime | None:
    return max((time for time in (last, *times) if time is not None), default=None)


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
