"""The order in which a module is made ready for a mesh of ranks, on one page:

    tensor parallel -> compile -> context parallel -> activation checkpointing -> FSDP

Each step wraps what the steps before it left: FSDP gathers, outside of the recomputed and compiled part, the weights
that tensor parallelism has divided. (A checkpoint around divided layers is nothing that torch can compile, so it is
outside.) Names of parameters stay the module's own. The module may be a whole model or one stage of a pipeline;
`blocks` are the repeated layers in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from trainkit.strategy._context import attend
from trainkit.strategy._gather import RoundedGather
from trainkit.strategy._mesh import MeshWorld
from trainkit.strategy._meshed import Sharding, Splitting
from trainkit.strategy._spmd import recompute
from trainkit.strategy._tensor import Modes, Plan, divide


@dataclass(frozen=True, kw_only=True)
class Options:
    """How it is done: the axes' own options, and what is the same under every strategy. `plan` is that of the whole
    model (Task.tensor_plan); it is looked at where there is a tensor axis."""

    sharding: Sharding
    splitting: Splitting
    plan: Plan | None
    activation_checkpointing: bool
    compile: bool


def parallelize(module: nn.Module, blocks: Sequence[nn.Module], world: MeshWorld, options: Options) -> Modes:
    """Make `module`, whole on the CPU and equal on all ranks that share it, this rank's part of it, on its device.

    Returns the modes of its forward."""
    modes = Modes()
    if options.plan is not None and world.axes.tensor > 1:
        modes = divide(module, world.mesh["tensor"], options.plan, options.splitting.sequence_parallel)
    if options.compile:
        compile_each(blocks or [module], same_shapes=options.splitting.sequence_parallel)
    if world.context is not None:
        attend(module, blocks, world.context, modes)
    if options.activation_checkpointing:
        recompute(blocks)
    if world.data_mesh().size() > 1 or options.sharding.cpu_offload:
        shard(module, blocks, world, options)
    if not options.sharding.cpu_offload and not without_storage(module):
        module.to(world.device)  # what no step above has moved
    return modes


def without_storage(module: nn.Module) -> bool:
    """Whether `module` has shapes only: on torch's meta device, where it is simulated."""
    return any(p.is_meta for p in module.parameters())


def compile_each(parts: Sequence[nn.Module], same_shapes: bool) -> None:
    """Compile part by part: equal parts share one graph. With `same_shapes` every shape has a graph of its own: torch
    2.13 cannot have variable lengths in a norm over a divided sequence."""
    for part in parts:
        part.forward = torch.compile(part.forward, dynamic=False if same_shapes else None)


def shard(module: nn.Module, blocks: Sequence[nn.Module], world: MeshWorld, options: Options) -> None:
    """FSDP (Zhao et al., VLDB 2023, arXiv:2304.11277), as torch's fully_shard: every block with weights gathers them
    for its own forward and backward, and `module` what is in no block. The outermost keeps its weights from forward to
    backward, which follows at once.

    With train.precision=bf16, too, gathered weights are fp32, which autocast rounds for its matrices. torch's
    MixedPrecisionPolicy would have norms and embeddings in bf16 as well, which autocast computes in fp32: the residual
    stream would be bf16, and torch 2.13 refuses such a norm on the CPU. So it is the gather that rounds."""
    wanted, on_gpu = options.sharding, world.device.type == "cuda"
    common: dict[str, Any] = {
        "mesh": world.data_mesh(),
        "mp_policy": MixedPrecisionPolicy(cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy(pin_memory=on_gpu) if wanted.cpu_offload else OffloadPolicy(),
    }
    for block in blocks:
        if next(block.parameters(), None) is not None:
            fully_shard(block, reshard_after_forward=wanted.reshard_after_forward, **common)
    fully_shard(module, **common)
    if wanted.gather_dtype == "bf16":
        for part in sharded(module):
            part.set_custom_all_gather(RoundedGather())


def sharded(module: nn.Module) -> list[FSDPModule]:
    """The modules under `module`, itself included, that gather their own weights."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]
