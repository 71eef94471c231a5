"""What zero1, zero2 and zero3 share: ZeRO (Rajbhandari et al., SC 2020, arXiv:1910.02054) as DeepSpeed does it."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from trainkit.errors import Problem
from trainkit.preflight import Claim
from trainkit.protocols import Cluster, Engine, Training, World
from trainkit.strategy._data_parallel import DataParallel
from trainkit.strategy._zero_config import Spread, load


class Zero(DataParallel, ABC):
    """Implements protocols.Strategy and preflight.Configured. `config`: path of a DeepSpeed JSON."""

    lacks: ClassVar[Mapping[str, tuple[str, str]]] = {
        "cpu_offload": ("DeepSpeed offloads moments and weights apart", "set strategy.offload_optimizer=true")
    }
    config: str | None
    timeout_s: float

    @abstractmethod
    def spread(self) -> Spread: ...

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        file, problems = load(self.config)
        if importlib.util.find_spec("deepspeed") is None:
            name = f"zero{self.spread().stage}"
            hint = "pip install 'trainkit[deepspeed]'; or set strategy=fsdp, which trains the same"
            problems = [Problem("strategy", name, "DeepSpeed is not installed", hint), *problems]
        return [*problems, *file.problems(self.spread())]

    def claims(self, cluster: Cluster) -> Sequence[Claim]:
        claims = list(load(self.config)[0].claims(cluster.ranks))
        if self.spread().stage == 3:
            why = "a compiled graph would pass over the hooks with which zero3 gathers each layer's weights"
            claims += [Claim(key="train.compile", values=(False,), said=why, otherwise="set strategy=zero2 or fsdp")]
        return claims

    def connect(self, device: str) -> World:
        from trainkit.strategy._deepspeed import connect

        return connect(device, self.timeout_s)

    def build(self, training: Training, world: World) -> Engine:
        from trainkit.strategy._deepspeed import build

        config = load(self.config)[0].engine(self.spread(), training.clip_norm, training.precision)
        return build(training, world, config)
