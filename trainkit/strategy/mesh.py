"""Any product of axes: pipeline x replicas x shard x context x tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from trainkit.protocols import Precision
from trainkit.strategy._axes import Axes
from trainkit.strategy._meshed import Meshed, ScheduleName, Sharding, Splitting, Staging

Size = Annotated[int, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Mesh(Meshed):
    """See conf/strategy/mesh.yaml for the keys."""

    pipeline: Size
    replicas: Size
    shard: Size | Literal["auto"]
    context: Size
    tensor: Size
    schedule: ScheduleName
    virtual_stages: Size
    cut: list[int | str] | None
    reshard_after_forward: bool
    accumulate_sharded: bool
    gather_dtype: Precision
    cpu_offload: bool
    sequence_parallel: bool
    loss_parallel: bool
    timeout_s: Annotated[float, Gt(0)]

    def axes(self, ranks: int) -> Axes:
        return Axes(
            pipeline=self.pipeline, replicas=self.replicas, shard=self.shard, context=self.context, tensor=self.tensor
        )

    def sharding(self) -> Sharding:
        return Sharding(
            reshard_after_forward=self.reshard_after_forward,
            accumulate_sharded=self.accumulate_sharded,
            gather_dtype=self.gather_dtype,
            cpu_offload=self.cpu_offload,
        )

    def splitting(self) -> Splitting:
        return Splitting(sequence_parallel=self.sequence_parallel, loss_parallel=self.loss_parallel)

    def staging(self) -> Staging:
        return Staging(schedule=self.schedule, virtual_stages=self.virtual_stages, cut=self.cut)
