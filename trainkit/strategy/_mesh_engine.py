"""The engine of a model that is divided over the shard, context and tensor axes of a mesh."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel

from trainkit.errors import ConfigError
from trainkit.protocols import Batch, Engine, Task, Training, World
from trainkit.strategy._context import draw_apart
from trainkit.strategy._mesh import MeshWorld
from trainkit.strategy._meshed import Sharding, Splitting
from trainkit.strategy._norm import clip, local
from trainkit.strategy._parallelize import Options, parallelize, sharded
from trainkit.strategy._spmd import SpmdEngine, task_model
from trainkit.strategy._tensor import Modes, Plan, plan_problems

SAMPLE = "sample_within"


def build(training: Training, world: World, sharding: Sharding, splitting: Splitting) -> Engine:
    """The engine for `world`, which a Meshed strategy has connected."""
    if not isinstance(world, MeshWorld):
        raise TypeError(f"a mesh is needed, not {type(world).__name__}")
    model = task_model(training, world)
    return MeshEngine(training, model, world, *make_part(training, model, world, sharding, splitting))


def make_part(
    training: Training, model: nn.Module, world: MeshWorld, sharding: Sharding, splitting: Splitting
) -> tuple[Options, Modes]:
    """Make `model`, whole, this rank's part of it. Raises ConfigError where it does not divide."""
    plan = refusing_plan(training.task, model, world, splitting)
    refuse_sequences(training.task, world)
    options = Options(
        sharding=sharding,
        splitting=splitting,
        plan=plan,
        activation_checkpointing=training.activation_checkpointing,
        compile=training.compile,
    )
    return options, parallelize(model, training.task.blocks(model), world, options)


def refusing_plan(task: Task, model: nn.Module, world: MeshWorld, splitting: Splitting) -> Plan | None:
    """The task's plan for the tensor axis, None where there is no such axis. Raises ConfigError where `model` does not
    divide: what could not be known before it was built."""
    size = world.axes.tensor
    if size == 1:
        return None
    plan, shape = task.tensor_plan(model), task.model_shape()
    problems = [*(world.axes.model_problems(shape) if shape is not None else ())]
    problems += plan_problems(model, size, plan, splitting.sequence_parallel)
    if problems:
        raise ConfigError(problems)
    return plan


def refuse_sequences(task: Task, world: MeshWorld) -> None:
    """Raises ConfigError where the task's sequences do not divide over the context axis."""
    shape = task.model_shape()
    if problems := [*world.axes.sequence_problems(shape.sequence_length if shape is not None else None)]:
        raise ConfigError(problems)


class MeshEngine(SpmdEngine):
    """SpmdEngine whose parameters are DTensors, of several meshes, and plain tensors. With a context axis a rank is
    given its part of every sequence: what all of them count adds up to the whole batch's, whose weight each knows."""

    world: MeshWorld

    def __init__(self, training: Training, model: nn.Module, world: MeshWorld, options: Options, modes: Modes) -> None:
        self._modes, self._loss_parallel = modes, options.splitting.loss_parallel and world.axes.tensor > 1
        self._place, self._parts = world.coordinate("context"), world.axes.context
        self._gathering = sharded(model)
        super().__init__(training, model, model, world, partial(self._accumulating, options.sharding))
        split_by_layout(self.optimizer)
        if isinstance(model, FSDPModule):  # what the sample runs of the model may pass its outermost forward by
            setattr(model, SAMPLE, self.task.sample)
            register_fsdp_forward_method(model, SAMPLE)
            self._sample = getattr(model, SAMPLE)

    def forward_backward(self, share: Sequence[Batch], weight: float) -> Tensor:
        if self._place:
            draw_apart(self._place)
        with self._in_parts():  # fully_shard averages over the parts, too
            return super().forward_backward([self._part(batch) for batch in share], weight / self._parts)

    def evaluate(self, share: Iterable[Batch]) -> tuple[dict[str, Tensor], float]:
        with self._in_parts():
            return super().evaluate(self._part(batch) for batch in share)

    def _part(self, batch: Batch) -> Batch:
        return batch if self._parts == 1 else self.task.sequence_part(batch, self._place, self._parts)

    @contextmanager
    def _in_parts(self) -> Iterator[None]:
        self._modes.context = self._parts > 1
        try:
            yield
        finally:
            self._modes.context = False

    @contextmanager
    def _accumulating(self, sharding: Sharding) -> Iterator[None]:
        """Within, backward leaves gradients where they are, to be summed over the ranks by the next one outside."""
        self._synchronise(False, sharding)
        try:
            yield
        finally:
            self._synchronise(True, sharding)

    def _synchronise(self, on: bool, sharding: Sharding) -> None:
        for part in self._gathering:
            if sharding.accumulate_sharded:
                part.set_requires_all_reduce(on, recurse=False)
            else:
                part.set_requires_gradient_sync(on, recurse=False)
            if not sharding.reshard_after_forward:
                part.set_reshard_after_backward(on, recurse=False)

    def _backward(self, batch: Batch, scale: float) -> Tensor:
        if not self._loss_parallel:
            return super()._backward(batch, scale)
        self._modes.vocabulary = True
        try:
            with loss_parallel():
                return local(super()._backward(batch, scale))
        finally:
            self._modes.vocabulary = False

    def _clip(self) -> Tensor:
        return clip(self.parameters, self.clip_norm, self.world)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        with super()._evaluating():
            try:
                yield
            finally:
                self._reshard()  # before the weights change under what was gathered

    def _reshard(self) -> None:
        for part in self._gathering:
            part.reshard()


def split_by_layout(optimizer: torch.optim.Optimizer) -> None:
    """Split the parameter groups of a fresh optimizer so that each is of plain tensors or of DTensors on one mesh:
    torch's fused and foreach kernels take no mixture."""
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for group in groups:
        for _, members in groupby(sorted(group["params"], key=_layout), key=_layout):
            optimizer.param_groups.append({**group, "params": list(members)})


def _layout(parameter: nn.Parameter) -> tuple[str, ...]:
    mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
    return () if mesh is None else mesh.mesh_dim_names or ()
