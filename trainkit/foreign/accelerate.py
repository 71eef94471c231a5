"""A folder that Accelerator.save_state wrote: the weights, and the state of a torch optimizer.

Under DeepSpeed it is a DeepSpeed checkpoint with files of Accelerate's beside it, and is read as one. The counter of
micro-batches and the random numbers are not read: trainkit's are functions of its own step.
"""

from __future__ import annotations

import re
from pathlib import Path

from trainkit.errors import ConfigError, Problem
from trainkit.foreign import hf, moments, torch
from trainkit.foreign.source import Foreign, Trained

FSDP = "pytorch_model_fsdp.bin"
SECOND = re.compile(r"(model|pytorch_model)_\d+\.(safetensors|bin)")


def read(path: Path, trained: Trained | None) -> Foreign:
    several = sorted(file.name for file in path.iterdir() if SECOND.fullmatch(file.name))
    if several:
        told = f"{path} holds several models: besides the first, {', '.join(several)}"
        raise ConfigError([Problem("", "", told, "import one by its file")])
    weights = torch.tensors(torch.load(path / FSDP)) if (path / FSDP).is_file() else hf.weights(path)
    file = path / "optimizer.bin"
    if trained is None or not file.is_file():
        return Foreign(weights=weights)
    found = moments.by_name(torch.load(file), trained)
    return Foreign(weights=weights, moments=found, step=moments.steps(found))
