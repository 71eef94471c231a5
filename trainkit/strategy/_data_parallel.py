"""What the strategies share under which every rank reads samples of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trainkit.protocols import Cluster


class DataParallel:
    """Two methods of protocols.Strategy."""

    def ranks(self, cluster: Cluster) -> int:
        return max(1, cluster.gpus)

    def dp_size(self, ranks: int) -> int:
        return ranks


class WholeModel(DataParallel):
    """And nothing is divided. Implements preflight.Lacking."""

    lacks: ClassVar[Mapping[str, tuple[str, str]]] = {
        "cpu_offload": ("every rank keeps the whole model on its device", "set strategy=fsdp, or zero3")
    }
