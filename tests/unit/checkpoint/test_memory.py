"""The place of a run's snapshots: whose it is, what becomes of it, what speaks against one. tmpfs is a folder here."""

from __future__ import annotations

import errno
import os
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conformance.settings import make
from tests.unit.checkpoint.samples import damage, equal, saved, state, store_in
from trainkit.checkpoint import leaving, memory
from trainkit.checkpoint.agree import Alone
from trainkit.checkpoint.manifest import Digest, steps
from trainkit.config.check import check
from trainkit.errors import CheckpointError
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder


def run(path: Path) -> RunFolder:
    (path / "logs").mkdir(parents=True)
    return RunFolder(path)


def made(folder: RunFolder) -> Path:
    """The place of its snapshots, on this machine."""
    place = memory.make(folder)
    memory.enter(folder, place)
    return place


def give_back(folder: RunFolder, told: Told) -> None:
    leaving.give_back(folder, folder.root / "checkpoints", told, partial(leaving.here, folder))


class Told(list[dict[str, Any]]):
    """The events that were told."""

    def __call__(self, kind: str, **fields: Any) -> None:
        self.append({"event": kind, **fields})


def test_a_run_finds_its_own_place_again(tmp_path: Path, root: Path) -> None:
    one, other = run(tmp_path / "one"), run(tmp_path / "other")
    assert memory.find(one) is None
    place = made(one)
    assert place.parent == root / f"trainkit-{os.getuid()}"
    assert place.parent.stat().st_mode & 0o077 == 0
    assert memory.find(one) == made(one) == place
    assert memory.find(other) is None
    assert made(other) != place
    saved(place, 3)
    assert (memory.kept(one), memory.kept(other)) == ([3], [])


def test_a_folder_that_is_made_anew_or_copied_does_not_come_by_the_snapshots_of_another(tmp_path: Path) -> None:
    one = run(tmp_path / "one")
    place = made(one)
    shutil.copytree(one.root, tmp_path / "copy")
    assert memory.find(RunFolder(tmp_path / "copy")) is None
    shutil.rmtree(one.root)
    anew = run(tmp_path / "one")
    assert memory.find(anew) is None
    assert made(anew) != place
    assert not place.exists()


def test_what_runs_left_that_are_gone_is_deleted_by_the_next_one_and_nothing_else(tmp_path: Path) -> None:
    gone, moved, there = (run(tmp_path / name) for name in ("gone", "moved", "there"))
    places = {each.root.name: made(each) for each in (gone, moved, there)}
    for place in places.values():
        saved(place, 1)
    shutil.rmtree(gone.root)
    moved.root.rename(tmp_path / "elsewhere")
    made_now = memory.mine() / ".new-by-another-run"
    made_now.mkdir()
    made(run(tmp_path / "next"))
    assert {name: place.exists() for name, place in places.items()} == {"gone": False, "moved": False, "there": True}
    assert made_now.exists()


def test_the_end_of_a_run_gives_its_memory_back_and_no_other(tmp_path: Path, root: Path) -> None:
    one, other = run(tmp_path / "one"), run(tmp_path / "other")
    saved(one.root / "checkpoints", 4)
    saved(made(one), 3)
    saved(made(other), 7)
    told = Told()
    give_back(one, told)
    assert told == []
    assert steps(one.root / "checkpoints") == [4]
    assert memory.find(one) is None
    assert not one.memory.exists()
    assert memory.kept(other) == [7]
    give_back(other, told)
    assert [*root.iterdir()] == []


def test_what_only_memory_has_is_moved_to_the_disk(tmp_path: Path, root: Path) -> None:
    one, told = run(tmp_path / "one"), Told()
    folder = one.root / "checkpoints"
    saved(folder, 4)
    saved(made(one), 6)
    give_back(one, told)
    assert told == [{"event": "snapshot_moved", "step": 6, "path": str(folder / "step_6")}]
    into, store = state(0), store_in(folder)
    assert store.latest() == folder / "step_6"
    store.load(folder / "step_6", into)
    assert equal(into, state(6))
    assert sorted(path.name for path in folder.iterdir()) == ["step_4", "step_6"]
    assert [*root.iterdir()] == []


def test_a_damaged_one_is_not_moved_and_is_told(tmp_path: Path, root: Path) -> None:
    one, told = run(tmp_path / "one"), Told()
    saved(made(one), 6)
    damage(made(one), 6)
    give_back(one, told)
    ((_, step, message),) = (tuple(event.values()) for event in told)
    assert step == 6
    assert "the snapshot of step 6 is damaged: trainer.json has changed" in message
    assert [*(one.root / "checkpoints").iterdir()] == []
    assert [*root.iterdir()] == []


def test_where_the_disk_is_full_it_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, told = run(tmp_path / "one"), Told()
    saved(made(one), 6)

    def full(source: Path, target: Path, wanted: Digest) -> bool:
        target.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(leaving, "_copied", full)
        give_back(one, told)
    assert [(event["event"], event["step"]) for event in told] == [("snapshot_failed", 6)]
    assert "the disk is full" in told[0]["message"]
    assert [*(one.root / "checkpoints").iterdir()] == []
    assert memory.kept(one) == [6]
    give_back(one, told)
    assert steps(one.root / "checkpoints") == [6]


def test_a_snapshot_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    memory.room(2**20)
    with pytest.raises(CheckpointError, match=r"takes 2\.0 MiB, and .* has 1\.0 MiB free"):
        memory.room(2**21)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(CheckpointError, match=r"has 1\.0 MiB free"):
        memory.room(2**21)


def problems(tmp_path: Path) -> list[str]:
    settings = make(str(tmp_path / "run"), checkpoint={"memory_every": 2})
    found = check(settings, Cluster(hosts=2, ranks=2, gpus=0, cores=1))
    return [f"{problem.message}; {problem.hint}" for problem in found if problem.key == "checkpoint.memory_every"]


def test_a_machine_without_such_a_file_system_is_refused(tmp_path: Path, root: Path) -> None:
    assert problems(tmp_path) == []
    root.rmdir()
    (problem,) = problems(tmp_path)
    assert "there is no such folder; mount one (mount -t tmpfs tmpfs" in problem
    assert "or set checkpoint.memory_every=null" in problem


def test_all_on_a_machine_read_the_same_word_and_others_another(tmp_path: Path, root: Path) -> None:
    one = run(tmp_path / "one")
    place = memory.make(one)
    words = [memory.enter(one, place) for _ in range(2)]
    assert words[0] == words[1] != ""
    assert sorted(path.name for path in memory.mine().iterdir()) == [place.name]
    memory.mine().rename(root / "the other machine's")
    assert memory.enter(one, place) != words[0]


def test_a_place_whose_word_a_network_disk_does_not_show_yet_is_not_left_over(tmp_path: Path) -> None:
    one = run(tmp_path / "one")
    saved(made(one), 3)
    word, place = one.memory.read_text(), memory.make(one)
    one.memory.unlink()
    memory.enter(one, place)
    one.memory.write_text(word)
    assert (memory.find(one), memory.kept(one)) == (place, [3])


def test_a_place_that_is_renamed_is_found_and_one_that_was_away_is_not(tmp_path: Path, root: Path) -> None:
    one, alone = run(tmp_path / "one"), Alone(0)
    place = made(one)
    saved(place, 3)
    shutil.copytree(place, root / "away")
    new = memory.rename(one, place, alone, leads=True)
    (root / "away").rename(place)
    assert new != place
    assert (memory.find(one), memory.kept(one)) == (new, [3])
    memory.clear(new)
    assert not place.exists()


def test_a_folder_of_another_user_is_not_trusted(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(tmp_path / "one")
    real = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: real + 1)
    memory.mine().mkdir()  # it is the first user's
    (problem,) = problems(tmp_path)
    assert "belongs to another user" in problem
    with pytest.raises(CheckpointError, match="belongs to another user"):
        made(one)
    one.memory.write_text("word")
    (memory._place(one, "word") / "step_1").mkdir(parents=True)
    assert memory.find(one) is None
