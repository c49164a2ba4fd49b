"""Text from outside, made safe for a terminal, a log and a page: nothing in it acts, and one line stays one line."""

import hashlib
import html
from collections.abc import Sequence

_JOINERS = "\u200c\u200d"  # spell words in Persian and Hindi and join emoji; they move nothing


def readable(text: str, most: int | None = None) -> str:
    r"""The text with control characters, line ends and bidirectional marks as escapes such as `\x1b`.

    Args:
        text: what came.
        most: characters to show; of a longer text the beginning, and an ellipsis.
    """
    shown = text if most is None else text[:most]
    escaped = "".join(
        char if char.isprintable() or char in _JOINERS else char.encode("unicode_escape").decode() for char in shown
    )
    return escaped + ("…" if most is not None and len(text) > most else "")


def some(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """The first of some names, and how many more there are."""
    more = f"{between}and {len(names) - most:,} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def for_page(text: str, most: int) -> str:
    """The text as HTML shows it. Different texts stay different, however long: a page's counts are of these."""
    shown = html.escape(readable(text.replace("\\", "\\\\"), most))
    if len(text.replace("\\", "\\\\")) > most:
        shown += hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return shown
