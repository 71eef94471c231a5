"""Which ranks are slow, by what they measured."""

from __future__ import annotations

import pytest

from trainkit.resilience.stragglers import Timed, slow


def rank(compute: float, data: float = 0.0, calls: int = 10) -> Timed:
    return Timed(calls=calls, compute=compute, data=data)


@pytest.mark.parametrize(
    ("ranks", "found"),
    [
        ([rank(1.0), rank(1.1), rank(0.9)], []),
        ([rank(1.0), rank(2.1), rank(1.0), rank(1.0)], [(1, "compute")]),
        ([rank(1.0), rank(1.9)], []),
        ([rank(2.1), rank(1.0)], [(0, "compute")]),
        # Of stages with other work there is nothing to compare with.
        ([rank(1.0), rank(9.0, calls=12)], []),
        ([rank(1.0), rank(9.0, calls=12), rank(1.0), rank(3.0, calls=12)], [(1, "compute")]),
        # Too short to be measured.
        ([rank(1e-5), rank(5e-4)], []),
        # Data: longer than the others, and than the rank's own work.
        ([rank(1.0, data=0.1), rank(1.0, data=0.9)], []),
        ([rank(1.0, data=0.1), rank(1.0, data=1.1)], [(1, "data")]),
        # A disk that is slow for all is no straggler.
        ([rank(1.0, data=5.0), rank(1.0, data=5.1)], []),
    ],
)
def test_a_rank_is_slow_beside_the_others_of_its_kind(ranks: list[Timed], found: list[tuple[int, str]]) -> None:
    assert [(one.rank, one.what) for one in slow(ranks, 2.0)] == found
