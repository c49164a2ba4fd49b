"""Reads the times of events as they come: ISO 8601 with or without zone, epoch seconds, epoch milliseconds."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+]?\d+)?")
_MILLISECONDS_FROM = 1e11  # as seconds that would be the year 5138
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OTHER = ("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S")


def parse(text: str) -> datetime | None:
    """The time that a text names, in UTC; None if it names none. Without a zone it is UTC."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        seconds = number / 1000 if abs(number) >= _MILLISECONDS_FROM else number
        try:
            return _EPOCH + timedelta(seconds=seconds)
        except OverflowError:
            return None
    try:
        return _in_utc(datetime.fromisoformat(text.removesuffix("UTC").rstrip()))
    except (ValueError, OverflowError):
        pass
    for form in _OTHER if "/" in text else ():
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def usable(texts: Iterable[str | None], earliest: datetime, latest: datetime) -> list[datetime | None]:
    """The times that lie from earliest up to latest; None for all else."""
    times = (None if text is None else parse(text) for text in texts)
    return [time if time is not None and earliest <= time <= latest else None for time in times]


def hour_of(time: datetime) -> datetime:
    """The beginning of the hour that a time lies in."""
    return time.replace(minute=0, second=0, microsecond=0)


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
