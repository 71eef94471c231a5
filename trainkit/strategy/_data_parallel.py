"""What the strategies share under which every rank reads samples of its own."""

from __future__ import annotations

from trainkit.protocols import Cluster


class DataParallel:
    """Two methods of protocols.Strategy."""

    def ranks(self, cluster: Cluster) -> int:
        return max(1, cluster.gpus)

    def dp_size(self, ranks: int) -> int:
        return ranks
