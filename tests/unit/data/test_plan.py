"""The plan of a rank: every sample of a global batch on exactly one rank, equally many micro-batches on all."""

from hypothesis import given
from hypothesis import strategies as st

from trainkit.data.order import Order
from trainkit.data.plan import Plan, split

ranks = st.integers(1, 9)
micro_batches = st.none() | st.integers(1, 7)


@given(n=st.integers(1, 60), ranks=ranks, micro_batch=micro_batches)
def test_ranks_share_a_batch_without_loss_or_overlap(n: int, ranks: int, micro_batch: int | None) -> None:
    ids = list(range(100, 100 + n))
    shares = [split(ids, r, ranks, micro_batch) for r in range(ranks)]
    real = [i for micro, keep in shares for m, k in zip(micro, keep, strict=True) if k for i in m]
    assert real == ids
    assert len({len(micro) for micro, _ in shares}) == 1
    assert all(m for micro, _ in shares for m in micro)
    if micro_batch is not None:
        assert max(len(m) for micro, _ in shares for m in micro) <= micro_batch


@given(size=st.integers(1, 80), batch=st.integers(1, 30), epochs=st.integers(1, 3))
def test_an_epoch_trains_every_sample_once_and_ends_with_a_short_batch(size: int, batch: int, epochs: int) -> None:
    plan = Plan(Order(size, 0), batch, None, 0, 1)
    steps = list(plan.steps(0, plan.total_steps(None, float(epochs))))
    seen = [i for step in steps for m in step.micro_batches for i in m]
    assert steps[-1].samples == size * epochs == len(seen)
    for epoch in range(epochs):
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(size=st.integers(1, 80), batch=st.integers(1, 30), at=st.integers(0, 200), ranks=ranks)
def test_the_global_batch_does_not_depend_on_the_rank_count(size: int, batch: int, at: int, ranks: int) -> None:
    (alone,) = Plan(Order(size, 1), batch, None, 0, 1).steps(at, 1)
    together = [next(Plan(Order(size, 1), batch, 3, r, ranks).steps(at, 1)) for r in range(ranks)]
    ids = [i for s in together for m, k in zip(s.micro_batches, s.real, strict=True) if k for i in m]
    assert ids == alone.micro_batches[0]
    assert {s.samples for s in together} == {alone.samples}


@given(size=st.integers(1, 9000), batch=st.integers(1, 5000), cut=st.integers(0, 12))
def test_a_resumed_plan_goes_on_as_if_nothing_had_been(size: int, batch: int, cut: int) -> None:
    plan = Plan(Order(size, 2), batch, None, 0, 1)
    whole = list(plan.steps(0, 15))
    position = whole[cut - 1].samples if cut else 0
    assert list(plan.steps(position, 15 - cut)) == whole[cut:]


def test_total_steps_of_a_broken_number_of_epochs() -> None:
    plan = Plan(Order(10, 0), 4, None, 0, 1)
    assert plan.total_steps(None, 2.0) == 6
    assert plan.total_steps(None, 0.5) == 2
    assert plan.total_steps(7, None) == 7


@given(size=st.integers(1, 80), batch=st.integers(1, 30), count=st.integers(1, 40))
def test_the_position_after_some_steps_is_known_without_making_them(size: int, batch: int, count: int) -> None:
    plan = Plan(Order(size, 0), batch, None, 0, 1)
    assert plan.samples_after(0) == 0
    assert plan.samples_after(count) == list(plan.steps(0, count))[-1].samples
