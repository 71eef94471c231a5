"""The strategies on a mesh of ranks, simulated by their own code: this process is one rank of each stage of a pipeline
in turn, in a fake process group, builds that rank's engine with fake tensors, and makes one optimizer step.

Where the rank's part of a parameter lies says the DTensor; so what any other rank has follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import Placement

from trainkit.protocols import Batch, Training
from trainkit.simulation import formula
from trainkit.simulation.fake import Looked, fake_rank, fake_storage
from trainkit.simulation.saved import Kept
from trainkit.simulation.traffic import Traffic
from trainkit.simulation.values import Collective, Coordinates, Memory, Simulation
from trainkit.strategy import _mesh_engine, _pipeline
from trainkit.strategy._axes import Axes
from trainkit.strategy._mesh import DATA, MeshWorld
from trainkit.strategy._mesh_engine import MeshEngine
from trainkit.strategy._meshed import Meshed
from trainkit.strategy._pipeline import PipelineEngine
from trainkit.strategy._spmd import SpmdEngine, task_model

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A parameter as the ranks of a stage divide it.

    split    how, along each of the axes named in `axes`
    moments  how many tensors of its shape the optimizer keeps, 0 where it is frozen; `scalars`: bytes of the others
    """

    shape: Shape
    itemsize: int
    axes: tuple[str, ...]
    split: tuple[Placement, ...]
    moments: int
    scalars: int

    def at(self, place: Coordinates, sizes: Mapping[str, int]) -> Shape:
        """The shape of what the rank at `place` has of it, with as many ranks along the axes as `sizes` says."""
        if not self.axes:
            return self.shape
        where = [sizes[axis] for axis in self.axes], [place[axis] for axis in self.axes]
        return tuple(_compute_local_shape_and_global_offset(self.shape, *where, self.split, skip_offset=True)[0])

    def bytes(self, place: Coordinates, sizes: Mapping[str, int]) -> int:
        return prod(self.at(place, sizes)) * self.itemsize


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the ranks of one stage of a pipeline have alike; the whole model where there is no pipeline."""

    parts: Mapping[str, Part]
    parameters: int
    collectives: tuple[Collective, ...]
    kept: Kept


def simulate(training: Training, strategy: Meshed, ranks: int, share: Sequence[Batch]) -> Simulation:
    """`share`: the micro-batches of a rank. Raises ConfigError where the model does not divide."""
    axes = strategy.axes(ranks).fill(ranks)
    sizes = axes.sizes()
    training = replace(training, compile=False)
    stages = [_stage(training, strategy, axes, place, share) for place in range(axes.pipeline)]
    whole = axes.data > 1 and (
        axes.pipeline > 1 or (len(share) > 1 and not strategy.sharding().accumulate_sharded)
    )  # gradients, until the last micro-batch; a pipeline's always

    def rank_at(place: Coordinates) -> tuple[Mapping[str, Shape], Memory, tuple[Collective, ...]]:
        stage = stages[place["pipeline"]]
        undivided = sizes | dict.fromkeys(DATA, 1), {**place, **dict.fromkeys(DATA, 0)}
        held = [(part, part.bytes(place, sizes)) for part in stage.parts.values()]
        trained = [(part, size) for part, size in held if part.moments]
        memory = Memory(
            weights=sum(size for _, size in held),
            gradients=sum(size for _, size in trained),
            accumulated=sum(part.bytes(undivided[1], undivided[0]) for part, _ in trained) if whole else 0,
            moments=sum(part.moments * size + part.scalars for part, size in trained),
            average=sum(size for _, size in trained) if training.ema else 0,
            activations=stage.kept.activations,
            copies=stage.kept.copies,
        )
        return {name: part.at(place, sizes) for name, part in stage.parts.items()}, memory, stage.collectives

    return Simulation(
        axes=sizes,
        parameters=stages[0].parameters,
        micro_batches=len(share),
        formula=_formula(training, strategy, axes, share),
        rank_at=rank_at,
    )


def _formula(training: Training, strategy: Meshed, axes: Axes, share: Sequence[Batch]) -> int | None:
    """Without a pipeline only: with one it is a matter of the schedule how many micro-batches are under way."""
    if axes.pipeline > 1:
        return None
    splitting = strategy.splitting()
    divided = formula.Divided(
        tensor=axes.tensor,
        sequence=splitting.sequence_parallel,
        logits=splitting.loss_parallel,
        recomputed=training.activation_checkpointing,
    )
    return formula.of(training, share, divided)


def _stage(training: Training, strategy: Meshed, axes: Axes, place: int, share: Sequence[Batch]) -> Stage:
    """By the last rank of the stage: rank 0 is the one that speaks to the user."""
    ranks = axes.unit
    with fake_rank((place + 1) * ranks // axes.pipeline - 1, ranks) as group:
        world = MeshWorld.over(group, axes)
        with torch.device("meta"):
            model = task_model(training)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        engine: SpmdEngine
        if axes.pipeline > 1:
            pieces = _pipeline.cut(training.task, model, world, strategy.staging())
            ways = strategy.sharding(), strategy.splitting(), strategy.staging()
            line = _pipeline.line_up(training, model, world, pieces, *ways)
            with fake:
                fake_storage(line.model, world.device)
                engine = PipelineEngine(training, line, world)
        else:
            made = _mesh_engine.make_part(training, model, world, strategy.sharding(), strategy.splitting())
            with fake:
                fake_storage(model, world.device)
                engine = MeshEngine(training, model, world, *made)
        names = {world.mesh.get_group(axis).group_name: axis for axis in world.mesh.mesh_dim_names or ()}
        traffic, kept = Traffic(names), Kept()
        with fake, Looked():
            step(engine, share, traffic, kept)
        return Stage(
            parts={name: _part(parameter, engine) for name, parameter in engine.model.named_parameters()},
            parameters=engine.size()[0],
            collectives=traffic.found(),
            kept=kept,
        )


def step(engine: SpmdEngine, share: Sequence[Batch], traffic: Traffic, kept: Kept) -> None:
    """One optimizer step, watched."""
    with traffic:
        with kept.watching():
            engine.forward_backward(share, sum(batch.weight for batch in share))
        engine.update(0.0)


def _part(parameter: Tensor, engine: SpmdEngine) -> Part:
    state = [t for t in engine.optimizer.state.get(parameter, {}).values() if isinstance(t, Tensor)]
    divided = isinstance(parameter, DTensor)
    return Part(
        shape=tuple(parameter.shape),
        itemsize=parameter.element_size(),
        axes=(parameter.device_mesh.mesh_dim_names or ()) if divided else (),
        split=tuple(parameter.placements) if divided else (),
        moments=sum(t.shape == parameter.shape for t in state),
        scalars=sum(t.numel() * t.element_size() for t in state if t.shape != parameter.shape),
    )
