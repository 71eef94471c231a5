"""A file of torch.save: a state dict, or a dict with one in it and perhaps the optimizer's beside it.

It is a pickle; torch unpickles tensors and plain values only (weights_only), and nothing that could run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit.foreign import moments
from trainkit.foreign.source import Foreign, Read, Trained, stored

MODEL = ("model", "model_state_dict", "state_dict", "module")
OPTIMIZER = ("optimizer", "optimizer_state_dict")
STEP = ("step", "global_step", "iteration")
"""What the parts of such a dict are commonly called."""


def read(path: Path, trained: Trained | None) -> Foreign:
    content = load(path)
    model, optimizer = _part(content, MODEL), _part(content, OPTIMIZER)
    if model is None:
        return Foreign(weights=tensors(content))
    told = next((content[key] for key in STEP if isinstance(content.get(key), int)), None)
    if optimizer is None or trained is None:
        return Foreign(weights=tensors(model), step=told)
    found = moments.by_name(optimizer, trained)
    return Foreign(weights=tensors(model), moments=found, step=moments.steps(found) if told is None else told)


def load(path: Path) -> Any:
    """What is in the file. Tensors stay on the disk until they are used."""
    import torch

    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def tensors(state: Mapping[str, Any]) -> dict[str, Read]:
    """The tensors of a state dict."""
    import torch

    return {name: stored(value) for name, value in state.items() if isinstance(value, torch.Tensor)}


def _part(content: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any] | None:
    return next((content[name] for name in names if isinstance(content.get(name), Mapping)), None)
