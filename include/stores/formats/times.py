"""Reads the times of events as they come: ISO 8601, a year, a day as 20101231, a second as 20101231235959, epoch seconds and milliseconds, and Excel's.

The same language as the macro `utc_time` in dbt_project/macros/typing.sql reads, and of Excel's spelling
(`12/1/2010 8:26`) the model stg_online_retail__events: change both.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import accumulate, pairwise

_DATE = re.compile(r"([0-9]{4}|[0-9]{8}|[0-9]{14})(?:[.]0*)?")
_DIGITS = {4: "%Y", 8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
_NUMBER = re.compile(r"-?[0-9]{1,16}([.][0-9]*)?([eE][+]?[0-9]{1,2})?")
_ISO = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:([Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:[.,][0-9]{1,9})?)?)"
    r"(?: ?(?:Z|z|UTC|GMT|([+-])(0[0-9]|1[0-5]):?([0-5][0-9])?))?)?"
)
_MILLISECONDS_FROM = 1e11  # as seconds that would be the year 5138
_MILLISECONDS_UNTIL = 1e14
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXCEL = re.compile(r"[0-9]{1,2}/[0-9]{1,2}/(?:[0-9]{2}|([1-9][0-9]{3})) +[0-9]{1,2}:[0-9]{1,2}(:[0-9]{1,2})?")


def parse(text: str) -> datetime | None:
    """The time that a text names, in UTC; None if it names none. Without a zone it is UTC."""
    text = text.strip(" \t\n\r")
    try:
        if _NUMBER.fullmatch(text):
            if found := _DATE.fullmatch(text):
                time = _of_digits(found[1])
                if time is not None or len(found[1]) < 14:  # else milliseconds of a far year
                    return time
            return _since_1970(float(text))
        if found := _ISO.fullmatch(text):
            day, clock, sign, hours, minutes = found.groups()
            time = datetime.fromisoformat(day + (clock or "").upper().replace(",", ".")).replace(tzinfo=UTC)
            offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
            return time + offset if sign == "-" else time - offset
        if found := _EXCEL.fullmatch(text):
            year, seconds = found.groups()
            form = f"%m/%d/{'%Y' if year else '%y'} %H:%M{':%S' if seconds else ''}"
            return datetime.strptime(text, form).replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return None


def _of_digits(digits: str) -> datetime | None:
    try:
        return datetime.strptime(digits, _DIGITS[len(digits)]).replace(tzinfo=UTC)
    except ValueError:
        return None


def _since_1970(number: float) -> datetime | None:
    if abs(number) >= _MILLISECONDS_UNTIL:
        return None
    return _EPOCH + timedelta(microseconds=round(number * (1e6 if abs(number) < _MILLISECONDS_FROM else 1e3)))


def usable(texts: Iterable[str | None], earliest: datetime, latest: datetime) -> list[datetime | None]:
    """The times that lie from earliest up to latest; None for all else."""
    times = (None if text is None else parse(text) for text in texts)
    return [time if time is not None and earliest <= time <= latest else None for time in times]


FAR = timedelta(days=7)
FEW = 1000
"""At most one of so many times is few, or a single one."""


@dataclass
class Seen:
    """The times of a file, for what is odd about them to be said when it lands."""

    unusable: int = 0
    example: str | None = None
    """The first that cannot be used."""

    days: Counter[date] = field(default_factory=Counter)
    """Usable ones by day."""

    def refused(self, texts: Iterable[str | None], times: Iterable[datetime | None]) -> None:
        """Count texts that name no usable time."""
        for text, time in zip(texts, times, strict=True):
            if text is not None and time is None:
                self.unusable += 1
                self.example = self.example or text

    def stray(self) -> tuple[date, int, date] | None:
        """The last day of nearly all times, how many lie far behind it, and the first day of these; None where none do.

        Far is more than `FAR`, and more than the time from the first to the last of all others.
        """
        days, total = sorted(self.days), self.days.total()
        few, first = max(1, total // FEW), None
        for (last, behind), count in zip(pairwise(days), accumulate(self.days[day] for day in days), strict=False):
            if count <= few:  # as few as far behind, before all others
                continue
            first = first or last
            if total - count <= few and behind - last > max(FAR, last - first):
                return last, total - count, behind
        return None


def hour_of(time: datetime) -> datetime:
    """The beginning of the hour that a time lies in."""
    return time.replace(minute=0, second=0, microsecond=0)
