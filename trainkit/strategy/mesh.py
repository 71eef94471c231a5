"""Any product of axes: pipeline x replicas x shard x tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from trainkit.errors import Problem
from trainkit.protocols import Cluster
from trainkit.strategy._axes import Axes
from trainkit.strategy._meshed import Meshed, Sharding, Splitting

Size = Annotated[int, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Mesh(Meshed):
    """See conf/strategy/mesh.yaml for the keys."""

    pipeline: Size
    replicas: Size
    shard: Size | Literal["auto"]
    tensor: Size
    reshard_after_forward: bool
    accumulate_sharded: bool
    cpu_offload: bool
    sequence_parallel: bool
    loss_parallel: bool
    timeout_s: Annotated[float, Gt(0)]

    def axes(self, ranks: int) -> Axes:
        return Axes(pipeline=self.pipeline, replicas=self.replicas, shard=self.shard, tensor=self.tensor)

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        problems = [*super().problems(cluster)]
        if self.pipeline > 1:
            message = "the mesh has no engine for a pipeline yet"
            problems.append(Problem("strategy.pipeline", self.pipeline, message, "set strategy.pipeline=1"))
        return problems

    def sharding(self) -> Sharding:
        return Sharding(
            reshard_after_forward=self.reshard_after_forward,
            accumulate_sharded=self.accumulate_sharded,
            cpu_offload=self.cpu_offload,
        )

    def splitting(self) -> Splitting:
        return Splitting(sequence_parallel=self.sequence_parallel, loss_parallel=self.loss_parallel)
