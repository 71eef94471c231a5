"""The strategies on a mesh of ranks, simulated by their own code: this process is a rank in a fake process group,
builds that rank's engine with fake tensors, and makes one optimizer step. So for one rank of every stage of a pipeline;
how a parameter is divided says its DTensor, and from that follows what the other ranks have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import Placement
from torch.nn.modules.module import register_module_forward_pre_hook

from trainkit.protocols import Batch, Training
from trainkit.simulation import formula
from trainkit.simulation.fake import Looked, fake_rank, fake_storage, shapes_of
from trainkit.simulation.saved import Kept
from trainkit.simulation.traffic import Traffic
from trainkit.simulation.values import Collective, Coordinates, Figures, Memory, Shape, Simulation
from trainkit.strategy import _mesh_engine, _pipeline
from trainkit.strategy._axes import Axes
from trainkit.strategy._mesh import DATA, MeshWorld
from trainkit.strategy._mesh_engine import MeshEngine
from trainkit.strategy._meshed import Meshed
from trainkit.strategy._norm import local
from trainkit.strategy._pipeline import PipelineEngine
from trainkit.strategy._spmd import SpmdEngine


@dataclass(frozen=True, kw_only=True)
class Part:
    """A parameter as the ranks of a stage divide it.

    split    how, along each of the axes named in `axes`
    trained  whether it has a gradient
    late     which comes whole on each rank of the tensor axis, and is divided after that: an embedding's
    moments  how many tensors of its shape the optimizer keeps; `scalars`: bytes of the others
    """

    shape: Shape
    itemsize: int
    axes: tuple[str, ...]
    split: tuple[Placement, ...]
    trained: bool
    late: bool
    moments: int
    scalars: int

    def at(self, place: Coordinates, sizes: Mapping[str, int]) -> Shape:
        """The shape of what the rank at `place` has of it, with as many ranks along the axes as `sizes` says."""
        if not self.axes:
            return self.shape
        counts, numbers = (tuple(found[axis] for axis in self.axes) for found in (sizes, place))
        return _at(self.shape, counts, numbers, self.split)

    def bytes(self, place: Coordinates, sizes: Mapping[str, int], whole: Sequence[str] = ()) -> int:
        """Of what the rank at `place` has of it; `whole`: axes that do not divide it."""
        once, first = dict.fromkeys(whole, 1), dict.fromkeys(whole, 0)
        return prod(self.at({**place, **first}, {**sizes, **once})) * self.itemsize

    def gradient(self, place: Coordinates, sizes: Mapping[str, int], whole: Sequence[str]) -> int:
        """Bytes of its gradient as backward leaves it."""
        return self.bytes(place, sizes, (*whole, "tensor") if self.late else whole)


@lru_cache(maxsize=2**16)  # layers are alike, and torch cuts a tensor in pieces to answer
def _at(shape: Shape, sizes: Shape, place: Shape, split: tuple[Placement, ...]) -> Shape:
    return tuple(_compute_local_shape_and_global_offset(shape, list(sizes), list(place), split, skip_offset=True)[0])


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the ranks have alike that differ along the data axes only."""

    parts: Mapping[str, Part]
    parameters: int
    collectives: tuple[Collective, ...]
    kept: Kept


def simulate(training: Training, strategy: Meshed, ranks: int, share: Sequence[Batch]) -> Simulation:
    """`share`: the micro-batches of a rank. Raises ConfigError where the model does not divide."""
    axes = strategy.axes(ranks).fill(ranks)
    run = Run(replace(training, compile=False), strategy, axes, share)
    return Simulation(
        axes=axes.sizes(),
        parameters=run.step(0, 0).parameters,
        micro_batches=len(share),
        formula=_formula(training, strategy, axes, share),
        rank_at=run.rank_at,
    )


class Run:
    """The simulated steps of a run, each made when it is first asked for."""

    def __init__(self, training: Training, strategy: Meshed, axes: Axes, share: Sequence[Batch]) -> None:
        self._training, self._strategy, self._axes, self._share = training, strategy, axes, share
        self._sizes = axes.sizes()
        self._made: dict[tuple[int, int], Step] = {}
        self._found: dict[tuple[int, int, int], Figures] = {}

    def rank_at(self, place: Coordinates) -> Figures:
        key = place["pipeline"], place["shard"], place["tensor"]  # replicas have the same
        if key not in self._found:
            self._found[key] = self._figures(place)
        return self._found[key]

    def _figures(self, place: Coordinates) -> Figures:
        sizes, step = self._sizes, self.step(place["pipeline"], place["tensor"])
        trained = [part for part in step.parts.values() if part.trained]
        divided = sum(part.bytes(place, sizes) for part in trained)
        gathering = self._axes.data > 1
        memory = Memory(
            weights=sum(part.bytes(place, sizes) for part in step.parts.values()),
            gradients=divided if gathering else sum(part.gradient(place, sizes, ()) for part in trained),
            accumulated=sum(part.gradient(place, sizes, DATA) for part in trained) if self._waits() else 0,
            moments=sum(part.moments * part.bytes(place, sizes) + part.scalars for part in trained),
            average=divided if self._training.ema else 0,
            activations=step.kept.activations,
            copies=step.kept.copies,
        )
        return {name: part.at(place, sizes) for name, part in step.parts.items()}, memory, step.collectives

    def _waits(self) -> bool:
        """Whether gradients are divided after the last micro-batch only; in a pipeline, torch's schedules see to it."""
        several = len(self._share) > 1 and not self._strategy.sharding().accumulate_sharded
        return self._axes.data > 1 and (several or self._axes.pipeline > 1)

    def step(self, pipeline: int, tensor: int) -> Step:
        """Of a rank with these coordinates. Tensor ranks whose parts are as large as the first one's do as it does."""
        if (pipeline, tensor) not in self._made:
            alike = tensor > 0 and self._alike(self.step(pipeline, 0), tensor)
            self._made[pipeline, tensor] = self.step(pipeline, 0) if alike else self._make(pipeline, tensor)
        return self._made[pipeline, tensor]

    def _alike(self, first: Step, tensor: int) -> bool:
        start = dict.fromkeys(self._sizes, 0)
        place = start | {"tensor": tensor}
        return all(part.at(place, self._sizes) == part.at(start, self._sizes) for part in first.parts.values())

    def _make(self, pipeline: int, tensor: int) -> Step:
        """By the last of the ranks with these coordinates: rank 0 is the one that speaks to the user."""
        axes = self._axes
        number = ((pipeline + 1) * axes.data - 1) * axes.tensor + tensor
        with fake_rank(number, axes.unit) as group:
            world = MeshWorld.over(group, axes)
            fake = FakeTensorMode(allow_non_fake_inputs=True)
            engine = self._engine(world, fake)
            names: dict[str, str] = {
                world.mesh.get_group(axis).group_name: axis for axis in world.mesh.mesh_dim_names or ()
            }
            traffic, kept, late = Traffic(names), Kept(), Late(engine.model)
            with fake, Looked(), late.watching():
                step(engine, self._share, traffic, kept)
            return Step(
                parts={n: _part(p, engine, n in late.names) for n, p in engine.model.named_parameters()},
                parameters=engine.size()[0],
                collectives=traffic.found(),
                kept=kept,
            )

    def _engine(self, world: MeshWorld, fake: FakeTensorMode) -> SpmdEngine:
        """The strategy's engine, but for the comparisons between ranks and with the whole model."""
        training, strategy = self._training, self._strategy
        sharding, splitting, staging = strategy.sharding(), strategy.splitting(), strategy.staging()
        model = shapes_of(training.task)
        if world.axes.pipeline == 1:
            made = _mesh_engine.make_part(training, model, world, sharding, splitting)
            with fake:
                fake_storage(model, world.device)
                return MeshEngine(training, model, world, *made)
        pieces = _pipeline.cut(training.task, model, world, staging)
        line = _pipeline.line_up(training, model, world, pieces, sharding, splitting, staging)
        with fake:
            fake_storage(line.model, world.device)
            return PipelineEngine(training, line, world)


class Late:
    """The names of the parameters of `model` whose gradients come larger than they are, also of those that FSDP
    gathers."""

    def __init__(self, model: nn.Module) -> None:
        self._prefixes = {module: f"{name}." if name else "" for name, module in model.named_modules()}
        self.names: set[str] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        noted = register_module_forward_pre_hook(lambda module, args: self._look(module))
        try:
            yield
        finally:
            noted.remove()

    def _look(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, DTensor) and parameter.requires_grad and module in self._prefixes:
                size = local(parameter.detach()).numel()
                note = partial(self._note, f"{self._prefixes[module]}{name}", size)
                parameter.register_hook(note)  # type: ignore[no-untyped-call]

    def _note(self, name: str, size: int, gradient: Tensor) -> None:
        if local(gradient.detach()).numel() > size:
            self.names.add(name)


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


def step(engine: SpmdEngine, share: Sequence[Batch], traffic: Traffic, kept: Kept) -> None:
    """One optimizer step, watched."""
    with traffic:
        with kept.watching():
            engine.forward_backward(share, sum(batch.weight for batch in share))
        with Looked(norm=1.0):
            engine.update(0.0)


def _part(parameter: Tensor, engine: SpmdEngine, late: bool) -> Part:
    state = [t for t in engine.optimizer.state.get(parameter, {}).values() if isinstance(t, Tensor)]
    return Part(
        shape=tuple(parameter.shape),
        itemsize=parameter.element_size(),
        axes=(parameter.device_mesh.mesh_dim_names or ()) if isinstance(parameter, DTensor) else (),
        split=parameter.placements if isinstance(parameter, DTensor) else (),
        trained=parameter.requires_grad,
        late=late,
        moments=sum(t.shape == parameter.shape for t in state),
        scalars=sum(t.numel() * t.element_size() for t in state if t.shape != parameter.shape),
    )
