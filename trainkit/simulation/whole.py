"""The strategies under which every rank has the whole model: the engine of one process with fake tensors makes one
step; what the ranks exchange follows from its parameters.

ddp   DistributedDataParallel sends the gradients in buckets, in the order in which they are ready (Li et al., VLDB
      2020, arXiv:2006.15704), cut by torch's own function; and before the first forward of a step the buffers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import _compute_bucket_assignment_by_size
from torch._subclasses.fake_tensor import FakeTensorMode

from trainkit.protocols import Batch, Training
from trainkit.simulation import formula
from trainkit.simulation.fake import Looked, fake_storage, shapes_of
from trainkit.simulation.mesh import step
from trainkit.simulation.saved import Kept
from trainkit.simulation.traffic import Traffic
from trainkit.simulation.values import Collective, Coordinates, Figures, Memory, Shape, Simulation
from trainkit.strategy._spmd import SpmdEngine, recompute
from trainkit.strategy._world import Solo

AXIS = "replicas"


@dataclass(frozen=True, kw_only=True)
class Alone:
    """One process after a step of fake tensors. `ready`: the trained parameters in the order of their gradients."""

    engine: SpmdEngine
    ready: Sequence[nn.Parameter]
    kept: Kept

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return {name: tuple(p.shape) for name, p in self.engine.model.named_parameters()}


Evaluate = Callable[[Training, Sequence[Batch]], Alone]
"""alone, or what remembers what it found: it is the same under every strategy of this file and of zero.py."""


def alone(training: Training, share: Sequence[Batch]) -> Alone:
    """One process that makes a step with the micro-batches `share`."""
    model = shapes_of(training.task)
    if training.activation_checkpointing:
        recompute(training.task.blocks(model))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    kept, ready = Kept(), dict[nn.Parameter, None]()
    with fake:
        fake_storage(model, torch.device("cpu"))
        engine = SpmdEngine(replace(training, compile=False), model, model, Solo(device=torch.device("cpu")))
        for parameter in engine.parameters:
            parameter.register_post_accumulate_grad_hook(lambda p: ready.setdefault(p))  # type: ignore[no-untyped-call]
        with Looked():
            step(engine, share, Traffic({}), kept)
    return Alone(engine=engine, ready=list(ready), kept=kept)


def simulate(
    training: Training,
    ranks: int,
    share: Sequence[Batch],
    bucket_cap_mb: float | None,
    evaluate: Evaluate = alone,
) -> Simulation:
    """`share`: the micro-batches of a rank; `bucket_cap_mb` of ddp, None for one process alone."""
    found = evaluate(training, share)
    trained = size(found.engine.parameters)
    memory = Memory(
        weights=size(found.engine.model.parameters()),
        gradients=trained,
        accumulated=0,
        moments=sum(
            size(t for t in s.values() if isinstance(t, Tensor)) for s in found.engine.optimizer.state.values()
        ),
        average=trained if training.ema else 0,
        activations=found.kept.activations,
        copies=found.kept.copies,
    )
    collectives = () if bucket_cap_mb is None else exchanged(found, ranks, bucket_cap_mb)
    return simulation(training, ranks, share, found, memory, collectives)


def simulation(
    training: Training,
    ranks: int,
    share: Sequence[Batch],
    found: Alone,
    memory: Memory,
    collectives: tuple[Collective, ...],
) -> Simulation:
    """All ranks alike."""
    shapes = found.shapes

    def rank_at(place: Coordinates) -> Figures:
        return shapes, memory, collectives

    return Simulation(
        axes={AXIS: ranks},
        parameters=found.engine.size()[0],
        micro_batches=len(share),
        formula=formula.of(training, share, formula.Divided(recomputed=training.activation_checkpointing)),
        rank_at=rank_at,
    )


def exchanged(found: Alone, ranks: int, bucket_cap_mb: float) -> tuple[Collective, ...]:
    """What DistributedDataParallel sends in a step, from the third on: before, it learns the order and sorts anew."""
    limit = [int(bucket_cap_mb * 2**20)]
    buckets, _ = _compute_bucket_assignment_by_size([_meta(p) for p in found.ready], limit)
    reduced = Collective(
        kind="all_reduce", axis=AXIS, ranks=ranks, count=len(buckets), payload=size(found.engine.parameters)
    )
    buffers = size(found.engine.model.buffers())
    sent = Collective(kind="broadcast", axis=AXIS, ranks=ranks, count=1, payload=buffers)
    return (reduced, sent) if buffers else (reduced,)


def _meta(tensor: Tensor) -> Tensor:
    """Of the same size: torch's function looks at nothing else, and not at fake tensors."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def size(tensors: object) -> int:
    """Bytes of all `tensors` together."""
    return sum(t.numel() * t.element_size() for t in tensors)  # type: ignore[attr-defined]
