"""A dbt-duckdb plugin: SQL functions that make readable text of what people and shops send, and JSON that can be compared."""

import html
import json
import re
import unicodedata
from functools import lru_cache
from html.entities import html5
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
        "textarea tfoot th thead title tr track ul video "
        "applet base dialog frame frameset marquee math noscript object slot svg template",
    )
)
_UNSEEN = frozenset({"script", "style"})
_CODE = frozenset({"code", "kbd", "pre", "samp", "tt"})
_ELEMENTS = _INLINE | _BLOCK | _UNSEEN
_UNVALUED = (
    "allowfullscreen|async|autofocus|autoplay|checked|compact|controls|default|defer|disabled|hidden|ismap|itemscope|loop|"
    "multiple|muted|noresize|noshade|novalidate|nowrap|open|readonly|required|reversed|scoped|selected"
)
# A name, and attributes of which the first with a value has its sign of equality: `p<q and r>s` is no tag.
_NAME = rf"/?([A-Za-z][A-Za-z0-9]*(?:[:.-][A-Za-z0-9]+)*)(?:[\s/]+(?:{_UNVALUED})(?=[\s/>]))*"
_VALUED = r"[\s/]+[A-Za-z_:@][A-Za-z0-9_:.-]*\s*="
_TAG = re.compile(rf"<{_NAME}(?:[\s/]*|{_VALUED}[^<>]*)>", re.IGNORECASE)
_NO_TAG = re.compile(rf"<(?=/?[A-Za-z])(?!{_NAME}(?:[\s/]*>|{_VALUED}\s*(?:[\"']|[^<>]*>)))", re.IGNORECASE)
_COMMENT = re.compile(r"<!(--|doctype\b)", re.IGNORECASE)
_END = {name: re.compile(rf"</{name}(?=[\s/>])[^<>]*>", re.IGNORECASE) for name in _UNSEEN}
_HALF_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*\Z")  # one that another was put into, to hide both
# Longer numbers are no characters, and take long to read.
_AMPERSAND = re.compile(r"&(#[0-9]{1,7};|#[xX][0-9a-fA-F]{1,6};|[A-Za-z][A-Za-z0-9]*;)?")
_BIDI_AND_INVISIBLE = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
# The zero-width joiner and non-joiner spell words in Persian and Hindi and join emoji, but only behind a letter or sign.
_JOINS_NOTHING = re.compile(r"(?:^|(?<=\s))[\u200c\u200d]+")
_WHITESPACE = re.compile(r"\s+")
_ANGLE = re.compile(r"[<>]")
LONGEST_KEPT = 500  # characters of a text that is remembered
MOST_LAYERS = 5  # of tags within tags; beyond it is an attack, and every angle bracket goes


class _TextOf(HTMLParser):
    """Collects the text of HTML; what only looks like a tag stays as it is, and a tag that is shown as code becomes words."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._code = 0

    def set_cdata_mode(self, elem: str, **more: bool) -> None:
        """Does nothing: scripts and styles that end are gone, and of one without an end the text stays."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in _CODE
        if tag in _BLOCK:
            self.parts.append(" ")
        elif tag not in _ELEMENTS and not attrs:
            self.parts.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self._code = max(0, self._code - (tag in _CODE))
        if tag in _BLOCK:
            self.parts.append(" ")
        elif tag not in _ELEMENTS:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.parts.append(_TAG.sub(_as_words, data) if self._code else data)


def _as_words(tag: re.Match[str]) -> str:
    return f" {tag.group().strip('</>')} "


def _has_html(text: str) -> bool:
    return bool(_COMMENT.search(text)) or any(
        tag.group(1).lower() in _ELEMENTS or "=" in tag.group()  # with an attribute it is markup, whatever its name
        for tag in _TAG.finditer(text)
    )


def _without_comments(text: str) -> str:
    """The parser looks for the end of each comment anew, which takes hours where none of many ends: so it sees none."""
    parts = []
    place = 0
    while (start := text.find("<!--", place)) >= 0:
        parts.append(text[place:start])
        end = text.find("-->", start)
        if end < 0:
            parts.append(text[start:].replace("<!--", " "))
            return "".join(parts)
        place = end + 3
    return "".join([*parts, text[place:]])


def _without_unseen(text: str) -> str:
    """Scripts and styles go whole. One that never ends is a tag that somebody wrote about: only the tag goes."""
    parts = []
    place = 0
    unended: set[str] = set()
    for tag in _TAG.finditer(text):
        name = tag.group(1).lower()
        if tag.start() < place or name not in _UNSEEN or tag.group().startswith("</"):
            continue
        end = None if name in unended else _END[name].search(text, tag.end())
        if end is None:
            unended.add(name)  # nor has any after it: looking once is enough
        parts.append(_HALF_TAG.sub("", text[place : tag.start()]))
        place = (end or tag).end()
    return "".join([*parts, text[place:]])


def _kept_ampersand(found: re.Match[str]) -> str:
    entity = found.group(1)
    is_one = entity is not None and (entity.startswith("#") or entity in html5)
    return found.group() if is_one else f"&amp;{entity or ''}"


def _only_entities(text: str) -> str:
    """The text with each `&` that begins no whole entity escaped: `&copy=3` of a link is none."""
    return _AMPERSAND.sub(_kept_ampersand, text)


def _stripped(text: str) -> str:
    unescaped = html.unescape(_only_entities(text))
    if not _has_html(text) and _has_html(unescaped):
        text = unescaped  # a whole page that was escaped once more on its way
    if not _has_html(text):
        return unescaped
    parser = _TextOf()
    markup = _NO_TAG.sub("&lt;", _only_entities(_without_unseen(_without_comments(text))))
    ends = markup.rfind(">") + 1
    # Behind the last `>` nothing is a tag, but the parser would look for an end to the end of the text at each `<`.
    parser.feed(markup[:ends] + markup[ends:].replace("<", "&lt;"))
    parser.close()
    return "".join(parser.parts)


def tidy_text(text: str) -> str:
    """Repair, strip and normalise one text.

    Broken encodings are repaired, HTML becomes its text, tags that this uncovers go too, control, bidirectional and
    invisible characters go, whitespace collapses to single blanks, and what is left is Unicode NFC.

    Returns:
        The text; empty if nothing readable is left.
    """
    # Curved quotes and full-width signs are how Chinese is written, not dirt: both stay as they came.
    text = ftfy.fix_text(text, unescape_html=False, uncurl_quotes=False, fix_character_width=False, normalization=None)
    text = _visible(_stripped(_visible(text)))  # nothing invisible may hide a tag from the parser
    # What was cut or hidden inside a tag, or escaped twice, may stand there as a tag now.
    for _ in range(MOST_LAYERS):
        if not _has_html(text):
            return text
        text = _visible(_stripped(text))
    return _visible(_ANGLE.sub(" ", text))


def _visible(text: str) -> str:
    text = _BIDI_AND_INVISIBLE.sub("", text)
    text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    text = _JOINS_NOTHING.sub("", _WHITESPACE.sub(" ", text).strip())
    return unicodedata.normalize("NFC", _WHITESPACE.sub(" ", text).strip())


@lru_cache(maxsize=20_000)
def _kept(text: str) -> str:
    return tidy_text(text)


def tidy_once(text: str) -> str:
    """`tidy_text`, remembering short texts: searches and the like come again and again."""
    return _kept(text) if len(text) <= LONGEST_KEPT else tidy_text(text)


def plain_json(text: str) -> str:
    """JSON with sorted keys at every depth and every scalar as the text that came, as the readers of files write it."""
    try:
        values = _with_texts(json.loads(text, parse_int=str, parse_float=str, parse_constant=str))
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    except RecursionError:  # nested without end: it stays as it came
        return text


def _with_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_texts(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_texts(each) for each in value]
    return str(value).lower() if isinstance(value, bool) else value


class Plugin(BasePlugin):
    """Registers the functions, of VARCHAR to VARCHAR, on dbt's connection."""

    def configure_connection(self, conn: Any) -> None:
        conn.create_function("tidy_text", tidy_once, ["VARCHAR"], "VARCHAR")
        conn.create_function("plain_json", plain_json, ["VARCHAR"], "VARCHAR")
