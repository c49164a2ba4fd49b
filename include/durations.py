"""Spans of time as people write them."""

from datetime import timedelta

from include.errors import BadInput

LONGEST = 100_000


def duration(text: str) -> timedelta:
    """A span of days or hours: 7d, 12h.

    Raises:
        BadInput: it is none.
    """
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or int(number) == 0 or int(number) > LONGEST or unit not in ("d", "h"):
        raise BadInput(f"every: {text!r} is not a span: write up to {LONGEST:,} days or hours, for example 7d or 12h")
    return timedelta(days=int(number)) if unit == "d" else timedelta(hours=int(number))
