"""What the strategies share under which every rank reads samples of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trainkit.preflight import Claim
from trainkit.protocols import Cluster

DIVIDED = Claim(
    key="integrity.every",
    values=(None,),
    said="the ranks keep parts of the model, which have no copies to compare with",
    otherwise="set strategy=ddp",
)
"""Of the strategies that divide the model."""


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
