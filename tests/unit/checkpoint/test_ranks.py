"""Several ranks: written by some, read by others; a fault on one is a fault on all, and nobody waits for it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.pool import Pool
from tests.unit.checkpoint.samples import damage, equal, saved, state, store_in, trainer
from trainkit.checkpoint.manifest import read_manifest, step_folder
from trainkit.checkpoint.store import CheckpointStore
from trainkit.errors import TrainkitError
from trainkit.protocols import World
from trainkit.strategy._world import connect

ROWS = 5  # does not divide by 2: the shards are uneven


@contextmanager
def joined() -> Iterator[World]:
    world = connect("cpu", 60)
    try:
        yield world
    finally:
        world.close()


def sharded(value: torch.Tensor) -> torch.Tensor:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    return distribute_tensor(value, init_device_mesh("cpu", (2,)), [Shard(0)])  # type: ignore[no-untyped-call]


def half(step: int, rank: int) -> dict[str, Any]:
    """What one stage of a pipeline holds."""
    return {"model": {f"stage{rank}.weight": torch.full((2, 3), step + rank / 2)}}


def whole(step: int, layout: str, rank: int) -> dict[str, Any]:
    if layout == "replicated":
        return state(step)
    if layout == "staged":
        return half(step, rank)
    return {"model": {"weight": sharded(big(step)), "scale": torch.tensor(float(step))}}


def alone(step: int, layout: str) -> dict[str, Any]:
    """The same, on one rank."""
    if layout == "replicated":
        return state(step)
    if layout == "staged":
        return {"model": half(step, 0)["model"] | half(step, 1)["model"]}
    return {"model": {"weight": big(step), "scale": torch.tensor(float(step))}}


def big(step: int) -> torch.Tensor:
    return torch.arange(ROWS * 3.0).reshape(ROWS, 3) + 100 * step


def save_together(folder: str, step: int, layout: str) -> str:
    with joined() as world:
        store = store_in(Path(folder), world)
        return str(store.begin(step, whole(step, layout, world.rank), trainer(step))().path)


def load_together(folder: str, layout: str) -> tuple[int, bool]:
    with joined() as world:
        store = store_in(Path(folder), world)
        into = whole(0, layout, world.rank)
        found = store.latest()
        if found is None:
            raise FileNotFoundError(folder)
        step = store.load(found, into)["progress"]["step"]
        expected = whole(step, layout, world.rank)
        return step, equal(local(into), local(expected))


def local(value: dict[str, Any]) -> dict[str, Any]:
    """Of sharded tensors, this rank's rows."""
    from torch.distributed.tensor import DTensor

    flat = {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in value.items()}
    return {name: local(tensor) if isinstance(tensor, dict) else tensor for name, tensor in flat.items()}


LAYOUTS = ["replicated", "sharded", "staged"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_two_ranks_wrote_one_reads(layout: str, pool: Pool, tmp_path: Path) -> None:
    assert pool.run(2, save_together, str(tmp_path), 3, layout) == [str(tmp_path / "step_3")] * 2
    into = alone(0, layout)
    found = store_in(tmp_path).latest()
    assert found is not None
    store_in(tmp_path).load(found, into)
    assert equal(into, alone(3, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_one_wrote_two_ranks_read(layout: str, pool: Pool, tmp_path: Path) -> None:
    store_in(tmp_path).save(3, alone(3, layout), trainer(3))
    assert pool.run(2, load_together, str(tmp_path), layout) == [(3, True)] * 2


def test_both_ranks_write_and_the_manifest_knows_all_of_it(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, save_together, str(tmp_path), 3, "staged")
    manifest = read_manifest(tmp_path / "step_3")
    assert set(manifest["files"]) == {"__0_0.distcp", "__1_0.distcp", ".metadata", "trainer.json"}
    assert set(manifest["tensors"]) == {"model.stage0.weight", "model.stage1.weight"}
    pool.run(2, save_together, str(tmp_path), 4, "sharded")
    assert read_manifest(tmp_path / "step_4")["tensors"]["model.weight"] == ["float32", [ROWS, 3]]


def test_what_is_damaged_for_one_rank_is_damaged_for_all(pool: Pool, tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for name in (".metadata", "__0_0.distcp", "trainer.json"):
        path = damage(tmp_path, 2, name)
        assert pool.run(2, load_together, str(tmp_path), "replicated") == [(1, True)] * 2
        flipped_back = damage(tmp_path, 2, name)
        assert flipped_back == path
    assert pool.run(2, load_together, str(tmp_path), "replicated") == [(2, True)] * 2


# ------------------------------------------------------------------------------------- faults on one rank


def told(folder: str, fault: str, staged: bool) -> str:
    """Save step 2 with `fault` on one of the ranks; what this rank is told."""
    with joined() as world:
        store = store_in(Path(folder), world, attempt=2)
        begin = store.begin
        store.save = lambda *what: begin(*what, staged=staged)()  # type: ignore[method-assign]
        try:
            FAULTS[fault](store, world)
        except TrainkitError as error:
            return str(error)
        return ""


def rank_1_runs_out_of_space(store: CheckpointStore, world: World) -> None:
    """A real limit of the system: no file of this process may grow beyond it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        # Two tensors that each rank writes one of.
        store.save(2, {"model": {"a": torch.zeros(2000), "b": torch.zeros(2000)}}, trainer(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rank_1_has_no_tensor(store: CheckpointStore, world: World) -> None:
    store.save(2, {"model": {"a": torch.zeros(2) if world.rank == 0 else 3}}, trainer(2))


def rank_0_cannot_commit(store: CheckpointStore, world: World) -> None:
    store.save(2, state(2), {"progress": object()} if world.rank == 0 else trainer(2))


def rank_0_cannot_begin(store: CheckpointStore, world: World) -> None:
    if world.rank == 0:
        store.folder = store.folder / "step_1" / "trainer.json" / "c"
    store.save(2, state(2), trainer(2))


def rank_1_has_another_model(store: CheckpointStore, world: World) -> None:
    store.load(step_folder(store.folder, 1), state(0, width=4 + world.rank))


def rank_1_cannot_read(store: CheckpointStore, world: World) -> None:
    path = step_folder(store.folder, 1)
    if world.rank == 1:
        path = step_folder(store.folder, 7)
    store.load(path, state(0))


FAULTS = {
    f.__name__: f
    for f in (
        rank_1_runs_out_of_space,
        rank_1_has_no_tensor,
        rank_0_cannot_commit,
        rank_0_cannot_begin,
        rank_1_has_another_model,
        rank_1_cannot_read,
    )
}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("rank_1_runs_out_of_space", "rank 1: File too large"),
        ("rank_1_has_no_tensor", "rank 1: TypeError: model.a in the engine's state is int, not a tensor"),
        ("rank_0_cannot_commit", "rank 0: TypeError"),
        ("rank_0_cannot_begin", "rank 0: Not a directory"),
        ("rank_1_has_another_model", "model.head.weight (float32 [3, 4] there, float32 [3, 5] in the model)"),
        ("rank_1_cannot_read", "rank 1: No such file or directory"),
    ],
)
@pytest.mark.parametrize("staged", [False, True])
def test_a_fault_on_one_rank_is_told_on_all(fault: str, says: str, staged: bool, pool: Pool, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    answers = pool.run(2, told, str(tmp_path), fault, staged, timeout=30)
    for answer in answers:
        assert says in answer
        other = "rank 0:" if "rank 1" in says else "rank 1:"
        assert other not in answer
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]
    assert store_in(tmp_path).latest() == step_folder(tmp_path, 1)
