"""The canonical form of a model's state: every tensor under the model's own name, once, whole or as a DTensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Live tensors of the trainable parameters and the persistent buffers of `model`. Frozen parameters are left
    out, because the recipe makes them (a pretrained base); tied ones appear once, under their first name."""
    from torch import nn

    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        frozen = isinstance(value, nn.Parameter) and not value.requires_grad
        if not frozen and id(value) not in seen:
            seen.add(id(value))
            state[name] = value.detach()
    return state


def first_names(model: nn.Module) -> dict[str, str]:
    """Of every name in the state of `model` the first of the same tensor: tied parameters have several."""
    firsts: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    return {name: firsts.setdefault(id(value), name) for name, value in state.items()}


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of what the optimizer moves, each once."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def leaves(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a nested `state` holds, each by its dotted name."""
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def wildcard(name: str) -> str:
    """`name` with * for every number in it: layers.3.norm -> layers.*.norm."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
