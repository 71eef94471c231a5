"""A run with copies in a store in memory: another machine goes on from them, and no fault of the store matters."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.conformance.training import curve, tensors, trained_ids
from tests.unit.checkpoint.objects import PATIENCE_S, URL, blocked, copied_steps, empty, watch
from tests.unit.checkpoint.runs import events, run, same, wait
from trainkit import main
from trainkit.resilience.stop import StopFlag


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    empty()
    yield
    empty()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("straight") / "run"
    assert run(root, None) == "done"
    return root


def test_another_machine_goes_on_from_the_url_alone_to_the_bit(straight: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"

    def stop(step: int, flag: StopFlag) -> None:
        flag.raised = step >= 5

    assert run(first, at=stop) == "stopped"
    assert copied_steps() == [4, 5]
    shutil.rmtree(first)
    assert run(second, attempt=2) == "done"
    assert [event["step"] for event in events(second, "start")] == [5]
    assert same(curve(second)) == same(curve(straight))[5:]
    assert {step: ids for step, ids in trained_ids(straight).items() if step > 5} == trained_ids(second)
    ours, theirs = tensors(second, 12), tensors(straight, 12)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert (second / "model/model.safetensors").read_bytes() == (straight / "model/model.safetensors").read_bytes()
    assert copied_steps() == [8, 12]


def test_a_plain_run_tells_of_no_copies(straight: Path) -> None:
    assert [events(straight, kind) for kind in ("copy", "copy_failed")] == [[], []]


def test_a_store_that_fails_is_told_and_training_ends_well(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def see(what: str) -> None:
        raise PermissionError(13, "Permission denied")

    watch(monkeypatch, see)
    assert run(tmp_path / "run") == "done"
    assert same(curve(tmp_path / "run")) == same(curve(straight))
    assert events(tmp_path / "run", "copy") == []
    last = events(tmp_path / "run", "copy_failed")[-1]
    assert (last["step"], last["path"]) == (12, f"{URL}/step_12")
    assert "Permission denied; tried again with the next checkpoint" in last["message"]


def test_what_failed_is_copied_with_the_next_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "run"
    broken = [True]

    def see(what: str) -> None:
        if broken[0]:
            raise ConnectionError("the store is down")

    def mend(step: int, flag: StopFlag) -> None:
        if step == 7:
            wait(lambda: bool(events(root, "copy_failed")))
            broken[0] = False

    watch(monkeypatch, see)
    assert run(root, at=mend) == "done"
    assert {event["step"] for event in events(root, "copy_failed")} == {4}
    assert {event["step"] for event in events(root, "copy")} >= {8, 12}
    assert copied_steps() == [8, 12]


def test_a_store_that_never_answers_holds_up_neither_training_nor_the_end(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    watch(monkeypatch, blocked(go_on))
    monkeypatch.setattr(main, "COPY_S", 0.05)
    root = tmp_path / "run"
    try:
        assert run(root) == "done"
        assert same(curve(root)) == same(curve(straight))
        assert [event["step"] for event in events(root, "save")] == [4, 8, 12]
        (failed,) = events(root, "copy_failed")
        assert "not done 0.05 s after the run; the same command copies it" in failed["message"]
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "copy"]
        assert thread.daemon  # so that the process can end
    finally:
        go_on.set()
    thread.join(PATIENCE_S)


def test_the_same_command_copies_what_a_killed_one_left(tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert run(root) == "done"
    empty()
    assert run(root, attempt=2) == "done"  # nothing is left to train, and nothing is saved
    assert copied_steps() == [8, 12]
    assert [event["step"] for event in events(root, "save")] == [4, 8, 12]


def test_a_store_that_is_down_at_the_end_does_not_keep_a_done_run_from_its_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ConnectionError("the store is down")

    root = tmp_path / "run"
    assert run(root) == "done"
    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    shutil.rmtree(root / "model")
    assert run(root, attempt=2) == "done"
    assert (root / "model/model.safetensors").exists()
