"""One process, one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trainkit.errors import Problem
from trainkit.protocols import Cluster, Engine, Training, World
from trainkit.strategy._data_parallel import WholeModel


@dataclass(frozen=True, kw_only=True)
class Local:
    """The reference: every other strategy must reproduce its loss curve."""

    lacks: ClassVar[Mapping[str, tuple[str, str]]] = WholeModel.lacks

    def ranks(self, cluster: Cluster) -> int:
        return 1

    def dp_size(self, ranks: int) -> int:
        return 1

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        if cluster.ranks == 1:
            return ()
        return [
            Problem(
                "launcher.ranks",
                cluster.ranks,
                "strategy=local runs in one process",
                "set launcher.ranks=1, or strategy=ddp to use several ranks",
            )
        ]

    def connect(self, device: str) -> World:
        from trainkit.strategy._world import Solo, pick_device

        return Solo(device=pick_device(device, 0))

    def build(self, training: Training, world: World) -> Engine:
        from trainkit.strategy._spmd import SpmdEngine, build_model

        model = build_model(training, world)
        return SpmdEngine(training, model, model, world)
