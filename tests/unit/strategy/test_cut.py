"""The cut into stages: every block once, no stage larger than need be."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.strategy import _cut

SIZES = st.lists(st.integers(0, 1000), min_size=1, max_size=9)
ENDS = st.integers(0, 3000)


def loads(sizes: list[int], bounds: list[int], before: int, after: int) -> list[int]:
    held = [sum(sizes[first:end]) for first, end in pairwise(bounds)]
    held[0] += before
    held[-1] += after
    return held


@given(SIZES, st.integers(1, 9), ENDS, ENDS)
def test_no_other_cut_is_better(sizes: list[int], stages: int, before: int, after: int) -> None:
    if stages > len(sizes):
        with pytest.raises(ValueError, match="cannot be cut"):
            _cut.balanced(sizes, stages, before, after)
        return
    bounds = _cut.balanced(sizes, stages, before, after)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, len(sizes), stages + 1)
    assert all(first < end for first, end in pairwise(bounds))

    def cost(cut: list[int]) -> tuple[int, int]:
        held = loads(sizes, cut, before, after)
        return max(held), sum(load**2 for load in held)

    every = ([0, *inner, len(sizes)] for inner in combinations(range(1, len(sizes)), stages - 1))
    assert cost(bounds) == min(cost(cut) for cut in every)


@given(st.integers(1, 40), st.integers(1, 12))
def test_equal_blocks_make_stages_that_differ_by_one_block_at_most(blocks: int, stages: int) -> None:
    if stages <= blocks:
        counts = [end - first for first, end in pairwise(_cut.balanced([7] * blocks, stages))]
        assert max(counts) - min(counts) <= 1


def test_embeddings_and_head_make_the_stages_that_have_them_shorter() -> None:
    assert _cut.balanced([10] * 12, 4, before=20, after=20) == [0, 2, 6, 10, 12]


@given(st.integers(1, 12), st.lists(st.integers(-2, 14), max_size=5))
def test_a_given_cut_is_taken_where_no_stage_is_empty(blocks: int, cut: list[int]) -> None:
    whole = [0, *cut, blocks]
    if all(first < end for first, end in pairwise(whole)):
        assert _cut.given(cut, blocks) == whole
    else:
        with pytest.raises(ValueError, match="each after the one before"):
            _cut.given(cut, blocks)
