"""Times and spans of time as people write them."""

from datetime import UTC, datetime, timedelta

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


def moment(text: str, name: str) -> datetime:
    """A time in ISO 8601, in UTC where no zone is given; `name` is that of the option or param for the error.

    Raises:
        BadInput: it is none, or none in UTC.
    """
    try:
        read = datetime.fromisoformat(text)
        return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadInput(
            f"{name}: {text!r} is not a time: write ISO 8601, for example 2010-09-30 or 2010-09-30T14:00:00Z"
        ) from error
