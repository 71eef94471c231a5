"""A safetensors file: weights alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from trainkit.foreign.source import Foreign, Read, Trained


def read(path: Path, trained: Trained | None) -> Foreign:
    return Foreign(weights=tensors(path))


def tensors(path: Path) -> dict[str, Read]:
    """The tensors of one file, each read when it is asked for."""
    from safetensors import safe_open

    file: Any = safe_open(path, framework="pt")
    return {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
