"""An adapter on frozen text vectors: a small residual network over the pooled vector, which begins as the identity.

N. Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, here behind the encoder, so that it is trained on
vectors that are there. `include.models.learned.adapted` applies it.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from include.models.contrastive import Ints, Way
from include.models.learned import DOWN, MEAN, UP, Tensors, unit_rows


class Adapter(Way):
    """An adapter that learns."""

    def __init__(
        self, vectors: NDArray[np.float32], mean: NDArray[np.float32], hidden: int, seed: int, device: str
    ) -> None:
        """Begin as the identity of centred vectors.

        Args:
            vectors: (documents, d) frozen vectors of norm 1.
            mean: (d,) what is taken off them.
            hidden: size of the layer between.
            seed: of the first weights.
            device: where it is computed.
        """
        self.device = device
        self._mean = mean
        self._frozen = torch.from_numpy(unit_rows(vectors - mean)).to(device)
        width = vectors.shape[1]
        down = np.random.default_rng(seed).normal(0.0, 1.0, (hidden, width)).astype(np.float32)
        self._down = torch.nn.Parameter(torch.from_numpy(down).to(device))
        self._up = torch.nn.Parameter(torch.zeros(width, hidden, device=device))

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {DOWN: self._down, UP: self._up}

    def embed(self, documents: Ints) -> torch.Tensor:
        frozen = self._frozen[torch.from_numpy(documents).to(self.device)]
        moved = frozen + torch.tanh(frozen @ self._down.T) @ self._up.T
        return torch.nn.functional.normalize(moved, dim=1)

    def tensors(self) -> Tensors:
        learned = {name: own.detach().cpu().numpy().copy() for name, own in self.parameters().items()}
        return {MEAN: self._mean, **learned}
