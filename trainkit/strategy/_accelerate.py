"""An Accelerator around the shared engine.

    connect   torch's process group, as under every strategy; the Accelerator finds it and takes it over
    build     Accelerator  ->  it sees all ranks, or the run is refused  ->  model and optimizer wrapped

Accelerate keeps what it found out in variables of the process, for good. `close` makes it forget.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import GradientAccumulationPlugin

from trainkit.errors import TrainkitError
from trainkit.protocols import Training, World
from trainkit.strategy import _world
from trainkit.strategy._accelerate_config import ConfigFile
from trainkit.strategy._spmd import SpmdEngine, build_model

PLAIN = {"NO", "MULTI_CPU", "MULTI_GPU"}
"""The kinds of distribution under which every rank holds the whole model."""


@dataclass(frozen=True, kw_only=True)
class AcceleratedWorld(_world.Group):
    """A rank of the process group that the Accelerator shares."""

    def close(self) -> None:
        super().close()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def connect(device: str, timeout_s: float) -> AcceleratedWorld:
    """Join the process group that the launcher describes in torchrun's environment variables."""
    if PartialState._shared_state:
        refuse(PartialState(), f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}")
    group = _world.connect(device, timeout_s)
    return AcceleratedWorld(device=group.device, rank=group.rank, size=group.size, patience=group.patience)


def build(training: Training, world: World, file: ConfigFile) -> SpmdEngine:
    """The engine whose model and optimizer an Accelerator has prepared. Its own precision, accumulation and
    compilation are off, because the engine has them; environment variables of Accelerate's cannot turn them on."""
    accelerator = Accelerator(
        cpu=start_on_cpu(world, file),
        mixed_precision="no",
        dynamo_backend="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    refuse_other_start(accelerator, world)
    model = build_model(training, world)
    wrapped = accelerator.prepare(model)
    engine = SpmdEngine(training, model, wrapped, world, partial(accelerator.no_sync, wrapped))
    engine.optimizer = accelerator.prepare(engine.optimizer)
    return engine


def start_on_cpu(world: World, file: ConfigFile) -> bool:
    """Set what Accelerate reads at its start; returns whether it is to be told that this is a CPU. Without being
    told it takes ranks on CPUs for single processes."""
    for key, variable in {"debug": "DEBUG_MODE", "enable_cpu_affinity": "CPU_AFFINITY"}.items():
        if file.values.get(key):
            os.environ[f"ACCELERATE_{variable}"] = "true"
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # or it chooses, blind to other ranks
    return world.device.type == "cpu"


def refuse_other_start(accelerator: Accelerator, world: World) -> None:
    """Raise TrainkitError if `accelerator` does not stand where this rank stands: an earlier one in this process (a
    recipe's, a library's) or a variable of the environment has fixed that for it."""
    device = accelerator.device
    seen = (accelerator.process_index, accelerator.num_processes, device.type, device.index or 0)
    if (
        seen != (world.rank, world.size, world.device.type, world.device.index or 0)
        or kind_of(accelerator) not in PLAIN
    ):
        refuse(accelerator, f"rank {world.rank} of {world.size} on {world.device}")


def refuse(started: Accelerator | PartialState, place: str) -> NoReturn:
    """Raise TrainkitError: how Accelerate was `started`, and the `place` of this rank in the run."""
    variables = sorted(name for name in os.environ if name.startswith("ACCELERATE_"))
    raise TrainkitError(
        f"Accelerate started as rank {started.process_index} of {started.num_processes} on {started.device} "
        f"(distributed_type={kind_of(started)}), but this is {place}: the ranks would train apart, and nothing would "
        "say so\n    make no Accelerator in the recipe, and unset the environment variables ACCELERATE_* "
        f"(set: {', '.join(variables) or 'none'})"
    )


def kind_of(started: Accelerator | PartialState) -> str:
    return str(started.distributed_type.value)
