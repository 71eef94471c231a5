"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Lt

if TYPE_CHECKING:
    import torch
    from torch import nn

Beta = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """torch's fused AdamW. Weight decay touches matrices only: biases and norms, which have fewer than two
    dimensions, form a group without it."""

    lr: Annotated[float, Gt(0)]
    betas: tuple[Beta, Beta]
    eps: Annotated[float, Gt(0)]
    weight_decay: Annotated[float, Ge(0)]

    def build(self, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
        import torch

        parameters = [parameter for _, parameter in named]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.lr, betas=self.betas, eps=self.eps, fused=True
        )
