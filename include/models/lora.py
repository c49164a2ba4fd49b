"""LoRA on the last layers of an encoder, by `peft`: E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from include.errors import BadInput
from include.models.contrastive import Ints, Way
from include.models.encoder import resolve
from include.models.engines import Transformers, batches
from include.models.learned import LEFT, RIGHT, Tensors
from include.settings import Encoder

NAME = "default"
"""peft's own name of the only adapter."""


def last_linear_layers(model: torch.nn.Module, layers: int) -> list[str]:
    """Names of the linear modules in the last of a model's layers: of its longest list of modules.

    Raises:
        BadInput: it has no such list.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    if not lists:
        raise BadInput("the encoder has no list of layers to change the last of: leave out the way lora")
    longest, found = max(lists.items(), key=lambda each: len(each[1]))
    first = max(0, len(found) - layers)
    return [
        f"{longest}.{number}.{inner}"
        for number in range(first, len(found))
        for inner, module in found[number].named_modules()
        if isinstance(module, torch.nn.Linear)
    ]


class Lora(Way):
    """Changes of the last layers that learn. They begin as none."""

    def __init__(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        mean: NDArray[np.float32],
        *,
        layers: int,
        rank: int,
        max_tokens: int,
        seed: int,
        device: str,
    ) -> None:
        """Load the encoder.

        Args:
            encoder: one that learned nothing yet, of the engine `transformers`.
            texts: of each document, prefix included.
            mean: (d,) taken off vectors, as the product does.
            layers: how many of the last layers learn.
            rank: of each change.
            max_tokens: longer texts are cut here.
            seed: of the first weights.
            device: where it is computed.
        """
        from peft import LoraConfig, get_peft_model

        self.device = device
        short = encoder.model_copy(update={"max_tokens": min(encoder.max_tokens, max_tokens), "threads": 1})
        self._engine = Transformers(resolve(encoder.source), short, packed=False)
        self._ready = self._engine.ready(texts, "")
        self._mean = torch.from_numpy(mean).to(device)
        self._tokens_per_batch = encoder.tokens_per_batch
        model = self._engine.model
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, bias="none", target_modules=last_linear_layers(model, layers)
        )
        torch.manual_seed(seed)
        self._peft = get_peft_model(model, config).eval().to(device)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: own for name, own in self._peft.named_parameters() if own.requires_grad}

    def embed(self, documents: Ints) -> torch.Tensor:
        ready = [self._ready[number] for number in documents]
        order: list[int] = []
        parts = []
        for rows in batches(ready, self._tokens_per_batch):
            parts.append(self._engine.pooled([ready[row] for row in rows]))
            order += rows
        back = torch.from_numpy(np.argsort(order)).to(self.device)
        return torch.nn.functional.normalize(torch.cat(parts)[back] - self._mean, dim=1)

    def tensors(self) -> Tensors:
        found: Tensors = {}
        prefix = "base_model.model."
        for name, module in self._peft.named_modules():
            if not hasattr(module, "lora_A"):
                continue
            weight = f"{name.removeprefix(prefix)}.weight"
            found[LEFT + weight] = (module.lora_B[NAME].weight * module.scaling[NAME]).detach().cpu().numpy().copy()
            found[RIGHT + weight] = module.lora_A[NAME].weight.detach().cpu().numpy().copy()
        return found
