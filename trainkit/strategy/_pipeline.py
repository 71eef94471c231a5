"""The engine of a model that is cut into stages, each on ranks of its own (GPipe, Huang et al., NeurIPS 2019,
arXiv:1811.06965; 1F1B and interleaved stages, Narayanan et al., SC 2021, arXiv:2104.04473; zero bubble, Qi et al.,
ICLR 2024, arXiv:2401.10241), by torch.distributed.pipelining.

Every rank of a pipeline reads the same micro-batches; the last stage computes the loss. Within a stage the other axes
of the mesh work as they do without a pipeline.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainkit.canonical import trainable, wildcard
from trainkit.parts import Parts
from trainkit.protocols import Batch, Engine, Task, Training, World
from trainkit.strategy._context import draw_apart
from trainkit.strategy._mesh import MeshWorld
from trainkit.strategy._mesh_engine import refusing_plan, split_by_layout
from trainkit.strategy._meshed import Sharding, Splitting, Staging
from trainkit.strategy._norm import clip, local, settled
from trainkit.strategy._parallelize import Options, parallelize
from trainkit.strategy._passes import Feed, Passes, Stage
from trainkit.strategy._spmd import SpmdEngine, task_model
from trainkit.strategy._stages import Absent, Sections, all_train, keeping, prove, sections
from trainkit.strategy._tensor import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a rank has of the pipeline.

    model   with everything that its stages have, under the model's own names
    stages  by number
    copies  names of weights that the first stage and the last both have
    whole   parameters of the whole model, and how many of them are trained
    """

    model: nn.Module
    stages: Mapping[int, Stage]
    passes: Passes
    feed: Feed
    copies: Sequence[str]
    whole: tuple[int, int]


def build(training: Training, world: World, sharding: Sharding, splitting: Splitting, staging: Staging) -> Engine:
    """The engine for `world`, which a Meshed strategy has connected and which has a pipeline axis."""
    if not isinstance(world, MeshWorld):
        raise TypeError(f"a mesh is needed, not {type(world).__name__}")
    model = task_model(training, world)
    found, parts = cut(training.task, model, world, staging)
    prove(model, found, parts)
    return PipelineEngine(
        training, line_up(training, model, world, (found, parts), sharding, splitting, staging), world
    )


def cut(task: Task, model: nn.Module, world: MeshWorld, staging: Staging) -> tuple[Sections, Parts]:
    """Where `model` is cut. Raises ConfigError where it does not fit."""
    ranks = world.axes.pipeline
    found, parts = sections(task, model, ranks * staging.virtual_stages, staging.cut)
    all_train(model, found, ranks)
    return found, parts


def line_up(
    training: Training,
    model: nn.Module,
    world: MeshWorld,
    pieces: tuple[Sections, Parts],
    sharding: Sharding,
    splitting: Splitting,
    staging: Staging,
) -> Line:
    """What this rank has of `model`, whole, cut into `pieces`. Raises ConfigError where a stage does not divide."""
    found, parts = pieces
    plan = refusing_plan(training.task, model, world, splitting)
    autocast = torch.autocast(world.device.type, torch.bfloat16, enabled=training.precision == "bf16")
    parts = replace(parts, first=(), last=())  # else what other stages have would stay in memory
    feed = Feed(training.task, parts, world.device, autocast)
    line = _line(model, found, feed, staging, world)
    for number, stage in line.stages.items():
        options = Options(
            sharding=sharding,
            splitting=splitting,
            plan=plan and stage_plan(stage, plan),
            activation_checkpointing=training.activation_checkpointing,
            compile=training.compile,
        )
        blocks = found.blocks[found.bounds[number] : found.bounds[number + 1]]
        parallelize(stage, [stage.model.get_submodule(name) for name in blocks], world, options)
    return line


def _line(model: nn.Module, found: Sections, feed: Feed, staging: Staging, world: MeshWorld) -> Line:
    ranks = world.axes.pipeline
    count = ranks * staging.virtual_stages
    numbers = range(world.coordinate("pipeline"), count, ranks)
    stages = {n: Stage(keeping(model, found.units, found.of([n])), n, n == count - 1, feed) for n in numbers}
    whole = sum(p.numel() for p in model.parameters()), sum(p.numel() for _, p in trainable(model))
    copied = [name for name, _ in trainable(model) if any(name.startswith(f"{unit}.") for unit in found.tied)]
    return Line(
        model=keeping(model, found.units, found.of(numbers)),
        stages=stages,
        passes=Passes(stages, count, staging.schedule, world.mesh.get_group("pipeline"), feed),
        feed=feed,
        copies=copied,
        whole=whole,
    )


def stage_plan(stage: Stage, plan: Plan) -> Plan:
    """What the whole model's `plan` says of the modules that `stage` has, by their names in it."""
    had = [name for name, module in stage.model.named_modules() if not isinstance(module, Absent)]
    styles = {name: plan.get(name, plan.get(wildcard(name))) for name in had}
    return {f"model.{name}": style for name, style in styles.items() if style is not None}


class PipelineEngine(SpmdEngine):
    """SpmdEngine whose model is this rank's part of a pipeline."""

    world: MeshWorld

    def __init__(self, training: Training, line: Line, world: MeshWorld) -> None:
        super().__init__(training, line.model, line.model, world)
        split_by_layout(self.optimizer)
        self._line, self._place = line, world.coordinate("pipeline")
        self._last = world.axes.pipeline - 1
        named = dict(trainable(line.model))
        self._copies = [named[name] for name in line.copies if name in named]
        if world.rank == 0 and type(self.task).sample is not Task.sample:
            log.warning("no sample is drawn: generation needs the whole model, and a rank has stages of it")

    def forward_backward(self, share: Sequence[Batch], weight: float) -> Tensor:
        """All ranks of the pipeline give the same share; the loss sum is the last stage's, and zero elsewhere."""
        if self._place:  # layers of different stages draw different random numbers (dropout)
            draw_apart(self._place)
        self._remember()
        feed = self._line.feed
        feed.loss = torch.zeros((), device=self.world.device)
        feed.start(share, training=True, scale=self.world.dp_size / weight if weight else 0.0)
        self._line.passes.run()
        self._settle()
        return feed.loss

    def _clip(self) -> Tensor:
        self._join_copies()
        elsewhere = self._copies if self._place else ()
        return clip(self.parameters, self.clip_norm, self.world, elsewhere)

    @torch.no_grad()
    def _join_copies(self) -> None:
        """Give the first stage and the last the sum of their gradients of the weights that both have. They add the same
        two numbers, so that the copies stay equal to the bit."""
        group = self.world.mesh.get_group("pipeline")
        for parameter in self._copies:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            settled(parameter)
            ours = local(parameter.grad)
            theirs = torch.empty_like(ours)
            peer = dist.get_global_rank(group, self._last - self._place)
            exchange = [dist.P2POp(dist.isend, ours, peer, group), dist.P2POp(dist.irecv, theirs, peer, group)]
            for work in dist.batch_isend_irecv(exchange):
                work.wait()
            ours.add_(theirs)

    def size(self) -> tuple[int, int]:
        return self._line.whole

    def evaluate(self, share: Iterable[Batch]) -> tuple[dict[str, Tensor], float]:
        """The sums are the last stage's, and zero elsewhere. As many micro-batches go through at once as keep every
        stage at work most of the time."""
        feed, weight, rest = self._line.feed, 0.0, iter(share)
        feed.sums = {}
        with self._evaluating():
            while batches := [*islice(rest, 4 * (self._last + 1))]:
                feed.start(batches, training=False)
                self._line.passes.run()
                weight += sum(batch.weight for batch in batches)
        gathered: list[list[str]] = self.world.gather([*feed.sums])
        names = next((found for found in gathered if found), [])
        zero = torch.zeros((), dtype=torch.float64, device=self.world.device)
        return {name: feed.sums.get(name, zero) for name in names}, weight

    def sample(self) -> str | None:
        return None

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The modules around a stage's parts are its own, not those of the view. What FSDP gathers, torch's schedules
        have given back at the end of a pass: before the averaged weights are exchanged for the others."""
        stages = self._line.stages.values()
        with super()._evaluating():
            for stage in stages:
                stage.eval()
            try:
                yield
            finally:
                for stage in stages:
                    stage.train()
