"""ZeRO stage 3 by DeepSpeed: every rank keeps its part of the weights, the gradients and the moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from trainkit.strategy._zero import Zero
from trainkit.strategy._zero_config import Spread


@dataclass(frozen=True, kw_only=True)
class Zero3(Zero):
    """See conf/strategy/zero3.yaml for the keys."""

    offload_optimizer: bool
    offload_parameters: bool
    config: str | None
    timeout_s: Annotated[float, Gt(0)]

    def spread(self) -> Spread:
        return Spread(stage=3, offload_optimizer=self.offload_optimizer, offload_parameters=self.offload_parameters)
