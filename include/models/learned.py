"""What was learned on top of an encoder's weights: an adapter behind its pooling, or changes of its weights.

Both are a few arrays; the encoder that they were learned on stays where it is.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from include.errors import BadInput
from include.settings import MACHINES_OWN, TRAINED, Encoder

Tensors = dict[str, NDArray[np.float32]]
Vectors = NDArray[np.float32]

MEAN, DOWN, UP = "adapter.mean", "adapter.down", "adapter.up"
"""Tensors of an adapter: (d,), (h, d) and (d, h)."""
LEFT, RIGHT = "lora.left:", "lora.right:"
"""Before the name of a changed matrix of weights (m, n): (m, r) and (r, n), whose product is added to it."""
ADAPTER, LORA = "adapter", "lora"
WAYS = (ADAPTER, LORA)


def unit_rows(vectors: Vectors) -> Vectors:
    """Rows of norm 1; a row of zeros stays one."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return (vectors / np.where(norms == 0, np.float32(1), norms)[:, None]).astype(np.float32)


def adapted(tensors: Tensors, vectors: Vectors) -> Vectors:
    """Vectors behind an adapter: x + up · tanh(down · x), of norm 1 again, where x is the centred vector, of norm 1.

    Args:
        tensors: `MEAN`, `DOWN` and `UP`.
        vectors: (n, d) of norm 1.
    """
    centred = unit_rows(vectors - tensors[MEAN])
    return unit_rows(centred + np.tanh(centred @ tensors[DOWN].T) @ tensors[UP].T)


def weight_changes(tensors: Tensors) -> Tensors:
    """What is added to each changed matrix, by its name."""
    names = sorted(name.removeprefix(LEFT) for name in tensors if name.startswith(LEFT))
    return {name: tensors[LEFT + name] @ tensors[RIGHT + name] for name in names}


@dataclass(frozen=True)
class Learned:
    """A trained encoder's artefact.

    Attributes:
        base: the encoder that it was learned on.
        tensors: its arrays.
        hash: of their file.
        until: nothing at or after this time was learned from (ISO 8601).
    """

    base: Encoder
    tensors: Tensors
    hash: str
    until: str

    @property
    def adapts(self) -> bool:
        """Whether it is an adapter, which needs no more than the base's vectors."""
        return DOWN in self.tensors


def learned(encoder: Encoder) -> Learned | None:
    """What was learned on top of an encoder; None where it is as it came.

    Raises:
        BadInput: it names an artefact that is not there, or other settings than it was trained with.
    """
    if not encoder.source.startswith(TRAINED):
        return None
    if encoder.artefacts is None:
        raise BadInput(f"encoder {encoder.source}: which home it is in is not known here")
    folder: Path = encoder.artefacts / encoder.source.removeprefix(TRAINED)
    if not (folder / "artefact.json").exists():
        raise BadInput(
            f"encoder {encoder.source}: {folder} is not there; it goes when no publication names it any more"
        )
    description: dict[str, Any] = json.loads((folder / "artefact.json").read_text("utf-8"))
    machine = {name: getattr(encoder, name) for name in MACHINES_OWN}
    base = Encoder(**description["base"], **machine)
    wrong = [name for name, value in base.named.items() if name != "source" and value != getattr(encoder, name)]
    if wrong:
        raise BadInput(
            f"encoder {encoder.source}: was trained with {wrong[0]}={getattr(base, wrong[0])!r}, "
            f"not {getattr(encoder, wrong[0])!r}"
        )
    content = (folder / "tensors.safetensors").read_bytes()
    return Learned(base, load(content), hashlib.sha256(content).hexdigest(), description["trained_until"])
