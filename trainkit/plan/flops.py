"""Floating-point operations of a step, counted by torch on tensors without values."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from trainkit.protocols import Batch, Task
from trainkit.simulation.fake import Looked, fake_storage, shapes_of
from trainkit.simulation.values import Shape

BACKWARD = 2
"""Times the operations of forward: each product has two in backward, by its input and by its weights."""


def _attention(query: Shape, key: Shape, value: Shape, *rest: Any, **more: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
"""Which torch's counter does not know."""


def forward(task: Task, batch: Batch) -> int:
    """Of one forward of `batch`: products of matrices, convolutions, and attention as if it saw all of the sequence."""
    model = shapes_of(task)
    counter = FlopCounterMode(display=False, custom_mapping=ON_CPU)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        fake_storage(model, torch.device("cpu"))
        with Looked(), counter:
            task.loss(model(**batch.inputs), batch.targets)
    return counter.get_total_flops()
