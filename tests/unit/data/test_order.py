"""The order is a permutation, a pure function of (seed, epoch, index), and costs the same everywhere."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.data.order import Order, derive


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64), epoch=st.integers(0, 5))
def test_every_epoch_holds_every_sample_once(size: int, seed: int, epoch: int) -> None:
    ids = Order(size, seed).ids(epoch * size, (epoch + 1) * size)
    assert sorted(ids.tolist()) == list(range(size))


@given(size=st.integers(1, 500), seed=st.integers(0, 2**32), cut=st.integers(0, 1500))
def test_a_position_means_the_same_sample_however_it_is_reached(size: int, seed: int, cut: int) -> None:
    whole = Order(size, seed).ids(0, 1500)
    assert Order(size, seed).ids(cut, 1501)[: 1500 - cut].tolist() == whole[cut:].tolist()


def test_epochs_and_seeds_differ() -> None:
    first, second = (Order(1000, 0).ids(e * 1000, (e + 1) * 1000) for e in (0, 1))
    assert (first != second).mean() > 0.9
    assert (first != Order(1000, 1).ids(0, 1000)).mean() > 0.9
    assert (first != np.arange(1000)).mean() > 0.9


def test_neighbours_are_spread_like_random_draws() -> None:
    """In a random permutation of n the mean distance between neighbours is n/3."""
    n = 100_000
    ids = Order(n, 3).ids(0, n).astype(float)
    assert np.abs(np.diff(ids)).mean() == pytest.approx(n / 3, rel=0.02)
    assert np.corrcoef(ids[:-1], ids[1:])[0, 1] == pytest.approx(0, abs=0.02)
    assert np.corrcoef(ids, np.arange(n))[0, 1] == pytest.approx(0, abs=0.02)


def test_position_a_billion_takes_no_memory() -> None:
    order = Order(10**10, 0)
    tracemalloc.start()
    ids = order.ids(10**9, 10**9 + 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(ids.tolist())) == 64
    assert peak < 100_000


def test_derived_seeds_do_not_collide_on_neighbouring_inputs() -> None:
    seeds = {derive(a, b, c) for a in range(20) for b in range(20) for c in range(20)}
    assert len(seeds) == 8000
