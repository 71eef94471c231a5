"""When the loop logs, evaluates, saves, gives up and goes on. One small model in this process; the disk is real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.settings import make
from trainkit import main
from trainkit.checkpoint import manifest
from trainkit.checkpoint.store import CheckpointStore
from trainkit.errors import CheckpointError, TrainkitError
from trainkit.protocols import Batch, Data, Task
from trainkit.resilience.stop import StopFlag
from trainkit.runfolder import RunFolder, read_lines
from trainkit.trainer import Trainer


class Zeros:
    """Samples that the model already fits when its weight is zero."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def fetch(self, ids: Sequence[int]) -> Batch:
        x = torch.ones(len(ids), 1)
        return Batch({"input": x}, {"y": torch.zeros(len(ids), 1)}, len(ids), len(ids))


@dataclass(frozen=True, kw_only=True)
class Line(Task):
    """y = w x with w = `start`: at 0 the gradient is 0, so that no evaluation betters the first."""

    start: float = 1.0
    heldout: bool = True

    def build_model(self) -> nn.Module:
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, self.start)
        return model

    def build_data(self) -> Data:
        return Data(Zeros(40), Zeros(3) if self.heldout else None)

    def loss(self, output: Any, targets: Any) -> Tensor:
        return (output - targets["y"]).square().sum()

    def sample(self, model: nn.Module) -> str:
        return f"w is {'zero' if not next(model.parameters()).item() else 'not zero'}"


def trainer(root: Path, task: Task | None = None, attempt: int = 1, **options: Any) -> Trainer:
    root.mkdir(exist_ok=True)
    settings = make(str(root), task=task or Line(), **({"ledger": False, "global_batch": 4} | options))
    world = settings.strategy.connect("cpu")
    engine = settings.strategy.build(main.training(settings), world)
    store = CheckpointStore(root / "checkpoints", world, attempt, main.about(settings, 1), lambda text: None)
    return Trainer(settings, engine, world, settings.recipe.build_data(), store, RunFolder(root), StopFlag())


def logged(root: Path, key: str = "loss") -> list[int]:
    return [row["step"] for row in read_lines(root / "metrics.jsonl") if key in row]


def events(root: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(root / "events.jsonl") if event["event"] == kind]


def during(t: Trainer, action: Callable[[int], object]) -> None:
    """Call `action` with the number of every step, from 1, while it is trained."""
    whole = t.engine.update

    def update(lr: float) -> Tensor:
        action(t.progress.step + 1)
        return whole(lr)

    t.engine.update = update  # type: ignore[method-assign]


def stop_during(t: Trainer, step: int) -> None:
    """As a signal in that step does. The ranks agree on it in the next one, which is the last."""
    during(t, lambda now: setattr(t.stop, "raised", now >= step))


def test_rows_come_every_log_every_steps_at_evaluations_and_at_the_end(tmp_path: Path) -> None:
    assert trainer(tmp_path, steps=11, log_every=4, eval_every=3).fit() == "done"
    assert logged(tmp_path) == [3, 4, 6, 8, 9, 11]
    assert logged(tmp_path, "eval_loss") == [0, 3, 6, 9, 11]
    assert [event["step"] for event in events(tmp_path, "save")] == [11]
    assert (tmp_path / "model/model.safetensors").exists()


def test_without_held_out_data_nothing_is_evaluated(tmp_path: Path) -> None:
    assert trainer(tmp_path, Line(heldout=False), steps=3, log_every=2, eval_every=1).fit() == "done"
    assert logged(tmp_path) == [2, 3]
    assert logged(tmp_path, "eval_loss") == []


class Uncounted(Line):
    def build_data(self) -> Data:
        data: Any = super().build_data()
        whole = data.heldout.fetch
        data.heldout.fetch = lambda ids: replace(whole(ids), weight=0)
        return data  # type: ignore[no-any-return]


def test_held_out_data_of_which_nothing_counts_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(TrainkitError, match="nothing in the held-out set counts"):
        trainer(tmp_path, Uncounted(), steps=1).fit()
    assert logged(tmp_path) == []


def test_samples_are_shown_before_and_after(tmp_path: Path) -> None:
    trainer(tmp_path, Line(start=0.0), steps=1).fit()
    assert [(e["when"], e["text"]) for e in events(tmp_path, "sample")] == [
        ("before", "w is zero"),
        ("after", "w is zero"),
    ]


# -------------------------------------------------------------------------------------------- patience


def test_patience_ends_a_run_that_no_longer_gets_better_and_saves_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": Line(start=0.0), "steps": 20, "eval_every": 2, "patience": 3}
    assert trainer(tmp_path, **options).fit() == "done"
    assert logged(tmp_path, "eval_loss") == [0, 2, 4, 6]
    assert [event["step"] for event in events(tmp_path, "save")] == [6]
    assert (tmp_path / "model").exists()
    assert trainer(tmp_path, attempt=2, **options).fit() == "done"  # the same command again does not train on
    assert logged(tmp_path)[-1] == 6


def test_patience_does_not_end_a_run_that_gets_better(tmp_path: Path) -> None:
    assert trainer(tmp_path, steps=10, eval_every=1, patience=1).fit() == "done"
    assert logged(tmp_path)[-1] == 10


def test_patience_goes_on_counting_after_a_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": Line(start=0.0), "steps": 20, "eval_every": 2, "patience": 3}
    first = trainer(tmp_path, **options)
    stop_during(first, 4)  # stops after 5, and two evaluations without progress
    assert first.fit() == "stopped"
    assert trainer(tmp_path, attempt=2, **options).fit() == "done"
    assert logged(tmp_path)[-1] == 6


# --------------------------------------------------------------------------------------- stop, resume


def test_a_stop_at_the_last_step_is_the_end(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=3)
    stop_during(t, 2)
    assert t.fit() == "done"
    assert events(tmp_path, "stop") == []


def test_a_stopped_run_says_where_and_goes_on_from_there(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=6, log_every=2)
    stop_during(t, 2)
    assert t.fit() == "stopped"
    assert [event["step"] for event in events(tmp_path, "stop")] == [3]
    assert not (tmp_path / "model").exists()
    assert trainer(tmp_path, attempt=2, resume="must", steps=6, log_every=2).fit() == "done"
    assert [event["step"] for event in events(tmp_path, "start")] == [0, 3]
    assert logged(tmp_path) == [2, 4, 6]
    assert logged(tmp_path, "eval_loss") == [0, 6]


def test_must_does_not_start_anew_and_leaves_the_journal_alone(tmp_path: Path) -> None:
    trainer(tmp_path, steps=2).fit()
    rows = (tmp_path / "metrics.jsonl").read_text()
    manifest.discard(tmp_path / "checkpoints/step_2")
    with pytest.raises(CheckpointError, match="resume=must, but there is no checkpoint in"):
        trainer(tmp_path, attempt=2, resume="must", steps=2).fit()
    assert (tmp_path / "metrics.jsonl").read_text() == rows


def test_a_run_without_a_checkpoint_starts_anew_and_drops_what_it_logged(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=4)
    during(t, lambda step: 1 // (3 - step))
    with pytest.raises(ZeroDivisionError):
        t.fit()
    assert logged(tmp_path) == [1, 2]
    trainer(tmp_path, attempt=2, steps=4).fit()
    assert logged(tmp_path) == [1, 2, 3, 4]
    assert logged(tmp_path, "eval_loss") == [0, 4]


# ---------------------------------------------------------------------------------------- failed saves


def spoil(t: Trainer, steps: Sequence[int]) -> None:
    """The checkpoints of `steps` cannot be written: a file is in the way that saving cannot clear."""
    stone = t.store.folder / ".writing-stone"
    t.store.folder.mkdir()
    during(t, lambda step: stone.write_text("") if step in steps else stone.unlink(missing_ok=True))


def test_one_failed_save_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=8, checkpoint={"every": 2})
    spoil(t, [2, 6])  # not in a row
    assert t.fit() == "done"
    assert [event["step"] for event in events(tmp_path, "save")] == [4, 8]
    failed = events(tmp_path, "save_failed")
    assert [event["step"] for event in failed] == [2, 6]
    assert "no checkpoint is saved yet" in failed[0]["message"]
    assert "the checkpoint of step 4 is intact" in failed[1]["message"]


@pytest.mark.parametrize(("bad", "last"), [([2, 4], 4), ([6], 6)])
def test_two_in_a_row_or_one_at_the_end_is_a_failure(bad: list[int], last: int, tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=6, checkpoint={"every": 2})
    spoil(t, bad)
    with pytest.raises(CheckpointError, match=f"cannot write the checkpoint of step {last}"):
        t.fit()
    assert logged(tmp_path)[-1] == last
    assert not (tmp_path / "model").exists()


def test_a_stop_that_cannot_save_is_a_failure(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=6)
    stop_during(t, 2)
    spoil(t, [3])
    with pytest.raises(CheckpointError, match="cannot write the checkpoint of step 3"):
        t.fit()
    assert events(tmp_path, "stop") == []
