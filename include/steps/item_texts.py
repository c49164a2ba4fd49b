"""From item rows to their text vectors, and the mean that is taken off them."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.columns import Artefact
from include.errors import BadInput
from include.models.encoder import dimension
from include.models.interests import unit
from include.models.texts import item_text_hashes, item_texts
from include.settings import Settings
from include.steps.embed_texts import embed, load_encoder
from include.stores import artefacts, vectors


def item_text_vectors(
    settings: Settings, state: dict[str, Any], items: pa.Table
) -> tuple[list[str | None], NDArray[np.float32]]:
    """Text hash and raw text vector of each item; None and zeros where there is no text.

    Args:
        settings: all settings.
        state: a candidate or a publication, with whose encoder.
        items: rows with `title, categories, description`.
    """
    encoder = settings.with_encoder(state.get("encoder")).encoder
    hashes = item_text_hashes(items, encoder.item_prefix)
    width = dimension(encoder)
    found = np.zeros((len(hashes), width), dtype=np.float32)
    described = [row for row, name in enumerate(hashes) if name is not None]
    named = [name for name in hashes if name is not None]
    found[described] = vectors.text_vectors(settings, state["encoder_id"], named, width)
    return hashes, found


def embed_items(
    settings: Settings, state: dict[str, Any], items: pa.Table
) -> tuple[list[str | None], NDArray[np.float32]]:
    """Text hash and raw text vector of each item, as `item_text_vectors` has them, also of texts that no run embedded.

    These are embedded here, and not kept.
    """
    prefix = settings.with_encoder(state.get("encoder")).encoder.item_prefix
    hashes, known = item_text_hashes(items, prefix), vectors.known_texts(settings, state["encoder_id"])
    new = np.array([name is not None and name not in known for name in hashes], dtype=bool)
    _, kept = item_text_vectors(settings, state, items.filter(pa.array(~new)))
    raw = np.zeros((len(hashes), kept.shape[1]), dtype=np.float32)
    raw[~new] = kept
    if new.any():
        model = load_encoder(settings, "the backtest", state)
        named = [name for name in hashes if name is not None and name not in known]
        raw[new] = embed(settings, model, named, item_texts(items.filter(pa.array(new))), prefix)
    return hashes, raw


def centred_text_vectors(
    settings: Settings, state: dict[str, Any], items: pa.Table
) -> tuple[list[str | None], NDArray[np.float32]]:
    """Text hash and text vector of each item as the vector table has it: less the mean, of norm 1; zeros without a text."""
    hashes, raw = item_text_vectors(settings, state, items)
    return hashes, centred(hashes, raw, text_mean(settings, state))


def centred(
    hashes: list[str | None], raw: NDArray[np.float32], mean: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Text vectors less a mean, by default their own, of norm 1; zeros without a text."""
    described = np.array([name is not None for name in hashes], dtype=bool)
    if mean is None:
        mean = mean_of_described(hashes, raw)
    return np.where(described[:, None], unit(raw - mean), np.float32(0)).astype(np.float32)


def mean_of_described(hashes: list[str | None], raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean vector of the items that have a text; zeros where none has, or all have the same, of which nothing would be left."""
    texts = raw[np.array([name is not None for name in hashes], dtype=bool)]
    if len(texts) == 0 or (texts == texts[0]).all():
        return np.zeros(raw.shape[1], dtype=np.float32)
    return np.asarray(texts.mean(axis=0, dtype=np.float64), dtype=np.float32)


def text_mean(settings: Settings, state: dict[str, Any]) -> NDArray[np.float32]:
    """The mean of the text vectors that a candidate or a publication names.

    Raises:
        BadInput: it is of another encoder's vectors.
    """
    name = state["artefacts"][Artefact.TEXT_MEAN]
    tensors, description = artefacts.read(settings, name)
    if description["encoder_id"] != state["encoder_id"]:
        raise BadInput(
            f"{name} is the mean of vectors of encoder {description['encoder_id']}, not of {state['encoder_id']}: "
            "they cannot meet"
        )
    return tensors["mean"]
