"""A folder that save_pretrained of transformers wrote: weights alone, in one file or in several with an index."""

from __future__ import annotations

import json
from pathlib import Path

from trainkit.foreign import safetensors, torch
from trainkit.foreign.formats import HF_FILES
from trainkit.foreign.source import Foreign, Read, Trained


def read(path: Path, trained: Trained | None) -> Foreign:
    return Foreign(weights=weights(path))


def weights(folder: Path) -> dict[str, Read]:
    """The weights in a folder with one of HF_FILES."""
    first = next(folder / name for name in HF_FILES if (folder / name).is_file())
    if first.suffix != ".json":
        return _file(first)
    files = sorted(set(json.loads(first.read_text())["weight_map"].values()))
    return {name: tensor for file in files for name, tensor in _file(folder / file).items()}


def _file(path: Path) -> dict[str, Read]:
    return safetensors.tensors(path) if path.suffix == ".safetensors" else torch.tensors(torch.load(path))
