"""The model's layers one stage after another, by torch.distributed.pipelining."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from trainkit.errors import Problem
from trainkit.protocols import Cluster, ModelShape
from trainkit.strategy._axes import Axes
from trainkit.strategy._meshed import Meshed, ScheduleName, Sharding, Splitting, Staging


@dataclass(frozen=True, kw_only=True)
class Pipeline(Meshed):
    """See conf/strategy/pipeline.yaml for the keys."""

    stages: Annotated[int, Gt(0)] | None
    schedule: ScheduleName
    virtual_stages: Annotated[int, Gt(0)]
    cut: list[int | str] | None
    timeout_s: Annotated[float, Gt(0)]

    def axes(self, ranks: int) -> Axes:
        return Axes(pipeline=self.stages or ranks, shard="auto")

    def sharding(self) -> Sharding:
        """Weights that were gathered for a step would be gathered again for every micro-batch."""
        return Sharding(reshard_after_forward=False)

    def splitting(self) -> Splitting:
        return Splitting()

    def staging(self) -> Staging:
        return Staging(schedule=self.schedule, virtual_stages=self.virtual_stages, cut=self.cut)

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        ranks = self.axes(cluster.ranks).pipeline
        return [*super().problems(cluster), *self.staging().problems(ranks)]

    def model_problems(self, shape: ModelShape, ranks: int) -> Sequence[Problem]:
        return self.staging().model_problems(shape, self.axes(ranks).pipeline)
