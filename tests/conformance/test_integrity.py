"""Copies of a model that come apart are found, under every strategy that keeps some, and the odd rank is named."""

from __future__ import annotations

import pytest
import torch

from tests.conformance.pool import Pool
from tests.conformance.test_frameworks import engine_of, share_of
from trainkit.errors import CorruptError

WHOLE = ("ddp", "horovod", "accelerate")


def compared(strategy: str) -> tuple[int | None, str]:
    """A step, after which all are the same; then the lowest bit of one parameter of rank 1 flips."""
    world, engine = engine_of(strategy)
    try:
        share, weight = share_of(world, 6)
        engine.forward_backward(share, weight)
        engine.update(1e-3)
        engine.compare()
        if world.rank == 1:
            next(engine.model.parameters()).data.view(torch.int32).view(-1)[5] ^= 1
        with pytest.raises(CorruptError) as raised:
            engine.compare()
        return raised.value.rank, str(raised.value)
    finally:
        world.close()


@pytest.mark.parametrize("strategy", WHOLE)
def test_one_flipped_bit_is_found_and_of_three_ranks_it_is_told_which(strategy: str, pool: Pool) -> None:
    for ranks, named in ((2, None), (3, 1)):
        for rank, message in pool.run(ranks, compared, strategy):
            assert rank == named
            assert "the ranks' parameters have come apart: rank 1 on " in message
