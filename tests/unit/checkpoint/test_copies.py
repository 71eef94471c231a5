"""Copies in a store: whole or not there, deleted as local checkpoints are, and fetched by whoever has none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.conformance.settings import make
from tests.unit.checkpoint.objects import (
    PATIENCE_S,
    Told,
    blocked,
    content,
    copied_steps,
    copier_of,
    copy,
    elsewhere,
    empty,
    flip,
    put_back,
    watch,
)
from tests.unit.checkpoint.samples import damage, equal, keeping, saved, state, store_in, trainer
from trainkit import main
from trainkit.checkpoint.manifest import MARKER, step_folder, steps, verify
from trainkit.errors import CheckpointError
from trainkit.runfolder import RunFolder


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    empty()
    yield
    empty()


def local(folder: Path) -> dict[str, bytes]:
    """The files of all checkpoints on the disk, by their paths below `folder`."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("step_*/*")}


def come_back(folder: Path) -> int | None:
    """The step that another machine goes on from with nothing but the store; its tensors are as they were saved."""
    store, into = elsewhere(folder), state(0)
    found = store.latest()
    if found is None:
        return None
    step = int(store.load(found, into)["progress"]["step"])
    assert found == step_folder(folder, step)
    assert equal(into, state(step))
    return step


# ------------------------------------------------------------------------------------------- copying


def test_a_rank_that_stays_goes_on_with_the_copier_that_it_has(tmp_path: Path) -> None:
    settings = make(str(tmp_path), checkpoint={"dir": "memory://stays"})
    first = main.copies(settings, RunFolder(tmp_path))
    assert first is not None
    assert main.copies(make(str(tmp_path), checkpoint={"dir": "memory://stays"}), RunFolder(tmp_path)) is first
    assert main.copies(make(str(tmp_path)), RunFolder(tmp_path)) is None


def test_a_copy_has_the_same_files_and_its_marker_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    watch(monkeypatch, seen.append)
    saved(tmp_path, 4)
    told = Told()
    copy(copier_of(tmp_path, told), 4)
    assert content() == local(tmp_path)
    assert [what for what in seen if what.startswith("put")][-2:] == [
        "put step_4/MANIFEST.json",
        "put step_4/COMMITTED",
    ]
    ((kind, fields),) = told
    assert (kind, fields["step"], fields["path"]) == ("copy", 4, "memory://bucket/runs/a/step_4")
    files = [data for name, data in content().items() if name.rpartition("/")[2] not in ("MANIFEST.json", MARKER)]
    assert fields["bytes"] == sum(len(data) for data in files)
    assert 0 <= fields["seconds"] < PATIENCE_S


class Killed(Exception):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Let operation `number` and all after it fail, as for a process that is gone; returns what was done before."""
    done: list[str] = []

    def see(what: str) -> None:
        if len(done) == number:
            raise Killed
        done.append(what)

    watch(monkeypatch, see)
    return done


def test_a_copy_that_is_killed_anywhere_is_never_taken_for_whole(tmp_path: Path) -> None:
    """Step 1 of three has its copy. Steps 2 and 3 get theirs, and 1 and the half of a lost 0 are deleted."""
    folder = tmp_path / "run"
    saved(folder, 1)
    copy(copier_of(folder, Told()), 1)
    before = content() | {"step_0/__0_0.distcp": b"half of one", "step_0/trainer.json": b""}
    saved(folder, 2, 3)
    number, found, kinds = 0, set(), set()
    while True:
        put_back(before)
        with pytest.MonkeyPatch.context() as patch:
            done, told = kill_at(patch, number), Told()
            copy(copier_of(folder, told, keeping(2)), 3)
        step = come_back(tmp_path / f"machine_{number}")
        assert step in (1, 3), done
        assert step == 1 or "half step_3/COMMITTED" in done, done  # the marker was whole
        found.add(step)
        kinds |= {what.split()[0] for what in done}
        if not told.of("copy_failed"):
            break
        copy(copier_of(folder, Told(), keeping(2)), 3)  # the next one finishes or removes what the killed one left
        assert content() == {name: data for name, data in local(folder).items() if not name.startswith("step_1/")}, done
        number += 1
    assert (found, number) == ({1, 3}, len(done))
    assert kinds >= {"put", "half", "rm_file"}
    assert copied_steps() == [2, 3]


def test_a_local_checkpoint_that_is_damaged_is_told_once_and_not_copied(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    damage(tmp_path, 2, "__0_0.distcp")
    told = Told()
    copier = copier_of(tmp_path, told)
    copy(copier, 2)
    copy(copier, 2)
    assert copied_steps() == [1]
    assert ["__0_0.distcp has changed" in event["message"] for event in told.of("copy_failed")] == [True]


@pytest.mark.parametrize("bit", [1, 128])
def test_a_local_marker_that_is_damaged_leaves_the_copy_alone(bit: int, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    copy(copier_of(tmp_path, Told()), 1)
    before, told = content(), Told()
    marker = step_folder(tmp_path, 1) / MARKER
    marker.write_bytes(bytes([marker.read_bytes()[0] ^ bit]) + marker.read_bytes()[1:])
    copy(copier_of(tmp_path, told), 1)
    assert [(kind, fields["step"]) for kind, fields in told] == [("copy_failed", 1)]
    assert content() == before


@pytest.mark.parametrize("bit", [1, 128])
def test_a_copy_whose_marker_is_damaged_is_made_again(bit: int, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    copy(copier_of(tmp_path, Told()), 1)
    flip(f"step_1/{MARKER}", bit)
    copy(copier_of(tmp_path, Told()), 1)
    assert content() == local(tmp_path)


def test_another_checkpoint_of_the_same_step_takes_the_place_of_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "a", 1)
    copy(copier_of(tmp_path / "a", Told()), 1)
    put_back(content() | {"step_1/__1_0.distcp": b"of a second rank"})
    store_in(tmp_path / "b").save(1, state(7), trainer(1))
    seen: list[str] = []
    watch(monkeypatch, seen.append)
    copy(copier_of(tmp_path / "b", Told()), 1)
    assert content() == local(tmp_path / "b")
    assert seen[0] == f"rm_file step_1/{MARKER}"  # or a kill would leave the old marker over new files


def test_a_file_that_does_not_arrive_whole_gets_no_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MemoryFileSystem.put_file

    def put(self: MemoryFileSystem, source: str, target: str) -> None:
        whole(self, source, target)
        if target.endswith(".distcp"):
            self.pipe_file(target, self.cat_file(target)[:-1])

    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    saved(tmp_path, 1)
    told = Told()
    copy(copier_of(tmp_path, told), 1)
    assert copied_steps() == []
    assert "__0_0.distcp has" in told.of("copy_failed")[0]["message"]


# ----------------------------------------------------------------------------------------- retention


def test_there_stay_the_newest_the_milestones_and_the_best(tmp_path: Path) -> None:
    keep, told = keeping(2, "eval_loss", every=10), Told()
    store, copier = store_in(tmp_path), copier_of(tmp_path, told, keep)
    for step, loss in ((2, 0.9), (5, 0.1), (11, 0.5), (14, 0.4), (17, 0.6), (20, 0.6), (23, 0.8)):
        store.save(step, state(step), trainer(step, eval_loss=loss))
        store.prune(keep)
        copy(copier, step)
        assert copied_steps() == steps(tmp_path)
    assert copied_steps() == [5, 11, 20, 23]
    assert len(told) == 7  # none was copied twice


def test_what_goes_loses_its_marker_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)
    copier = copier_of(tmp_path, Told(), keeping(1))
    copy(copier, 1)
    saved(tmp_path, 2)
    seen: list[str] = []
    watch(monkeypatch, seen.append)
    copy(copier, 2)
    removed = [what for what in seen if what.startswith("rm")]
    assert removed[0] == "rm_file step_1/COMMITTED"
    assert len(removed) == 6  # four more files, and the folder
    assert copied_steps() == [2]


def test_another_machine_deletes_by_what_is_in_the_store_and_copies_nothing_twice(tmp_path: Path) -> None:
    """It fetched step 3 only. The best is 1, which it does not have; 3 is its own best, and goes from the store."""
    keep = keeping(1, "eval_loss")
    for step, loss in ((1, 0.3), (2, 0.8), (3, 0.5)):
        store_in(tmp_path / "a").save(step, state(step), trainer(step, eval_loss=loss))
    copy(copier_of(tmp_path / "a", Told(), keeping(9)), 3)
    folder, told = tmp_path / "b", Told()
    store, copier = elsewhere(folder), copier_of(folder, told, keep)
    assert store.latest() == step_folder(folder, 3)
    copy(copier)
    assert copied_steps() == [1, 2, 3]  # nothing goes before this process has saved one
    assert told == []
    for step, loss in ((4, 0.7), (5, 0.6)):
        store.save(step, state(step), trainer(step, eval_loss=loss))
        store.prune(keep)
        copy(copier, step)
        copy(copier, step)
        assert copied_steps() == [1, step]
        assert steps(folder) == [3, step]
    assert [event["step"] for event in told.of("copy")] == [4, 5]


def test_the_one_that_is_being_copied_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keep=1 and a store slower than the saves, none would ever get there."""
    begun, go_on = threading.Event(), threading.Event()
    watch(monkeypatch, blocked(go_on, begun))
    told = Told()
    store, copier = saved(tmp_path, 1), copier_of(tmp_path, told, keeping(1))
    store._copier = copier
    copier.ask(1)
    assert begun.wait(PATIENCE_S)
    for step in (2, 3):
        store.save(step, state(step), trainer(step))
        store.prune(keeping(1))
        copier.ask(step)
    assert steps(tmp_path) == [1, 3]
    go_on.set()
    copier.finish(PATIENCE_S, lambda: None)
    assert [event["step"] for event in told.of("copy")] == [1, 3]
    assert copied_steps() == [3]
    store.save(4, state(4), trainer(4))
    store.prune(keeping(1))
    assert steps(tmp_path) == [4]


def test_the_end_waits_for_a_copy_no_longer_than_it_may_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, beats = threading.Event(), []
    watch(monkeypatch, blocked(go_on))
    saved(tmp_path, 1)
    told = Told()
    copier = copier_of(tmp_path, told)
    copier.ask(1)
    copier.finish(0.05, lambda: beats.append(1))
    assert [(kind, fields["step"]) for kind, fields in told] == [("copy_failed", 1)]
    assert "not done 0.05 s after the run" in told[0][1]["message"]
    assert beats
    go_on.set()
    copier.finish(PATIENCE_S, lambda: None)
    assert copied_steps() == [1]


# ------------------------------------------------------------------------------------------- fetching


def test_an_empty_folder_gets_the_newest_copy(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1, 2)
    copy(copier_of(tmp_path / "a", Told()), 2)
    assert come_back(tmp_path / "b") == 2
    assert steps(tmp_path / "b") == [2]
    assert verify(step_folder(tmp_path / "b", 2)) == []
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["step_2"]


def test_half_a_copy_is_not_even_fetched(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1, 2)
    copy(copier_of(tmp_path / "a", Told()), 2)
    put_back({name: data for name, data in content().items() if name != f"step_2/{MARKER}"})
    said: list[str] = []
    assert elsewhere(tmp_path / "b", said).latest() == step_folder(tmp_path / "b", 1)
    assert said == ["fetching memory://bucket/runs/a/step_1"]


def test_what_is_here_and_as_new_is_not_fetched(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    copy(copier_of(tmp_path, Told()), 2)
    flip("step_2/__0_0.distcp")
    said: list[str] = []
    assert elsewhere(tmp_path, said).latest() == step_folder(tmp_path, 2)
    assert said == []


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "trainer.json", "MANIFEST.json", "COMMITTED"])
def test_a_flipped_bit_in_the_store_is_found_and_the_copy_before_is_taken(file: str, tmp_path: Path) -> None:
    saved(tmp_path / "a", 1, 2)
    copy(copier_of(tmp_path / "a", Told()), 2)
    flip(f"step_2/{file}")
    said: list[str] = []
    assert elsewhere(tmp_path / "b", said).latest() == step_folder(tmp_path / "b", 1)
    assert [line for line in said if "copy of step 2 in the store is damaged" in line and file in line]
    assert steps(tmp_path / "b") == [1]


def test_a_file_that_is_gone_from_the_store_is_found(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1)
    copy(copier_of(tmp_path / "a", Told()), 1)
    put_back({name: data for name, data in content().items() if name != "step_1/.metadata"})
    with pytest.raises(CheckpointError, match=r"can be trusted:\s+copy of step 1 .*\.metadata: No such file"):
        elsewhere(tmp_path / "b").latest()
    assert list((tmp_path / "b").iterdir()) == []


def test_the_copy_takes_the_place_of_a_damaged_local_one(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    copy(copier_of(tmp_path, Told()), 2)
    damage(tmp_path, 2)
    said: list[str] = []
    assert elsewhere(tmp_path, said).latest() == step_folder(tmp_path, 2)
    assert verify(step_folder(tmp_path, 2)) == []
    assert "step_2 is damaged: trainer.json has changed" in said[0]
    assert [path.name.split(".")[1] for path in tmp_path.glob(".*")] == ["damaged-step_2"]


def down(self: MemoryFileSystem, *args: object, **options: object) -> None:
    raise ConnectionError("the store is down")


def test_a_store_that_is_down_is_passed_over_only_if_there_is_something_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "a", 1)
    copy(copier_of(tmp_path / "a", Told()), 1)
    monkeypatch.setattr(MemoryFileSystem, "ls", down)
    said: list[str] = []
    assert elsewhere(tmp_path / "a", said).latest() == step_folder(tmp_path / "a", 1)
    assert "the store is down; going on with those in" in said[0]
    with pytest.raises(CheckpointError, match=r"does not tell which checkpoints it has: .*the store is down"):
        elsewhere(tmp_path / "b").latest()  # to start anew would be to write over what is there


def test_a_copy_that_cannot_be_fetched_now_is_not_given_up_for_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "a", 1, 2)
    copy(copier_of(tmp_path / "a", Told()), 2)
    saved(tmp_path / "b", 1)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", down)
        with pytest.raises(CheckpointError, match=r"cannot fetch memory://bucket/runs/a/step_2: .*the store is down"):
            elsewhere(tmp_path / "b").latest()
    assert come_back(tmp_path / "b") == 2
