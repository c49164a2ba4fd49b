"""From item rows to their kept text vectors."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.models.encoder import dimension
from include.models.texts import item_text, text_hash
from include.settings import Settings
from include.stores import vectors


def item_text_vectors(
    settings: Settings, encoder_id: str, items: pa.Table
) -> tuple[list[str | None], NDArray[np.float32]]:
    """Text hash and raw text vector of each item; None and zeros where there is no text.

    Args:
        settings: all settings.
        encoder_id: whose vectors.
        items: rows with `title, categories, description`.
    """
    hashes: list[str | None] = []
    for title, categories, description in zip(
        items["title"].to_pylist(), items["categories"].to_pylist(), items["description"].to_pylist(), strict=True
    ):
        text = item_text(title, categories, description)
        hashes.append(text_hash(settings.encoder.item_prefix + text) if text else None)
    width = dimension(settings.encoder)
    found = np.zeros((len(hashes), width), dtype=np.float32)
    described = [row for row, name in enumerate(hashes) if name is not None]
    found[described] = vectors.text_vectors(settings, encoder_id, [name for name in hashes if name is not None], width)
    return hashes, found
