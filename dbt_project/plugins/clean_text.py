"""A dbt-duckdb plugin: the SQL function `tidy_text`, which makes readable text of what people and shops send."""

import html
import re
import unicodedata
from html.parser import HTMLParser
from typing import Any

import ftfy
from dbt.adapters.duckdb.plugins import BasePlugin

_INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr acronym b bdi bdo big cite code del dfn em font i ins kbd label mark q s samp small span strike strong sub "
        "sup tt u var wbr",
    )
)
_BLOCK = frozenset(
    re.findall(
        r"\w+",
        "article aside audio blockquote body br button canvas caption center col colgroup dd details dir div dl dt embed "
        "fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 head header hr html iframe img input legend li link main "
        "meta nav object ol optgroup option p param picture pre section select source summary table tbody td template "
        "textarea tfoot th thead title tr track ul video",
    )
)
_UNSEEN = frozenset({"script", "style"})
_ELEMENTS = _INLINE | _BLOCK | _UNSEEN
_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9]*)(?=[\s/>])[^<>]*>")
_COMMENT = re.compile(r"<!(--|doctype\b)", re.IGNORECASE)
_BIDI_AND_INVISIBLE = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb]")
_WHITESPACE = re.compile(r"\s+")


class _TextOf(HTMLParser):
    """Collects the text of HTML; what only looks like a tag stays as it is."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen += 1
        elif tag in _BLOCK:
            self.parts.append(" ")
        elif tag not in _ELEMENTS:
            self.parts.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag in _BLOCK:
            self.parts.append(" ")
        elif tag not in _ELEMENTS:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def _has_html(text: str) -> bool:
    return bool(_COMMENT.search(text)) or any(tag.group(1).lower() in _ELEMENTS for tag in _TAG.finditer(text))


def tidy_text(text: str) -> str:
    """Repair, strip and normalise one text.

    Broken encodings are repaired, HTML becomes its text, control, bidirectional and invisible characters go,
    whitespace collapses to single blanks, and what is left is Unicode NFC.

    Returns:
        The text; empty if nothing readable is left.
    """
    text = ftfy.fix_text(text, unescape_html=False, normalization=None)
    unescaped = html.unescape(text)
    if not _has_html(text) and _has_html(unescaped):
        text = unescaped  # a whole page that was escaped once more on its way
    if _has_html(text):
        parser = _TextOf()
        parser.feed(text)
        parser.close()
        text = "".join(parser.parts)
    else:
        text = unescaped
    text = _BIDI_AND_INVISIBLE.sub("", text)
    text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    return unicodedata.normalize("NFC", _WHITESPACE.sub(" ", text).strip())


class Plugin(BasePlugin):
    """Registers `tidy_text(VARCHAR) -> VARCHAR` on dbt's connection."""

    def configure_connection(self, conn: Any) -> None:
        conn.create_function("tidy_text", tidy_text, ["VARCHAR"], "VARCHAR")

    def configure_cursor(self, cursor: Any) -> None:
        """Functions belong to the database: nothing to do for a cursor."""
