"""An exponential moving average of the trainable weights (Polyak averaging), and the mode in which a model is
looked at rather than trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainkit.strategy._norm import local


class Average:
    """average <- decay * average + (1 - decay) * weights, once per optimizer step. `state` is what a checkpoint
    holds, under the model's own parameter names."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], decay: float) -> None:
        self._blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.weights = [p for _, p in named]
        self.state: dict[str, Tensor] = {name: p.detach().clone() for name, p in named}

    def update(self) -> None:
        """Each rank blends the parts that it holds: torch's kernel takes no mixture of plain tensors and DTensors."""
        self._blend([local(a) for a in self.state.values()], [local(w.detach()) for w in self.weights], 0)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the average in place; called twice it changes nothing."""
        for weight, average in zip(self.weights, self.state.values(), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


@contextmanager
def evaluating(model: nn.Module, average: Average | None) -> Iterator[None]:
    """No gradients, no dropout, the averaged weights where there are some; then everything as before."""
    if average is not None:
        average.swap()
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()
        if average is not None:
            average.swap()
