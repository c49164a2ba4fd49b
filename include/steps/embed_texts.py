"""Embed the texts that a candidate needs and that no run embedded before; `keep_texts` keeps them for good."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.errors import BadInput
from include.models.encoder import TextEncoder
from include.settings import Settings
from include.stores import parts, publications, vectors
from include.stores.lock import writing
from include.stores.parts import Part, cut, of_shard

log = logging.getLogger(__name__)

STEP = "embed_texts"
KINDS = {kind: f"{STEP}-{kind}" for kind in ("item", "user")}
TEXTS_PER_PART = 2048


def planned_texts(settings: Settings, candidate: str, state: dict[str, Any]) -> list[tuple[Part, list[str], str]]:
    """The texts that a candidate embeds: parts of text hashes, each with its texts and the prefix before them."""
    texts = publications.texts(settings, candidate)
    encoder = settings.with_encoder(state.get("encoder")).encoder
    prefixes = {"item": encoder.item_prefix, "user": encoder.user_prefix}
    planned = []
    for kind, prefix in prefixes.items():
        own = texts.filter(pc.equal(texts["kind"], kind))
        hashes, contents = own["text_hash"].to_pylist(), own["text"].to_pylist()
        for part in cut(KINDS[kind], hashes, TEXTS_PER_PART):
            start = part.number * TEXTS_PER_PART
            if part.keys:
                planned.append((part, contents[start : start + len(part.keys)], prefix))
    return planned


def text_inputs(state: dict[str, Any]) -> dict[str, Any]:
    """What text vectors follow from beside the texts."""
    return {"encoder": state["encoder_id"]}


def embed_texts(settings: Settings, candidate: str, shard: int | None = None) -> dict[str, Any]:
    """Embed the planned texts: those of one shard, or of all.

    A part that an earlier try embedded is there already, so a retry goes on behind it.

    Returns:
        `embedded`: the number of texts; `there_already`: those of an earlier try.

    Raises:
        BadInput: the encoder on this machine is not the one that the plan named.
    """
    state = publications.planned(settings, candidate)
    inputs = text_inputs(state)
    planned = {part: (texts, prefix) for part, texts, prefix in planned_texts(settings, candidate, state)}
    mine = of_shard(list(planned), shard, state["shards"])
    left = [part for part in mine if not parts.is_written(settings, candidate, part, inputs)]
    model = load_encoder(settings, f"candidate {candidate}", state) if left else None
    for part in left:
        assert model is not None
        texts, prefix = planned[part]
        start = time.monotonic()
        embedded = embed(settings, model, part.keys, texts, prefix)
        rows = pa.table({"text_hash": pa.array(part.keys, pa.string()), "vector": vectors.vector_column(embedded)})
        parts.write(settings, candidate, part, inputs, rows, time.monotonic() - start)
        log.info("embedded part %d of %d (%d texts)", part.number + 1, part.of, len(texts))
    done = sum(len(part.keys) for part in left)
    return {"embedded": done, "there_already": sum(len(part.keys) for part in mine) - done}


def embed_and_keep(settings: Settings, candidate: str) -> int:
    """Embed the planned texts in one task, and keep each part at once: a run that is killed has not worked for nothing.

    Returns:
        The number of texts.

    Raises:
        BadInput: the encoder on this machine is not the one that the plan named.
    """
    state = publications.planned(settings, candidate)
    planned = planned_texts(settings, candidate, state)
    model = load_encoder(settings, f"candidate {candidate}", state) if planned else None
    for part, texts, prefix in planned:
        assert model is not None
        embedded = embed(settings, model, part.keys, texts, prefix)
        with writing(settings.beside(None)):
            vectors.keep_texts(settings, state["encoder_id"], list(part.keys), embedded)
        log.info("embedded and kept part %d of %d (%d texts)", part.number + 1, part.of, len(texts))
    return sum(len(part.keys) for part, _, _ in planned)


def embed(
    settings: Settings, model: TextEncoder, hashes: Sequence[str], texts: list[str], prefix: str
) -> NDArray[np.float32]:
    """Vectors of texts. An adapter takes the kept vectors of the encoder below it, where there are some."""
    known = set() if model.adapts is None else vectors.known_texts(settings, model.adapts) & set(hashes)
    there = np.array([name in known for name in hashes], dtype=bool)
    found = np.zeros((len(hashes), model.dimension), dtype=np.float32)
    if model.adapts is not None and there.any():
        kept = [name for name in hashes if name in known]
        found[there] = model.adapt(vectors.text_vectors(settings, model.adapts, kept, model.dimension))
    found[~there] = model.encode([text for text, have in zip(texts, there, strict=True) if not have], prefix=prefix)
    return found


def load_encoder(settings: Settings, what: str, state: dict[str, Any]) -> TextEncoder:
    """The encoder that a candidate names; `what` is what needs it.

    Raises:
        BadInput: the encoder on this machine is another one.
    """
    model = TextEncoder(settings.with_encoder(state.get("encoder")).encoder)
    if model.encoder_id != state["encoder_id"]:
        raise BadInput(
            f"{what} is planned with encoder {state['encoder_id']}, but {model.encoder.source} is encoder "
            f"{model.encoder_id} on this machine: their vectors cannot meet"
        )
    return model
