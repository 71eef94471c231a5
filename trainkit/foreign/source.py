"""What is read of a checkpoint that another program wrote. A reader is `read(path, trained) -> Foreign` in the module
of the format's name; formats.py says how one is known. Without `trained` no moments are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Read = Callable[[], "Tensor"]
"""Reads one tensor when it is asked for, so that a model need not be in memory twice."""

Trained = Mapping[str, "torch.Size"]
"""The trained parameters of the recipe's model in their order, with their shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A foreign checkpoint.

    weights  by the names that its writer gave them
    moments  the optimizer's state of each parameter: {name: {moment: ...}}; empty where there is none
    step     optimizer steps that its writer has made; None where it does not say
    """

    weights: Mapping[str, Read]
    moments: Mapping[str, Mapping[str, Read]] = field(default_factory=dict)
    step: int | None = None


def stored(tensor: Tensor) -> Read:
    """A tensor that is there already."""
    return lambda: tensor
