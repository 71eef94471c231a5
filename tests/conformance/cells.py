"""Every strategy with the rank counts that it is proved at: one table for all conformance tests.

A strategy is added with one line in STRATEGIES, one in RANKS, and one in WHOLE or DIVIDED.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainkit.protocols import Strategy
from trainkit.strategy.accelerate import Accelerate
from trainkit.strategy.ddp import Ddp
from trainkit.strategy.fsdp import Fsdp
from trainkit.strategy.horovod import Horovod
from trainkit.strategy.local import Local
from trainkit.strategy.mesh import Mesh
from trainkit.strategy.pipeline import Pipeline
from trainkit.strategy.tensor import Tensor
from trainkit.strategy.zero1 import Zero1
from trainkit.strategy.zero2 import Zero2
from trainkit.strategy.zero3 import Zero3

WAIT = 60
FSDP: dict[str, Any] = {
    "replicas": 1,
    "reshard_after_forward": True,
    "accumulate_sharded": False,
    "cpu_offload": False,
    "timeout_s": WAIT,
}
TENSOR: dict[str, Any] = {"size": None, "sequence_parallel": False, "loss_parallel": False, "timeout_s": WAIT}
PIPELINE: dict[str, Any] = {"stages": None, "schedule": "1f1b", "virtual_stages": 1, "cut": None, "timeout_s": WAIT}
MESH: dict[str, Any] = FSDP | TENSOR | PIPELINE | {"pipeline": 1, "replicas": 1, "shard": "auto", "tensor": 1}
MESH.pop("size")
MESH.pop("stages")
ZERO: dict[str, Any] = {"offload_optimizer": False, "config": None, "timeout_s": WAIT}
# DeepSpeed keeps what is small whole on every rank; at this threshold nothing is.
ZERO3: dict[str, Any] = ZERO | {"offload_parameters": False, "config": str(Path(__file__).with_name("zero3.json"))}

STRATEGIES: dict[str, Strategy] = {
    "local": Local(),
    "ddp": Ddp(bucket_cap_mb=0.02, timeout_s=WAIT),
    "ddp-one-bucket": Ddp(bucket_cap_mb=25, timeout_s=WAIT),
    "accelerate": Accelerate(config=None, timeout_s=WAIT),
    "horovod": Horovod(fusion_mb=1, timeout_s=WAIT),
    "fsdp": Fsdp(**FSDP),
    "fsdp-replicas": Fsdp(**FSDP | {"replicas": 2, "accumulate_sharded": True}),
    "fsdp-kept": Fsdp(**FSDP | {"reshard_after_forward": False}),
    "fsdp-offload": Fsdp(**FSDP | {"cpu_offload": True}),
    "tensor": Tensor(**TENSOR),
    "tensor-sequence": Tensor(**TENSOR | {"sequence_parallel": True}),
    "tensor-loss": Tensor(**TENSOR | {"loss_parallel": True}),
    "pipeline-gpipe": Pipeline(**PIPELINE | {"schedule": "gpipe"}),
    "pipeline": Pipeline(**PIPELINE),
    "pipeline-interleaved": Pipeline(**PIPELINE | {"schedule": "interleaved1f1b", "virtual_stages": 2}),
    "pipeline-zero": Pipeline(**PIPELINE | {"schedule": "zero_bubble", "virtual_stages": 2}),
    "pipeline-zero-single": Pipeline(**PIPELINE | {"schedule": "zero_bubble"}),
    "pipeline-cut": Pipeline(**PIPELINE | {"cut": ["layers.3"]}),
    "pipeline-shard": Pipeline(**PIPELINE | {"stages": 2}),
    "mesh-replicas-shard": Mesh(**MESH | {"replicas": 2}),
    "mesh-replicas-tensor": Mesh(**MESH | {"replicas": 2, "shard": 1, "tensor": 2}),
    "mesh-shard-tensor": Mesh(**MESH | {"tensor": 2, "sequence_parallel": True, "loss_parallel": True}),
    "mesh-offload": Mesh(**MESH | {"tensor": 2, "cpu_offload": True}),
    "mesh-pipeline-tensor": Mesh(**MESH | {"pipeline": 2, "tensor": 2}),
    "mesh-pipeline-shard": Mesh(**MESH | {"pipeline": 2, "schedule": "interleaved1f1b", "virtual_stages": 2}),
    "zero1": Zero1(**ZERO),
    "zero1-offload": Zero1(**ZERO | {"offload_optimizer": True}),
    "zero2": Zero2(**ZERO),
    "zero2-offload": Zero2(**ZERO | {"offload_optimizer": True}),
    "zero3": Zero3(**ZERO3),
    "zero3-kept": Zero3(**ZERO3 | {"config": None}),
    "zero3-offload": Zero3(**ZERO3 | {"offload_optimizer": True, "offload_parameters": True}),
}

RANKS: dict[str, tuple[int, ...]] = {
    "ddp": (1, 2, 4),
    "accelerate": (1, 2, 4),
    "horovod": (1, 2, 4),
    "fsdp": (1, 2, 4),
    "fsdp-replicas": (4,),
    "fsdp-kept": (2,),
    "fsdp-offload": (1, 2),
    "tensor": (1, 2, 4),
    "tensor-sequence": (2,),
    "tensor-loss": (2, 4),
    "pipeline": (1, 2, 4),
    "pipeline-gpipe": (2, 4),
    "pipeline-interleaved": (2,),
    "pipeline-zero": (2,),
    "pipeline-zero-single": (2,),
    "pipeline-cut": (2,),
    "pipeline-shard": (4,),
    "mesh-replicas-shard": (4,),
    "mesh-replicas-tensor": (4,),
    "mesh-shard-tensor": (4,),
    "mesh-offload": (2,),
    "mesh-pipeline-tensor": (4,),
    "mesh-pipeline-shard": (4,),
    "zero1": (1, 2, 4),
    "zero1-offload": (2,),
    "zero2": (1, 2, 4),
    "zero2-offload": (2,),
    "zero3": (1, 2, 4),
    "zero3-kept": (2,),
    "zero3-offload": (1, 2),
}

CELLS = [(name, ranks) for name, counts in RANKS.items() for ranks in counts]

WHOLE = [("ddp", 2), ("accelerate", 2), ("horovod", 2)]
"""One cell of each strategy that leaves the model whole."""

DIVIDED = [
    *(("fsdp", 2), ("fsdp-kept", 2), ("fsdp-replicas", 4), ("tensor", 2)),
    *(("pipeline", 2), ("pipeline-interleaved", 2), ("pipeline-shard", 4)),
    *(("mesh-pipeline-shard", 4), ("mesh-shard-tensor", 4)),
    *(("zero1", 2), ("zero2", 2), ("zero2-offload", 2), ("zero3", 2), ("zero3-kept", 4), ("zero3-offload", 2)),
]
"""Every way to divide a model."""


def strategy_of(name: str) -> str:
    """The strategy of which STRATEGIES[name] is a variant."""
    return type(STRATEGIES[name]).__module__.rpartition(".")[2]


EACH = [*{strategy_of(cell[0]): cell for cell in reversed(WHOLE + DIVIDED)}.values()]
"""The first of these of every strategy."""
