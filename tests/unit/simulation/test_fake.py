"""A model without values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.conformance.llama import LlamaTask
from trainkit.protocols import Task
from trainkit.simulation.fake import fake_rank, shapes_of


class FromFile(LlamaTask):
    def build_model(self) -> nn.Module:
        if torch.empty(0).is_meta:
            raise RuntimeError("weights are read into memory")
        return super().build_model()


@pytest.mark.parametrize("task", [LlamaTask(), FromFile()], ids=["made", "read"])
def test_a_model_has_shapes_only_and_stays_tied(task: Task) -> None:
    model: Any = shapes_of(task)
    assert model.training
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_fake_rank_leaves_nothing_behind() -> None:
    with fake_rank(4095, 4096) as group:
        assert (group.rank, group.size, dist.get_rank(), dist.get_world_size()) == (4095, 4096, 4095, 4096)
    assert not dist.is_initialized()
