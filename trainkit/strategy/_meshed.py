"""What the strategies on a mesh of ranks share: fsdp, tensor and pipeline are one axis of it, mesh is any product."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from trainkit.errors import Problem
from trainkit.protocols import Cluster, Engine, ModelShape, Training, World
from trainkit.strategy._axes import Axes


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How the shard axis works; see conf/strategy/fsdp.yaml for the fields."""

    reshard_after_forward: bool = True
    accumulate_sharded: bool = False
    cpu_offload: bool = False


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How the tensor axis works; see conf/strategy/tensor.yaml for the fields."""

    sequence_parallel: bool = False
    loss_parallel: bool = False


class Meshed(ABC):
    """Implements protocols.Strategy from the axes and how each of them works."""

    timeout_s: float

    @abstractmethod
    def axes(self, ranks: int) -> Axes:
        """The axes that are asked for; `shard` may be 'auto'. Need not fit `ranks`."""

    @abstractmethod
    def sharding(self) -> Sharding: ...

    @abstractmethod
    def splitting(self) -> Splitting: ...

    def ranks(self, cluster: Cluster) -> int:
        ranks = max(1, cluster.gpus)
        return self.axes(ranks).nearest(ranks)

    def dp_size(self, ranks: int) -> int:
        axes = self.axes(ranks)
        return axes.fill(axes.nearest(ranks)).data

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        return self.axes(cluster.ranks).problems(cluster.ranks)

    def model_problems(self, shape: ModelShape, ranks: int) -> Sequence[Problem]:
        """Implements protocols.Divides."""
        return self.axes(ranks).model_problems(shape)

    def connect(self, device: str) -> World:
        from trainkit.strategy._mesh import MeshWorld
        from trainkit.strategy._world import connect

        group = connect(device, self.timeout_s)
        return MeshWorld.over(group, self.axes(group.size).fill(group.size))

    def build(self, training: Training, world: World) -> Engine:
        from trainkit.strategy._mesh_engine import build

        return build(training, world, self.sharding(), self.splitting())
