"""ZeRO stage 1 by DeepSpeed: every rank keeps the moments of its part of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from trainkit.strategy._zero import Zero
from trainkit.strategy._zero_config import Spread


@dataclass(frozen=True, kw_only=True)
class Zero1(Zero):
    """See conf/strategy/zero1.yaml for the keys."""

    offload_optimizer: bool
    config: str | None
    timeout_s: Annotated[float, Gt(0)]

    def spread(self) -> Spread:
        return Spread(stage=1, offload_optimizer=self.offload_optimizer, offload_parameters=False)
