"""Runs of elements as boxes of a tensor, and through a checkpoint to other runs."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainkit.checkpoint.plan import Drafting
from trainkit.checkpoint.tensors import layout, read
from trainkit.strategy._fragments import Fragments, boxes
from trainkit.strategy._world import Solo

SHAPES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@given(SHAPES, st.data())
def test_boxes_are_the_run_in_its_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, prod(shape)))
    stop = data.draw(st.integers(start, prod(shape)))
    numbered = torch.arange(prod(shape)).view(shape)
    found = list(boxes(shape, start, stop))
    cut = [numbered[tuple(slice(o, o + s) for o, s in zip(at, sizes, strict=True))] for at, sizes in found]
    assert [n for box in cut for n in box.flatten().tolist()] == list(range(start, stop))
    assert len(found) <= max(1, 2 * len(shape) - 1)


def written(folder: Path, state: dict[str, torch.Tensor]) -> None:
    draft = Drafting(Solo(device=torch.device("cpu"))).draft(state, staged=True)
    draft.index(folder, draft.write(folder))


def test_a_run_is_written_and_read_in_place(tmp_path: Path) -> None:
    """3 x 4 elements, cut within rows: 0-6 and 7-11 are written, 0-4 and 5-11 are read."""
    whole = torch.randn(3, 4)
    parts = {"first": whole.flatten()[:7].clone(), "second": whole.flatten()[7:].clone()}
    for name, start in (("first", 0), ("second", 7)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, {"t": Fragments((3, 4), start, parts[name]), "u": torch.ones(2)})
    for name, start, stop in (("first", 0, 5), ("second", 7, 12)):
        into = torch.zeros(stop - start)
        read(tmp_path / name, {"t": Fragments((3, 4), start, into)}, 0, alone=True)
        assert torch.equal(into, whole.flatten()[start:stop])


def test_its_layout_is_that_of_the_whole_tensor() -> None:
    held = Fragments((3, 4), 5, torch.zeros(2))
    assert layout({"a": {"b": held}}) == {"a.b": ["float32", [3, 4]]}
    assert layout({"c": Fragments((), 0, torch.zeros(1))}) == {"c": ["float32", []]}
    assert layout({"d": Fragments((3, 4), 0, torch.zeros(0))}) == {"d": ["float32", [3, 4]]}


def test_nothing_can_be_computed_with_it() -> None:
    with pytest.raises(NotImplementedError, match="lie on other ranks"):
        Fragments((3, 4), 5, torch.zeros(2)) + 1
