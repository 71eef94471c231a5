"""Distributed data parallel: torch's DistributedDataParallel (Li et al., VLDB 2020, arXiv:2006.15704)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from trainkit.errors import Problem
from trainkit.preflight import Claim
from trainkit.protocols import Cluster, Engine, Training, World
from trainkit.strategy._data_parallel import WholeModel


@dataclass(frozen=True, kw_only=True)
class Ddp(WholeModel):
    """The whole model on every rank; gradients are averaged once per global batch."""

    bucket_cap_mb: Annotated[float, Gt(0)]
    timeout_s: Annotated[float, Gt(0)]

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        return ()

    def claims(self, cluster: Cluster) -> Sequence[Claim]:
        """Implements preflight.Configured."""
        if self.bucket_cap_mb >= 1:
            return ()
        why = f"torch compiles for buckets of 1 MiB or more, and strategy.bucket_cap_mb={self.bucket_cap_mb:g}"
        return [Claim(key="train.compile", values=(False,), said=why, otherwise="set strategy.bucket_cap_mb=1 or more")]

    def connect(self, device: str) -> World:
        from trainkit.strategy._world import connect

        return connect(device, self.timeout_s)

    def build(self, training: Training, world: World) -> Engine:
        from torch.nn.parallel import DistributedDataParallel

        from trainkit.strategy._spmd import SpmdEngine, build_model

        model = build_model(training, world)
        wrapped = DistributedDataParallel(
            model,
            device_ids=None if world.device.type == "cpu" else [world.device],
            bucket_cap_mb=self.bucket_cap_mb,
            gradient_as_bucket_view=True,
        )
        return SpmdEngine(training, model, wrapped, world, wrapped.no_sync)
