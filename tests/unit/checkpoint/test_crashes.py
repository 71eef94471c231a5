"""A save or a deletion that is killed, loses its power, or fails, at every single file operation."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.checkpoint.disk import watched
from tests.unit.checkpoint.samples import damage, equal, keeping, saved, state, store_in, trainer
from trainkit.checkpoint import tensors
from trainkit.checkpoint.manifest import step_folder, steps, verify
from trainkit.checkpoint.store import CheckpointStore
from trainkit.errors import CheckpointError

Work = Callable[[CheckpointStore], object]


def save_2(store: CheckpointStore) -> object:
    """As behind a training loop, but when the test wants it."""
    return store.begin(2, state(2), trainer(2))()


def prepare(root: Path, *steps: int, broken: tuple[int, ...] = ()) -> Path:
    folder = root / "checkpoints"
    saved(folder, *steps)
    for step in broken:
        damage(folder, step)
    (folder / ".writing-step_9.1").mkdir()
    (folder / ".writing-step_9.1" / "__0_0.distcp").write_text("half")
    return folder


def step_found(folder: Path) -> int | None:
    found = store_in(folder).latest()
    return None if found is None else int(found.name.removeprefix("step_"))


def content(folder: Path, step: int) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in step_folder(folder, step).iterdir()}


def cache_by_content(look: Callable[[Path], int | None]) -> Callable[[Path], int | None]:
    """Look at folders of the same content once: most operations change nothing of what a power cut would leave."""
    known: dict[tuple[tuple[Path, bytes], ...], int | None] = {}

    def found(folder: Path) -> int | None:
        paths = sorted(folder.rglob("*"))
        content = tuple((p.relative_to(folder), p.read_bytes() if p.is_file() else b"") for p in paths)
        if content not in known:
            known[content] = look(folder)
        return known[content]

    return found


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Work, set[int | None], int]] = {
    # name: steps saved before, those of them that are damaged, work, what may be found meanwhile, and after
    "first": ((), (), save_2, {None, 2}, 2),
    "next": ((1,), (), save_2, {1, 2}, 2),
    "over a damaged one": ((1, 2), (2,), save_2, {1, 2}, 2),
    "over a good one": ((1, 2), (), save_2, {2}, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_a_save_that_ends_anywhere_leaves_the_newest_whole_one(case: str, tmp_path: Path) -> None:
    before, broken, work, meanwhile, after = CASES[case]
    root, seen, operations = tmp_path / "run", tmp_path / "seen", []
    root.mkdir()
    seen.mkdir()
    store = store_in(prepare(root, *before, broken=broken) if before else root / "checkpoints", attempt=2)

    found_in = cache_by_content(lambda image: step_found(image / "checkpoints"))

    def look(number: int, what: str) -> None:
        operations.append(what)
        for kind, image in disk.images(seen):
            found = found_in(image)
            assert found in meanwhile, (number, what, kind)
            if found == 2 and 2 in before and not broken:
                assert content(image / "checkpoints", 2) == untouched

    untouched = content(store.folder, 2) if 2 in before else {}
    with watched(root, look) as disk:
        work(store)
    for kind, image in disk.images(seen):
        assert step_found(image / "checkpoints") == after, kind
    if case != "over a good one":
        assert {name.split()[0] for name in operations} >= {"create", "write", "fsync", "mkdir", "rename"}
        assert len(operations) > 25


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["next", "over a damaged one", *(pytest.param(c, marks=pytest.mark.drill) for c in ("first", "over a good one"))],
)
@pytest.mark.drill
def test_a_power_cut_at_any_moment_leaves_the_old_or_the_new_one_whole(case: str, tmp_path: Path) -> None:
    """Thousands of them: before each operation, many choices of what of the unsynced names and bytes survives."""
    before, broken, work, meanwhile, after = CASES[case]
    root, image, draw, cuts = tmp_path / "run", tmp_path / "seen", random.Random(case), [0]
    root.mkdir()
    store = store_in(prepare(root, *before, broken=broken) if before else root / "checkpoints", attempt=2)

    def look(number: int, what: str) -> None:
        for _ in range(75):
            cuts[0] += 1
            found = read_back(disk.mixed(image, draw) / "checkpoints")
            assert found in meanwhile, (number, what, cuts)

    with watched(root, look) as disk:
        work(store)
    for _ in range(75):
        assert read_back(disk.mixed(image, draw) / "checkpoints") == after
    assert cuts[0] > 2500 or case == "over a good one"  # which is left alone


def read_back(folder: Path) -> int | None:
    """The step of the checkpoint that a run would go on from, every tensor of which is as it was saved."""
    store, into = store_in(folder), state(0)
    found = store.latest()
    if found is None:
        return None
    step = int(store.load(found, into)["progress"]["step"])
    assert found.name == f"step_{step}"
    assert equal(into, state(step))
    return step


def test_after_a_kill_anywhere_the_same_save_works_and_nothing_is_left(tmp_path: Path) -> None:
    root, again = tmp_path / "run", tmp_path / "again"
    root.mkdir()
    store = store_in(prepare(root, 1, 2, broken=(2,)), attempt=2)
    kills: list[str] = []

    def look(number: int, what: str) -> None:
        kills.append(what)
        shutil.copytree(root, tmp_path / f"killed_{number}")

    with watched(root, look):
        save_2(store)
    for number in range(1, len(kills) + 1):
        (tmp_path / f"killed_{number}").rename(again)
        store = store_in(again / "checkpoints", attempt=3)
        store.save(3, state(3), trainer(3))
        assert step_found(store.folder) == 3
        assert [p.name for p in store.folder.iterdir() if not p.name.startswith("step_")] == []
        shutil.rmtree(again)


FAULTS = [(errno.EIO, "Input/output error"), (errno.ENOSPC, "the disk is full"), (errno.EROFS, "the disk is read-only")]


def test_a_save_in_which_any_operation_fails_says_so_and_harms_nothing(tmp_path: Path) -> None:
    failing, reports = 0, 0
    while True:
        failing += 1
        fault, expected = FAULTS[failing % len(FAULTS)]
        root = tmp_path / str(failing)
        done: list[str] = []
        root.mkdir()
        store = store_in(prepare(root, 1), attempt=2)

        def fail(number: int, what: str, at: int = failing, fault: int = fault, done: list[str] = done) -> None:
            if number == at:
                done.append(what)
                raise OSError(fault, "injected", what)

        with watched(root, fail):
            try:
                save_2(store)
            except CheckpointError as error:
                reports += 1
                assert "cannot write the checkpoint of step 2" in str(error)
                assert expected in str(error)
                assert "is intact" in str(error)
        if not done:
            break
        assert step_found(store.folder) in (1, 2), done
        save_2(store)
        assert step_found(store.folder) == 2
        shutil.rmtree(root)
    assert reports > 25


def test_what_the_disk_says_once_while_more_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []

    def fail_once(fd: int) -> None:
        said.append(fd)
        if len(said) == 1:
            raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(tensors, "AHEAD", 64)
    monkeypatch.setattr(os, "fdatasync", fail_once)
    store = saved(tmp_path / "c")
    with pytest.raises(CheckpointError, match="Input/output error"):
        save_2(store)
    assert step_found(store.folder) is None
    save_2(store)
    assert step_found(store.folder) == 2 and len(said) > 1


def test_a_deletion_that_ends_anywhere_leaves_the_newest_and_nothing_that_is_half(tmp_path: Path) -> None:
    root, seen, count = tmp_path / "run", tmp_path / "seen", []
    root.mkdir()
    seen.mkdir()
    store = saved(root / "checkpoints", 1, 2, 3)

    def look(number: int, what: str) -> None:
        count.append(what)
        for kind, image in disk.images(seen):
            folder = image / "checkpoints"
            assert step_found(folder) == 3, (number, what, kind)
            assert [verify(step_folder(folder, step)) for step in steps(folder) if step != 3] in ([[], []], [[]], [])

    with watched(root, look) as disk:
        store.prune(keeping(1))
    assert [p.name for p in store.folder.iterdir()] == ["step_3"]
    assert len(count) > 8


def test_what_is_found_is_what_was_saved(tmp_path: Path) -> None:
    store = saved(tmp_path / "c", 1, 2)
    found = store.latest()
    assert found is not None
    into = state(0)
    assert store.load(found, into) == trainer(2)
    assert equal(into, state(2))
