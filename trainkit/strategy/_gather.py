"""Weights that travel in bf16, after ZeRO++'s quantised weight communication (Wang et al., 2023, arXiv:2306.10209)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather


class RoundedGather(DefaultAllGather):
    """fully_shard's all-gather, in half the bytes: fp32 weights are rounded to bf16 for the way, and fp32 again where
    they arrive. Weights of another dtype, or among others, travel as they are."""

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> dist.Work | None:
        """The input of all ranks of `group` into the output, at once also where `async_op` would allow later."""
        if input_tensor.dtype != torch.float32:
            return super().__call__(output_tensor, input_tensor, group, async_op)
        sent = input_tensor.to(torch.bfloat16)
        received = torch.empty_like(output_tensor, dtype=torch.bfloat16)
        super().__call__(received, sent, group)
        output_tensor.copy_(received)
        return None
