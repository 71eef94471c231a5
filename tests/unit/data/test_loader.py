"""Loading ahead in other processes changes nothing but the time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from trainkit.data.loader import loader
from trainkit.data.order import Order
from trainkit.data.plan import Plan
from trainkit.protocols import Batch


class Numbers:
    """Sample i is the number i, and says in which process it was made."""

    def __len__(self) -> int:
        return 23

    def fetch(self, ids: Sequence[int]) -> Batch:
        if 99 in ids:
            raise OSError("sample 99 cannot be read")
        where = torch.utils.data.get_worker_info()
        maker = torch.tensor(-1 if where is None else where.id)
        return Batch({"x": torch.tensor(ids), "maker": maker}, {"y": 2 * torch.tensor(ids)}, len(ids), 10 * len(ids))


# 8 samples on 5 ranks are two for some ranks and one for others, which get a filler besides.
PLAN = Plan(Order(23, 5), 8, 1, 0, 5)


def test_two_workers_give_the_same_batches_in_the_same_order() -> None:
    alone, ahead = (list(loader(Numbers(), PLAN, 8, 9, workers, pin=False)) for workers in (0, 2))
    assert [step for step, _ in ahead] == [step for step, _ in alone] == list(PLAN.steps(8, 9))
    assert any(not all(step.real) for step, _ in alone)
    for (step, ours), (_, theirs) in zip(ahead, alone, strict=True):
        assert [b.inputs["x"].tolist() for b in ours] == [b.inputs["x"].tolist() for b in theirs] == step.micro_batches
        assert [b.targets["y"].tolist() for b in ours] == [b.targets["y"].tolist() for b in theirs]
        assert [(b.weight, b.tokens) for b in ours] == [(b.weight, b.tokens) for b in theirs]
    assert {int(b.inputs["maker"]) for _, batches in alone for b in batches} == {-1}
    assert {int(b.inputs["maker"]) for _, batches in ahead for b in batches} == {0, 1}


def test_a_filler_has_its_tensors_and_counts_nothing() -> None:
    ((step, (real, filler)),) = loader(Numbers(), PLAN, 0, 1, 0, False)
    assert step.real == [True, False]
    assert (real.weight, real.tokens) == (1, 10)
    assert (filler.weight, filler.tokens, len(filler.inputs["x"]), len(filler.targets["y"])) == (0, 0, 1, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_an_error_and_no_gap(workers: int) -> None:
    class Long(Numbers):
        def __len__(self) -> int:
            return 100

    with pytest.raises(OSError, match="sample 99 cannot be read"):
        list(loader(Long(), Plan(Order(100, 0), 50, None, 0, 1), 0, 2, workers, False))
