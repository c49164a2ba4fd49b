"""The language model that turns text into vectors: any encoder whose weights are safetensors, by folder or package.

Nothing is fetched and no code comes with the weights. The encoder id names everything that a vector depends on, so that
vectors of two encoders never meet.
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.errors import BadInput
from include.models.texts import TEMPLATE
from include.settings import Encoder

PRECISION = "fp32"
PACKAGE = "package:"


def resolve(source: str) -> Path:
    """The folder that holds an encoder's weights and tokenizer.

    Args:
        source: `package:NAME/FOLDER` (the package is found, not imported), a folder, or a hub id that the local hub cache
            already holds.

    Raises:
        BadInput: there is no such folder, or it holds no safetensors.
    """
    if source.startswith(PACKAGE):
        name, _, inside = source.removeprefix(PACKAGE).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise BadInput(f"encoder {source}: there is no installed package {name!r}")
        folder = Path(next(iter(spec.submodule_search_locations))) / inside
    elif Path(source).expanduser().is_dir():
        folder = Path(source).expanduser()
    else:
        folder = _from_hub_cache(source)
    if not (folder / "config.json").exists():
        raise BadInput(f"encoder {source}: {folder} holds no config.json")
    if not list(folder.glob("*.safetensors")):
        raise BadInput(f"encoder {source}: {folder} holds no *.safetensors; other forms of weights are not loaded")
    return folder


def _from_hub_cache(source: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise BadInput(
            f"encoder {source}: neither a folder, nor `package:NAME/FOLDER`, nor a model in the local hub cache"
        ) from error


@cache
def _weights_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
    files = [folder / name for name in names if (folder / name).exists()]
    for file in [*files, *sorted(folder.glob("*.safetensors"))]:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def identify(encoder: Encoder) -> str:
    """The encoder id: a readable name and twelve digits of a hash over all that a vector depends on."""
    folder = resolve(encoder.source)
    parts = {
        "weights": _weights_hash(folder),
        **encoder.model_dump(include={"pooling", "item_prefix", "user_prefix", "max_tokens"}),
        "template": TEMPLATE,
        "precision": PRECISION,
        "adapter": None,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    name = encoder.source.removeprefix(PACKAGE).split("/")[0] if encoder.source.startswith(PACKAGE) else folder.name
    return f"{''.join(c if c.isascii() and c.isalnum() else '-' for c in name).strip('-') or 'encoder'}-{digest}"


def dimension(encoder: Encoder) -> int:
    """Length of the encoder's vectors."""
    return int(json.loads((resolve(encoder.source) / "config.json").read_text("utf-8"))["hidden_size"])


class TextEncoder:
    """An encoder in memory."""

    def __init__(self, encoder: Encoder) -> None:
        """Load weights and tokenizer.

        Raises:
            BadInput: the folder cannot be used.
        """
        import torch
        from transformers import AutoModel, AutoTokenizer

        from include.models.products import pack_linear_layers

        folder = resolve(encoder.source)
        torch.set_num_threads(encoder.threads)
        self.encoder = encoder
        self.encoder_id = identify(encoder)
        self.dimension = dimension(encoder)
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, **options)
        # A limit beyond what the model's positions cover would fail on the first long text.
        self._max_tokens = min(encoder.max_tokens, self._tokenizer.model_max_length)
        self._model, loading = AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            **options,
        )
        # transformers fills missing weights with random numbers; only the pooler's are not used here.
        missing = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise BadInput(f"encoder {encoder.source}: {folder} lacks {len(missing)} weights, such as {missing[0]}")
        self._model.eval().requires_grad_(False)
        pack_linear_layers(self._model)

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
        """
        import torch

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        tokens = self._tokenizer(
            [prefix + text for text in texts],
            truncation=True,
            max_length=self._max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: (-len(tokens[row]), row))
        start = 0
        with torch.inference_mode():
            while start < len(order):
                width = max(len(tokens[order[start]]), 1)
                rows = order[start : start + max(1, self.encoder.tokens_per_batch // width)]
                vectors[rows] = self._embed([tokens[row] for row in rows], width)
                start += len(rows)
                if progress:
                    progress(start, len(texts))
        return vectors

    def _embed(self, tokens: list[list[int]], width: int) -> NDArray[np.float32]:
        import torch

        ids = np.full((len(tokens), width), self._tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros((len(tokens), width), dtype=np.int64)
        for row, own in enumerate(tokens):
            ids[row, : len(own)] = own
            mask[row, : len(own)] = 1
        attention = torch.from_numpy(mask)
        states = self._model(input_ids=torch.from_numpy(ids), attention_mask=attention).last_hidden_state
        if self.encoder.pooling == "mean":
            weight = attention[..., None].to(states.dtype)
            pooled = (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        elif self.encoder.pooling == "cls":
            pooled = states[:, 0]
        else:
            pooled = states[torch.arange(len(tokens)), attention.sum(dim=1) - 1]
        embedded: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return embedded
