"""The text of an item that the encoder reads, and the hash that a text's vector is kept under."""

import hashlib
from collections.abc import Sequence

TEMPLATE = "1"
"""Version of the template below; a part of the encoder id, so that a new template means new vectors."""


def item_text(title: str | None, categories: Sequence[str] | None, description: str | None) -> str:
    """Put an item into words: `TITLE. Category, category. Description`.

    Parts that are missing or blank leave no trace; with none at all the text is empty, which is legal: the item then has
    no text vector.

    >>> item_text("Toy Story (1995)", ["Animation", "Comedy"], None)
    'Toy Story (1995). Animation, Comedy'
    """
    parts = (title, ", ".join(name.strip() for name in categories or () if name and name.strip()), description)
    return ". ".join(part.strip() for part in parts if part and part.strip())


def text_hash(text: str) -> str:
    """The first 128 bits of SHA-256 over the UTF-8 bytes, as 32 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
