"""The model's layers one stage after another, by torch.distributed.pipelining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from trainkit.strategy._axes import Axes
from trainkit.strategy._meshed import NO_OFFLOAD, Meshed, ScheduleName, Sharding, Splitting, Staging


@dataclass(frozen=True, kw_only=True)
class Pipeline(Meshed):
    """See conf/strategy/pipeline.yaml for the keys."""

    lacks: ClassVar[Mapping[str, tuple[str, str]]] = NO_OFFLOAD
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
