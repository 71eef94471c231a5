"""Snapshots of a run in this process: when they are taken, and what a run goes on from. tmpfs is a folder here."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.training import tensors
from tests.unit.checkpoint.samples import damage
from tests.unit.test_trainer import during, events, held, logged, spoil, trainer
from trainkit.audit.checks import findings
from trainkit.audit.journal import Journal
from trainkit.checkpoint import memory
from trainkit.errors import CheckpointError
from trainkit.runfolder import RunFolder
from trainkit.trainer import Trainer


def made(run: Path, attempt: int = 1, every: int | None = 3, memory_every: int | None = 1, **more: Any) -> Trainer:
    checkpoint = {"every": every, "memory_every": memory_every, "keep": 9} | more.pop("checkpoint", {})
    return trainer(run, attempt=attempt, **({"steps": 8, "checkpoint": checkpoint} | more))


def written(step: int) -> None:
    """Before each step: all that was to be written is."""
    while [thread for thread in threading.enumerate() if thread.name == "checkpoint"]:
        threading.Event().wait(0.005)


def breaks_in(t: Trainer, step: int) -> None:
    """The run breaks in `step`, in a way in which nobody saves the newest step; what was to be written is."""

    def action(now: int) -> None:
        written(now)
        if now == step:
            raise CheckpointError("broken")

    during(t, action)
    with pytest.raises(CheckpointError, match="broken"):
        t.fit()


def snapshots(run: Path) -> list[int]:
    return [event["step"] for event in events(run, "snapshot")]


def starts(run: Path) -> list[int]:
    return [event["step"] for event in events(run, "start")]


def undisturbed(tmp_path: Path, **options: Any) -> dict[str, Any]:
    made(tmp_path / "whole", memory_every=None, **options).fit()
    return tensors(tmp_path / "whole", 8)


def same(run: Path, tmp_path: Path) -> bool:
    whole = undisturbed(tmp_path)
    return all(torch.equal(tensor, whole[name]) for name, tensor in tensors(run, 8).items())


@pytest.mark.parametrize("asynchronous", [True, False])
def test_every_so_many_steps_but_where_the_disk_has_it_and_only_the_newest_stays(
    asynchronous: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    t = made(run, every=4, memory_every=2, steps=11, checkpoint={"asynchronous": asynchronous})
    begin, staged = t.snapshots.begin, []

    def seen(step: int, *state: Any, **how: bool) -> Any:
        staged.append(how["staged"])
        return begin(step, *state, **how)

    t.snapshots.begin = seen  # type: ignore[method-assign]
    during(t, written)
    assert t.fit() == "done"
    assert staged == [asynchronous] * 3
    assert snapshots(run) == [2, 6, 10]
    assert [event["step"] for event in events(run, "save")] == [4, 8, 11]
    assert memory.kept(t.folder) == [10]
    place = memory.find(t.folder)
    assert place is not None
    assert sorted(path.name for path in place.iterdir()) == ["HOST", "RUN", "step_10"]


def test_without_the_key_there_is_none(tmp_path: Path, root: Path) -> None:
    made(tmp_path / "run", memory_every=None).fit()
    assert snapshots(tmp_path / "run") == []
    assert [*root.iterdir()] == []


def test_a_run_goes_on_from_the_newest_of_memory_and_disk(tmp_path: Path) -> None:
    run = tmp_path / "run"
    breaks_in(made(run), 6)  # on the disk: 3, in memory: 5
    again = made(run, attempt=2)
    assert again.fit() == "done"
    assert starts(run) == [0, 5]
    (used,) = events(run, "snapshot_used")
    assert (used["step"], Path(used["path"]).name) == (5, "step_5")
    assert events(run, "start")[1]["from_attempt"] == 1
    assert same(run, tmp_path)
    assert logged(run) == list(range(1, 9))


def test_what_is_older_than_the_checkpoint_on_the_disk_is_dropped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    breaks_in(made(run, every=3, memory_every=2), 4)  # on the disk: 3, in memory: 2
    made(run, attempt=2, steps=4, every=3, memory_every=2).fit()
    assert starts(run) == [0, 3]
    assert events(run, "snapshot_used") == []
    assert memory.kept(RunFolder(run)) == []


def test_what_the_disk_has_too_is_read_from_the_disk(tmp_path: Path) -> None:
    run = tmp_path / "run"
    breaks_in(made(run), 6)
    place = memory.find(RunFolder(run))
    assert place is not None
    shutil.copytree(place / "step_5", run / "checkpoints/step_5")  # as one that outlives a fault saves it
    made(run, attempt=2, steps=6).fit()
    assert starts(run) == [0, 5]
    assert events(run, "snapshot_used") == []


def test_one_that_is_older_than_a_damaged_checkpoint_is_newer_than_the_good_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    breaks_in(made(run, every=3, memory_every=5), 8)  # on the disk: 3 and 6, in memory: 5
    damage(run / "checkpoints", 6)
    made(run, attempt=2, memory_every=5).fit()
    assert starts(run) == [0, 5]
    assert same(run, tmp_path)


def test_where_every_checkpoint_is_damaged_a_snapshot_is_enough(tmp_path: Path) -> None:
    run = tmp_path / "run"
    breaks_in(made(run), 6)
    damage(run / "checkpoints", 3)
    made(run, attempt=2).fit()
    assert starts(run) == [0, 5]


def test_a_damaged_one_is_named_and_passed_over(tmp_path: Path) -> None:
    run, said = tmp_path / "run", []
    breaks_in(made(run), 6)
    place = memory.find(RunFolder(run))
    assert place is not None
    damage(place, 5)
    again = made(run, attempt=2)
    again.store.say = said.append
    assert again.fit() == "done"
    assert starts(run) == [0, 3]
    assert f"checkpoint {place / 'step_5'} is damaged: trainer.json has changed" in said[0]
    assert same(run, tmp_path)


def test_half_of_one_is_not_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    breaks_in(made(run), 6)
    place = memory.find(RunFolder(run))
    assert place is not None
    (place / "step_5").rename(place / ".writing-step_5.1")
    made(run, attempt=2).fit()
    assert starts(run) == [0, 3]
    assert not (place / ".writing-step_5.1").exists()


def test_a_run_that_starts_anew_forgets_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    breaks_in(made(run, every=None), 6)
    breaks_in(made(run, attempt=2, every=None, memory_every=4, resume="never"), 3)
    assert starts(run) == [0, 0]
    assert memory.kept(RunFolder(run)) == []


def test_a_run_without_the_key_goes_on_from_what_is_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    breaks_in(made(run), 6)
    made(run, attempt=2, memory_every=None).fit()
    assert starts(run) == [0, 5]


def test_an_audit_of_such_a_run_finds_nothing_missing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder, options = RunFolder(run), {"ledger": True}
    run.mkdir()
    folder.event("launch", attempt=1, ranks=1)
    breaks_in(made(run, **options), 6)
    folder.event("restart", attempt=2, pause=0.0)
    made(run, attempt=2, **options).fit()
    folder.event("end", step=8, status="done")
    folder.config.write_text("{checkpoint: {dir: null}, train: {seed: 7, global_batch: 4}}")
    found = [*findings(Journal(folder))]
    assert [finding.ok for finding in found] == [True] * 4, found
    assert found[0].detail == "1 from step 0 to 5 (lost), 2 from step 5 to 8 (done)"


# ---------------------------------------------------------------------------------- beside saves, failing


def test_none_is_taken_while_a_save_is_on_its_way_and_one_that_is_due_follows(tmp_path: Path) -> None:
    run = tmp_path / "run"
    t = made(run, every=6, memory_every=4, steps=11)
    go = held(t)  # of the saves to the disk

    def look(step: int) -> None:
        if step <= 6:
            written(step)
        if step == 9:  # one was due after 8
            assert snapshots(run) == [4]
            assert events(run, "save") == []
            go.set()
            written(step)

    during(t, look)
    assert t.fit() == "done"
    assert snapshots(run) == [4, 9]
    assert [event["step"] for event in events(run, "save")] == [6, 11]


def test_one_that_is_due_is_not_taken_any_more_when_the_disk_has_a_later_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    t = made(run, every=6, memory_every=4, steps=15)
    go = held(t)

    def look(step: int) -> None:
        if step == 12:
            go.set()
        if step <= 6 or step > 12:
            written(step)

    during(t, look)
    assert t.fit() == "done"
    assert snapshots(run) == [4]  # not 8, for which 6 was on its way, nor 12, which the disk has
    assert [event["step"] for event in events(run, "save")] == [6, 12, 15]


def test_a_failure_is_told_once_in_a_row_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, full = tmp_path / "run", [2, 3, 4, 6]
    t = made(run, every=None)

    def room(size: int) -> None:
        assert size > 0
        if t.saver._step in full:
            raise CheckpointError("no room")

    monkeypatch.setattr(memory, "room", room)
    during(t, written)
    assert t.fit() == "done"
    assert snapshots(run) == [1, 5, 7]
    failed = events(run, "snapshot_failed")
    assert [event["step"] for event in failed] == [2, 6]
    assert "no room" in failed[0]["message"]
    assert "the run goes on without it" in failed[0]["message"]
    assert "or set checkpoint.memory_every=null" in failed[0]["message"]
    assert events(run, "save_failed") == []


def test_a_failed_save_to_the_disk_leaves_the_snapshot(tmp_path: Path) -> None:
    run = tmp_path / "run"
    t = made(run, every=3)
    spoil(t, [3])
    breaks_in(t, 4)
    assert memory.kept(RunFolder(run)) == [2]
    made(run, attempt=2).fit()
    assert starts(run) == [0, 2]
    assert same(run, tmp_path)


# ---------------------------------------------------------------------------------------- bad steps


def bad_from(t: Trainer, steps: list[int]) -> None:
    """The gradient of these steps is not finite, as long as they are trained."""
    whole: Callable[[float], Any] = t.engine.update

    def update(lr: float) -> Any:
        if t.progress.step + 1 in steps:
            t.engine.discard()
            return torch.tensor(float("nan"))
        return whole(lr)

    t.engine.update = update  # type: ignore[method-assign]


def test_after_a_bad_step_there_is_none_and_the_run_goes_back_to_the_disk(tmp_path: Path) -> None:
    run = tmp_path / "run"
    t = made(run, every=3, anomaly={"patience": 2})
    bad_from(t, [6, 7])
    during(t, written)
    assert t.fit() == "done"
    assert [event["to"] for event in events(run, "rollback")] == [3]
    assert snapshots(run) == [1, 2, 4, 5, 4, 5]  # 6 and 7 are skipped


def test_after_going_back_no_snapshot_of_what_came_after_is_left(tmp_path: Path) -> None:
    run, times = tmp_path / "run", [0]
    t = made(run, every=3, anomaly={"patience": 2})
    bad_from(t, [6, 7])

    def second(step: int) -> None:
        written(step)
        times[0] += step == 4
        if times[0] == 2:
            assert memory.kept(t.folder) == []
            raise CheckpointError("broken")

    during(t, second)
    with pytest.raises(CheckpointError, match="broken"):
        t.fit()
    assert events(run, "rollback") != []


def test_a_run_does_not_end_badly_where_there_is_a_snapshot_of_good_steps(tmp_path: Path) -> None:
    run = tmp_path / "run"
    t = made(run, every=None)
    bad_from(t, [8])
    during(t, written)
    assert t.fit() == "done"
    assert [(event["to"], event["skipped"]) for event in events(run, "rollback")] == [(7, [8])]


def test_where_there_is_no_checkpoint_it_goes_back_to_a_snapshot(tmp_path: Path) -> None:
    run = tmp_path / "run"
    t = made(run, every=None, anomaly={"patience": 2})
    bad_from(t, [6, 7])
    during(t, written)
    assert t.fit() == "done"
    assert [event["to"] for event in events(run, "rollback")] == [5]
