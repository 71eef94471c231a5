"""A large tensor is read to its place, whatever it is of; what lies otherwise in the file is loaded by torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner

from tests.unit.checkpoint.samples import store_in, trainer
from trainkit.checkpoint.reading import LARGE
from trainkit.errors import CheckpointError

SIDE = 600  # SIDE * SIDE bytes are large
KINDS = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors that torch loads, and copies from there."""
    names: list[str] = []
    by_torch = FileSystemReader.read_data

    def read_data(self: FileSystemReader, plan: LoadPlan, planner: LoadPlanner) -> Any:
        names.extend(item.dest_index.fqn.removeprefix("model.") for item in plan.items)
        return by_torch(self, plan, planner)

    monkeypatch.setattr(FileSystemReader, "read_data", read_data)
    return names


def bits() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    found = {str(kind): torch.randint(0, 2, (SIDE, SIDE), generator=generator).to(kind) for kind in KINDS}
    return found | {
        "part": torch.randn(2 * SIDE, SIDE, generator=generator)[SIDE:],
        "turned": torch.randn(SIDE, SIDE, generator=generator).T,
        "small": torch.randn(9, generator=generator),
    }


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def test_large_ones_are_read_to_their_place(tmp_path: Path, loaded: list[str]) -> None:
    assert LARGE <= SIDE * SIDE
    stored = bits()
    path = store_in(tmp_path).save(1, {"model": stored}, trainer(1)).path
    into = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in stored.items()}
    store_in(tmp_path).load(path, {"model": {**into}})
    assert sorted(loaded) == ["small", "turned"]
    assert all(same_bits(into[name], tensor) for name, tensor in stored.items())


def test_a_place_that_lies_otherwise_gets_the_same(tmp_path: Path, loaded: list[str]) -> None:
    stored = {"plain": torch.randn(SIDE, SIDE), "wide": torch.randn(SIDE, SIDE)}
    path = store_in(tmp_path).save(1, {"model": stored}, trainer(1)).path
    into = {"plain": torch.empty(SIDE, SIDE).T, "wide": torch.empty(SIDE, 2 * SIDE)[:, ::2]}
    store_in(tmp_path).load(path, {"model": {**into}})
    assert sorted(loaded) == ["plain", "wide"]
    assert all(same_bits(into[name], tensor) for name, tensor in stored.items())


def test_a_file_that_ends_early_is_told(tmp_path: Path) -> None:
    stored = {"plain": torch.randn(SIDE, SIDE)}
    path = store_in(tmp_path).save(1, {"model": stored}, trainer(1)).path
    (file,) = path.glob("*.distcp")
    with file.open("r+b") as cut:
        cut.truncate(file.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        store_in(tmp_path).load(path, {"model": {"plain": torch.empty(SIDE, SIDE)}})
