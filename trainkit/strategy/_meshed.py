"""What the strategies on a mesh of ranks share: fsdp, tensor and pipeline are one axis of it, mesh is any product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from trainkit.errors import Problem
from trainkit.parts import ModelShape
from trainkit.preflight import Claim
from trainkit.protocols import Cluster, Engine, Precision, Training, World
from trainkit.strategy._axes import Axes
from trainkit.strategy._data_parallel import DIVIDED


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How the shard axis works; see conf/strategy/fsdp.yaml for the fields."""

    reshard_after_forward: bool = True
    accumulate_sharded: bool = False
    gather_dtype: Precision = "fp32"
    cpu_offload: bool = False


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How the tensor axis works; see conf/strategy/tensor.yaml for the fields."""

    sequence_parallel: bool = False
    loss_parallel: bool = False


ScheduleName = Literal["gpipe", "1f1b", "interleaved1f1b", "zero_bubble"]


@dataclass(frozen=True, kw_only=True)
class Staging:
    """How the pipeline axis works; see conf/strategy/pipeline.yaml for the fields."""

    schedule: ScheduleName = "1f1b"
    virtual_stages: int = 1
    cut: Sequence[int | str] | None = None

    def problems(self, ranks: int) -> Iterator[Problem]:
        """What does not fit a pipeline of `ranks` ranks, whatever the model."""
        virtual, several = self.virtual_stages, self.schedule in ("interleaved1f1b", "zero_bubble")
        if virtual > 1 and not several:
            message = f"schedule={self.schedule} has one stage per rank"
            hint = "set it to 1, or choose schedule=interleaved1f1b or zero_bubble"
            yield Problem("strategy.virtual_stages", virtual, message, hint)
        if virtual == 1 and self.schedule == "interleaved1f1b":
            message = "interleaves several stages per rank"
            yield Problem(
                "strategy.schedule", self.schedule, message, "set strategy.virtual_stages=2, or schedule=1f1b"
            )
        if self.cut is not None and len(self.cut) != ranks * virtual - 1:
            stages = ranks * virtual
            message = f"should name {stages - 1} blocks: the first of each of the {stages} stages but stage 0"
            yield Problem("strategy.cut", self.cut, message, "null cuts into equal parts")

    def model_problems(self, shape: ModelShape, ranks: int) -> Sequence[Problem]:
        """What of a model of that shape does not fit: every stage has a layer."""
        stages = ranks * self.virtual_stages
        if stages <= shape.layers:
            return ()
        message = f"{stages} stages need as many layers, and the model has {shape.layers}"
        hint = f"use at most {shape.layers}: fewer strategy.stages or virtual_stages"
        return [Problem("strategy", f"pipeline {ranks} x {self.virtual_stages}", message, hint)]


NO_OFFLOAD: Mapping[str, tuple[str, str]] = {
    "cpu_offload": (
        "only what the shard axis divides can wait in host memory",
        "set strategy=mesh, which has that axis too",
    )
}
"""preflight.Lacking of the strategies that are one axis, and another one than `shard`."""


class Meshed(ABC):
    """Implements protocols.Strategy and preflight.Configured from the axes and how each of them works."""

    timeout_s: float

    @abstractmethod
    def axes(self, ranks: int) -> Axes:
        """The axes that are asked for; `shard` may be 'auto'. Need not fit `ranks`."""

    @abstractmethod
    def sharding(self) -> Sharding: ...

    @abstractmethod
    def splitting(self) -> Splitting: ...

    def staging(self) -> Staging:
        return Staging()

    def ranks(self, cluster: Cluster) -> int:
        ranks = max(1, cluster.gpus)
        return self.axes(ranks).nearest(ranks)

    def dp_size(self, ranks: int) -> int:
        axes = self.axes(ranks)
        return axes.fill(axes.nearest(ranks)).data

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        axes = self.axes(cluster.ranks)
        problems = [*axes.problems(cluster.ranks), *self.staging().problems(axes.pipeline)]
        for key, on in asdict(self.splitting()).items():
            if on and axes.pipeline > 1:
                message = "cannot be used with a pipeline axis: between its stages hidden states are whole"
                problems.append(Problem(f"strategy.{key}", True, message, "set it to false"))
        if axes.pipeline > 1 and axes.context > 1:
            message = "cannot be used with a pipeline axis: between its stages hidden states are whole"
            problems.append(Problem("strategy.context", axes.context, message, "set it to 1"))
        if axes.pipeline > 1 and self.staging().schedule == "zero_bubble" and self.dp_size(cluster.ranks) > 1:
            message = (
                "loses gradients of weights that the ranks of a stage divide: torch 2.13 splits its backward wrongly"
            )
            hint = "choose schedule=1f1b or interleaved1f1b, or as many stages as ranks"
            problems.append(Problem("strategy.schedule", "zero_bubble", message, hint))
        return problems

    def claims(self, cluster: Cluster) -> Sequence[Claim]:
        """Implements preflight.Configured."""
        claims = [DIVIDED]
        if self.sharding().gather_dtype == "bf16":
            why = "strategy.gather_dtype=bf16 rounds the weights, as only computing in bf16 does anyway"
            exact = "set strategy.gather_dtype=fp32"
            claims.append(Claim(key="train.precision", values=("bf16",), said=why, otherwise=exact))
        if self.axes(cluster.ranks).context > 1:
            why = "a compiled block would pass over the gathering of keys and values that strategy.context needs"
            claims.append(Claim(key="train.compile", values=(False,), said=why, otherwise="set strategy.context=1"))
        if self.staging().schedule == "zero_bubble" and self.axes(cluster.ranks).pipeline > 1:
            why = "torch cannot split the backward of a compiled block, as strategy.schedule=zero_bubble does"
            claims.append(
                Claim(key="train.compile", values=(False,), said=why, otherwise="choose strategy.schedule=1f1b")
            )
        return claims

    def model_problems(self, shape: ModelShape, ranks: int) -> Sequence[Problem]:
        """Implements preflight.Divides."""
        axes = self.axes(ranks)
        problems = [*axes.model_problems(shape), *self.staging().model_problems(shape, axes.pipeline)]
        if self.splitting().sequence_parallel and axes.tensor > 1 and not shape.sequence_parallel:
            message = "the recipe's plan for the tensor axis does not say where the sequence is divided"
            problems.append(Problem("strategy.sequence_parallel", True, message, "set it to false"))
        return problems

    def connect(self, device: str) -> World:
        from trainkit.strategy._mesh import MeshWorld
        from trainkit.strategy._world import connect

        group = connect(device, self.timeout_s)
        return MeshWorld.over(group, self.axes(group.size).fill(group.size))

    def build(self, training: Training, world: World) -> Engine:
        from trainkit.strategy import _pipeline
        from trainkit.strategy._mesh_engine import build

        if self.axes(world.size).pipeline > 1:
            return _pipeline.build(training, world, self.sharding(), self.splitting(), self.staging())
        return build(training, world, self.sharding(), self.splitting())
