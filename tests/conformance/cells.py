"""Every strategy with the rank counts that it is proved at: one table for all conformance tests.

A strategy is added with one line in STRATEGIES and one in RANKS.
"""

from __future__ import annotations

from typing import Any

from trainkit.protocols import Strategy
from trainkit.strategy.ddp import Ddp
from trainkit.strategy.fsdp import Fsdp
from trainkit.strategy.local import Local
from trainkit.strategy.mesh import Mesh
from trainkit.strategy.pipeline import Pipeline
from trainkit.strategy.tensor import Tensor

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

STRATEGIES: dict[str, Strategy] = {
    "local": Local(),
    "ddp": Ddp(bucket_cap_mb=0.02, timeout_s=WAIT),
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
    "mesh-pipeline-tensor": Mesh(**MESH | {"pipeline": 2, "tensor": 2}),
    "mesh-pipeline-shard": Mesh(**MESH | {"pipeline": 2, "schedule": "interleaved1f1b", "virtual_stages": 2}),
}

RANKS: dict[str, tuple[int, ...]] = {
    "ddp": (1, 2, 4),
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
    "mesh-pipeline-tensor": (4,),
    "mesh-pipeline-shard": (4,),
}

# Where a model is divided, what is built on its weights and its forward has to be proved too.
DIVIDED = [("fsdp", 2), ("fsdp-kept", 2), ("fsdp-replicas", 4), ("tensor", 2), ("mesh-shard-tensor", 4)]
DIVIDED += [("pipeline", 2), ("pipeline-interleaved", 2), ("pipeline-shard", 4), ("mesh-pipeline-shard", 4)]

CELLS = [(name, ranks) for name, counts in RANKS.items() for ranks in counts]
