"""A DeepSpeed checkpoint: ZeRO stage 1, 2 or 3 as its engine saves it, or the universal one made from it.

What the ranks held is put together by DeepSpeed's own zero_to_fp32. That knows the fp32 weights only; each moment of
the optimizer is laid out as they are, so the same code puts it together when it is shown the moment in their place.
Written against DeepSpeed 0.19. Its files are pickles of its own objects: reading one runs what is in it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.errors import ConfigError, Problem, TrainkitError
from trainkit.foreign.formats import tagged
from trainkit.foreign.source import Foreign, Read, Trained, stored

if TYPE_CHECKING:
    from torch import Tensor

Flat = list[list["Tensor"]]
"""One flat tensor per rank and parameter group, all parameters of the group one after the other."""


def read(path: Path, trained: Trained | None) -> Foreign:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported
    try:
        from deepspeed.utils import zero_to_fp32
    except ImportError as error:
        raise TrainkitError(f"DeepSpeed cannot be loaded: {error}\n    pip install 'trainkit[deepspeed]'") from error
    folder = tagged(path)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it tells of its progress there
        return universal(folder) if (folder / "zero").is_dir() else divided(folder, zero_to_fp32, trained is not None)


def divided(folder: Path, zero: Any, with_moments: bool) -> Foreign:
    """What each rank saved for itself; `zero` is DeepSpeed's module."""
    models = sorted(folder.glob("*_model_states.pt"))
    shards = [_load(file)["optimizer_state_dict"] for file in zero.get_optim_files(str(folder))]
    stage, counts = shards[0]["zero_stage"], shards[0]["partition_count"]
    ranks = max(counts) if isinstance(counts, list) else counts
    if ranks != len(shards) or any("mp_rank_00" not in file.name for file in models):
        found = f"{folder} has the optimizer states of {len(shards)} ranks, of {ranks} that divided the data"
        hint = "copy those of all ranks; of a model that was divided too, make a universal checkpoint (ds_to_universal)"
        raise ConfigError([Problem("", "", found, hint)])
    states = zero.parse_model_states(zero.get_model_state_files(str(folder)))
    weights = [[*shard["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"]] for shard in shards]
    merge = partial(_merge, zero, stage, states, shards[0].get("param_alignment_paddings"))
    if stage == 3:
        whole = zero._get_fp32_state_dict_from_zero3_checkpoint(len(shards), weights, states, False)
    else:
        paddings = shards[0].get("param_alignment_paddings")
        whole = zero._get_fp32_state_dict_from_zero2_checkpoint(len(shards), weights, states, False, paddings)
    step = int(_load(models[0])["global_steps"])
    moments = _moments(shards, stage, weights, merge, step) if with_moments else {}
    return Foreign(weights=_readers(whole), moments=moments, step=step)


def _moments(shards: Sequence[Any], stage: int, weights: Flat, merge: Any, step: int) -> dict[str, dict[str, Read]]:
    """By parameter. `step`: for an optimizer that counts for all parameters together."""
    import torch

    kept = [_states(shard, stage) for shard in shards]
    names = [key for key, value in kept[0][0].items() if isinstance(value, torch.Tensor) and value.ndim == 1]
    merged = {}
    for key in names:
        # Saved with the padding of the last rank, which the weights are saved without.
        flat = [[s[key][: len(w)] for s, w in zip(*each, strict=True)] for each in zip(kept, weights, strict=True)]
        merged[key] = _readers(merge(flat))
    counted = torch.tensor(float(kept[0][0].get("step", step)))
    return {
        name: {key: merged[key][name] for key in names} | {"step": stored(counted)}
        for name in (merged[names[0]] if names else ())
    }


def _states(shard: Mapping[str, Any], stage: int) -> list[Mapping[str, Any]]:
    """The optimizer's state per parameter group (or sub-group of stage 3) of one rank."""
    found = shard["optimizer_state_dict" if stage == 3 else "base_optimizer_state"]
    return [found["state"][i] for i in sorted(found["state"])] if isinstance(found, Mapping) else found


def _merge(zero: Any, stage: int, states: Any, paddings: Any, flat: Flat) -> dict[str, Any]:
    """Whole tensors by name, out of what the ranks held of the trained parameters."""
    whole: dict[str, Any] = {}
    if stage == 3:
        zero._zero3_merge_trainable_params(whole, len(flat), flat, states)
    else:
        zero._zero2_merge_trainable_params(whole, len(flat), flat, states, paddings)
    return whole


def universal(folder: Path) -> Foreign:
    """One folder per parameter, with the weight and each moment in a file of its own."""
    (model, *_) = sorted(folder.glob("*_model_states.pt"))
    kept = _load(model)
    shapes = {name: shape for group in kept["param_shapes"] for name, shape in group.items()}
    weights: dict[str, Read] = {}
    moments: dict[str, dict[str, Read]] = {}
    for part in sorted(path for path in (folder / "zero").iterdir() if path.is_dir()):
        files, shape = {file.stem: file for file in part.glob("*.pt")}, shapes.get(part.name)
        weights[part.name] = partial(_piece, files.pop("fp32"), shape)
        if files:
            step = {"step": stored(_count(kept["global_steps"]))}
            moments[part.name] = step | {key: partial(_piece, file, shape) for key, file in files.items()}
    # What counts in whole numbers was made fp32 on the way, and is as it was here.
    weights |= {name: stored(value) for name, value in kept["module"].items() if name in kept["buffer_names"]}
    return Foreign(weights=weights, moments=moments, step=int(kept["global_steps"]))


def _piece(file: Path, shape: Any) -> Tensor:
    """A tensor of a universal checkpoint, which may lie flat in its file."""
    found = _load(file)
    value = found["param"] if isinstance(found, Mapping) else found
    tensor = value if file.stem != "step" else _count(value)
    return tensor if shape is None or file.stem == "step" else tensor.view(shape)


def _count(value: Any) -> Tensor:
    import torch

    return torch.tensor(float(value))


def _readers(whole: Mapping[str, Any]) -> dict[str, Read]:
    return {name: value.contiguous for name, value in whole.items()}


def _load(file: Path | str) -> Any:
    import torch

    return torch.load(file, map_location="cpu", mmap=True, weights_only=False)
