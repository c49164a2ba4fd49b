"""The text of an item that the encoder reads, and the hash that a text's vector is kept under."""

import hashlib
import re
from collections.abc import Sequence

import pyarrow as pa

TEMPLATE = "2"
"""Version of the template below; a part of the encoder id, so that a new template means new vectors."""

# Ends of sentences of Latin, Chinese and Japanese, Arabic and Urdu, Hindi, Armenian, Burmese, Khmer and Ethiopic script,
# with the quotation marks and brackets that may close after them.
_SENTENCE_ENDS = re.compile(r"[.!?…。！？｡．؟۔।॥։။។።]['\"’”»›）)\]】」』》]*$")  # noqa: RUF001


def item_text(title: str | None, categories: Sequence[str] | None, description: str | None) -> str:
    """Put an item into words: `TITLE. Category, category. Description`.

    A part that ends a sentence by itself, in whatever script, gets no second full stop. Parts that are missing or blank
    leave no trace; with none at all the text is empty, which is legal: the item then has no text vector.

    >>> item_text("Toy Story (1995)", ["Animation", "Comedy"], None)
    'Toy Story (1995). Animation, Comedy'
    >>> item_text("三体。", ["科幻"], "一部长篇小说。")
    '三体。 科幻. 一部长篇小说。'
    """
    parts = (title, ", ".join(name.strip() for name in categories or () if name and name.strip()), description)
    text = ""
    for part in parts:
        if part and part.strip():
            joint = "" if not text else " " if _SENTENCE_ENDS.search(text) else ". "
            text += joint + part.strip()
    return text


def item_texts(items: pa.Table) -> list[str]:
    """The text of each item, of rows with `title, categories, description`."""
    columns = (items[name].to_pylist() for name in ("title", "categories", "description"))
    return [item_text(*row) for row in zip(*columns, strict=True)]


def item_text_hashes(items: pa.Table, prefix: str) -> list[str | None]:
    """What the text of each item is kept under, read behind a prefix; None for an item without one."""
    return [text_hash(prefix + text) if text else None for text in item_texts(items)]


def text_hash(text: str) -> str:
    """The first 128 bits of SHA-256 over the UTF-8 bytes, as 32 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
