"""The copy behind which training goes on: exact, one, and in the same memory every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.checkpoint.samples import equal, state, store_in, trainer
from trainkit.checkpoint.plan import Drafting
from trainkit.checkpoint.staging import ALIGNED, Staging
from trainkit.errors import CheckpointError
from trainkit.strategy._world import Solo

CPU = torch.device("cpu")
KINDS = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_copies_are_exact_for_every_type_and_layout() -> None:
    draw = torch.Generator().manual_seed(1)
    live = [torch.randint(0, 2, (5, 3), generator=draw).to(kind) for kind in KINDS]
    live += [torch.tensor(3.0), torch.zeros(0, 4), torch.tensor([float("nan"), -0.0])]
    live += [torch.arange(12.0).reshape(3, 4).T, torch.arange(100.0)[10:20], torch.ones(2).expand(3, 2)]
    copies = Staging(CPU).copy(live)
    for copy, tensor in zip(copies, live, strict=True):
        assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
        assert bits(copy).equal(bits(tensor))


def test_later_changes_do_not_reach_the_copy() -> None:
    live = [torch.zeros(1000), torch.ones(7)]
    copies = Staging(CPU).copy(live)
    for tensor in live:
        tensor.add_(1)
    assert [copy.unique().tolist() for copy in copies] == [[0.0], [1.0]]


def test_each_copy_is_as_large_as_its_data_or_torch_would_copy_it_again() -> None:
    for copy in Staging(CPU).copy([torch.zeros(3), torch.zeros(5, 5), torch.tensor(1)]):
        assert copy.untyped_storage().size() == copy.nbytes
        assert copy.data_ptr() % ALIGNED == 0


def test_the_memory_is_reserved_once_and_used_again() -> None:
    staging, live = Staging(CPU), [torch.zeros(1000), torch.ones(7)]
    first = staging.copy(live)
    second = staging.copy([tensor + 1 for tensor in live])
    assert [copy.data_ptr() for copy in first] == [copy.data_ptr() for copy in second]
    assert first[0][0].item() == 1.0
    (larger,) = staging.copy([torch.zeros(2000)])
    assert larger.data_ptr() != first[0].data_ptr()


def drafted(value: dict[str, Any], drafting: Drafting) -> Any:
    return drafting.draft(value, staged=True).part


def test_who_writes_what_is_agreed_on_once_until_the_state_is_another() -> None:
    drafting = Drafting(Solo(device=CPU))
    first = drafted(state(1), drafting)
    assert drafted(state(2), drafting) is first
    grown = state(3)
    grown["optimizer"]["head.bias"] = {"exp_avg": torch.zeros(3)}
    assert drafted(grown, drafting) is not first


def test_a_state_that_grows_is_saved_whole(tmp_path: Path) -> None:
    """A parameter that took no part in the first steps has moments later."""
    store = store_in(tmp_path)
    store.begin(1, state(1), trainer(1))()
    grown = state(2)
    grown["optimizer"]["head.bias"] = {"exp_avg": torch.full((3,), 0.5)}
    into = state(0)
    into["optimizer"]["head.bias"] = {"exp_avg": torch.zeros(3)}
    store.load(store.begin(2, grown, trainer(2))().path, into)
    assert equal(into, grown)


def test_what_is_begun_is_of_its_moment(tmp_path: Path) -> None:
    store, live = store_in(tmp_path), state(1)
    rest = store.begin(1, live, trainer(1))
    live["model"]["head.weight"].zero_()
    into = state(0)
    store.load(rest().path, into)
    assert equal(into, state(1))


def test_without_memory_for_the_copy_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    with pytest.raises(CheckpointError, match=r"step 1 to .*: rank 0: Cannot allocate memory"):
        store_in(tmp_path).begin(1, state(1), trainer(1))
    assert list(tmp_path.iterdir()) == []
