"""Data parallel by Horovod (Sergeev and Del Balso, 2018, arXiv:1802.05799): the whole model on every rank, and an
optimizer that sums the gradients over the ranks in a ring.

Horovod is built for one torch; `make horovod` does it. Its rendezvous runs under any launcher that sets torchrun's
environment variables. It is unauthenticated, see _horovod.py: use it in trusted networks only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from trainkit.errors import Problem
from trainkit.protocols import Cluster, Engine, Training, World
from trainkit.strategy._data_parallel import WholeModel


@dataclass(frozen=True, kw_only=True)
class Horovod(WholeModel):
    """The whole model on every rank; gradients are averaged once per global batch."""

    fusion_mb: Annotated[int, Gt(0)]
    timeout_s: Annotated[float, Gt(0)]

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        if importlib.util.find_spec("horovod") is not None:
            return ()
        hint = "run `make horovod` once: it builds Horovod for this torch; or set strategy=ddp, which trains the same"
        return [Problem("strategy", "horovod", "Horovod is not installed", hint)]

    def connect(self, device: str) -> World:
        from trainkit.strategy._horovod import connect

        return connect(device, self.fusion_mb, self.timeout_s)

    def build(self, training: Training, world: World) -> Engine:
        from trainkit.strategy._horovod import HorovodEngine
        from trainkit.strategy._spmd import build_model

        return HorovodEngine(training, build_model(training, world), world)
