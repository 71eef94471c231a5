"""Every strategy with the rank counts that it is proved at: one table for all conformance tests.

A strategy is added with one line in STRATEGIES and one in RANKS.
"""

from __future__ import annotations

from typing import Any

from trainkit.protocols import Strategy
from trainkit.strategy.ddp import Ddp
from trainkit.strategy.fsdp import Fsdp
from trainkit.strategy.local import Local

WAIT = 60
FSDP: dict[str, Any] = {
    "replicas": 1,
    "reshard_after_forward": True,
    "accumulate_sharded": False,
    "bf16_gather": False,
    "cpu_offload": False,
    "timeout_s": WAIT,
}

STRATEGIES: dict[str, Strategy] = {
    "local": Local(),
    "ddp": Ddp(bucket_cap_mb=0.02, timeout_s=WAIT),
    "fsdp": Fsdp(**FSDP),
    "fsdp-replicas": Fsdp(**FSDP | {"replicas": 2, "accumulate_sharded": True}),
    "fsdp-kept": Fsdp(**FSDP | {"reshard_after_forward": False}),
    "fsdp-offload": Fsdp(**FSDP | {"cpu_offload": True}),
}

RANKS: dict[str, tuple[int, ...]] = {
    "ddp": (1, 2, 4),
    "fsdp": (1, 2, 4),
    "fsdp-replicas": (4,),
    "fsdp-kept": (2,),
    "fsdp-offload": (1, 2),
}

CELLS = [(name, ranks) for name, counts in RANKS.items() for ranks in counts]
