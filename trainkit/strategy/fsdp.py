"""Fully sharded data parallel: torch's fully_shard (FSDP2), block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from trainkit.protocols import Precision
from trainkit.strategy._axes import Axes
from trainkit.strategy._meshed import Meshed, Sharding, Splitting


@dataclass(frozen=True, kw_only=True)
class Fsdp(Meshed):
    """See conf/strategy/fsdp.yaml for the keys."""

    replicas: Annotated[int, Gt(0)]
    reshard_after_forward: bool
    accumulate_sharded: bool
    gather_dtype: Precision
    cpu_offload: bool
    timeout_s: Annotated[float, Gt(0)]

    def axes(self, ranks: int) -> Axes:
        return Axes(replicas=self.replicas, shard="auto")

    def sharding(self) -> Sharding:
        return Sharding(
            reshard_after_forward=self.reshard_after_forward,
            accumulate_sharded=self.accumulate_sharded,
            gather_dtype=self.gather_dtype,
            cpu_offload=self.cpu_offload,
        )

    def splitting(self) -> Splitting:
        return Splitting()
