"""An Accelerator around the shared engine.

    connect   torch's process group, as under every strategy; the Accelerator finds it and takes it over
    build     Accelerator  ->  it sees all ranks, or the run is refused  ->  model and optimizer wrapped

Accelerate keeps what it found out in variables of the process, for good. `close` makes it forget.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
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
    group = _world.connect(device, timeout_s)
    return AcceleratedWorld(device=group.device, rank=group.rank, size=group.size)


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
    """Raise TrainkitError if `accelerator` does not stand where this rank stands. An earlier Accelerator in this
    process (a recipe's, a library's) or a variable of the environment can have fixed that before."""
    kind, device = accelerator.distributed_type.value, accelerator.device
    seen = (accelerator.process_index, accelerator.num_processes, device.type, device.index or 0)
    if kind in PLAIN and seen == (world.rank, world.size, world.device.type, world.device.index or 0):
        return
    variables = sorted(name for name in os.environ if name.startswith("ACCELERATE_"))
    raise TrainkitError(
        f"Accelerate started as rank {seen[0]} of {seen[1]} on {device} (distributed_type={kind}), but this is rank "
        f"{world.rank} of {world.size} on {world.device}: the ranks would train apart, and nothing would say so\n"
        "    make no Accelerator in the recipe, and unset the environment variables ACCELERATE_* "
        f"(set: {', '.join(variables) or 'none'})"
    )
