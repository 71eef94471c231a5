"""A bad step is not trained; too many of them send the run back. One small model in this process; the disk is real."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.training import tensors
from tests.unit.test_trainer import events, trainer
from trainkit.checkpoint.manifest import committed
from trainkit.errors import TooManyBadSteps
from trainkit.protocols import Batch
from trainkit.runfolder import read_lines
from trainkit.trainer import Trainer

STEPS = 12


def weight_of(t: Trainer) -> Any:
    return next(t.engine.model.parameters())  # type: ignore[attr-defined]


def after_backward(t: Trainer, action: Callable[[int], object]) -> None:
    """Call `action` with the number of every step when its gradients are there."""
    whole = t.engine.forward_backward

    def forward_backward(share: Sequence[Batch], weight: float) -> Tensor:
        loss = whole(share, weight)
        action(t.progress.step + 1)
        return loss

    t.engine.forward_backward = forward_backward  # type: ignore[method-assign]


def poison(t: Trainer, steps: Collection[int]) -> None:
    after_backward(t, lambda now: weight_of(t).grad.fill_(math.nan) if now in steps else None)


def without(root: Path, steps: Collection[int]) -> Tensor:
    """The weight at the end of a run that makes every step but does not update in `steps`."""
    t = trainer(root, steps=STEPS)
    whole = t.engine.update

    def update(lr: float) -> Tensor:
        if t.progress.step + 1 not in steps:
            return whole(lr)
        t.engine.discard()
        return torch.tensor(1.0)

    t.engine.update = update  # type: ignore[method-assign]
    assert t.fit() == "done"
    return tensors(root, STEPS)["model.weight"]


def rows(root: Path) -> dict[int, bool]:
    """Whether each logged step was skipped, in order. Raises if a step is logged twice."""
    logged = [row for row in read_lines(root / "metrics.jsonl") if row["step"] > 0]
    assert len({row["step"] for row in logged}) == len(logged)
    assert all(("loss" in row) != ("skipped" in row) for row in logged)
    return {row["step"]: "skipped" in row for row in logged}


def skipped(root: Path) -> list[int]:
    ledger = [row for path in root.glob("ledger/*/*.jsonl") for row in read_lines(path)]
    assert [row["step"] for row in ledger] == list(range(1, STEPS + 1))
    return [row["step"] for row in ledger if row.get("skipped")]


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_told(tmp_path: Path) -> None:
    t = trainer(tmp_path / "run", steps=STEPS, ledger=True)
    poison(t, {3, 7})
    assert t.fit() == "done"
    assert torch.equal(tensors(tmp_path / "run", STEPS)["model.weight"], without(tmp_path / "other", {3, 7}))
    assert [step for step, bad in rows(tmp_path / "run").items() if bad] == [3, 7] == skipped(tmp_path / "run")
    told = [(e["step"], e["why"], e["samples"]) for e in events(tmp_path / "run", "bad_step")]
    assert told == [(3, "the norm of its gradient is nan", [8, 12]), (7, "the norm of its gradient is nan", [24, 28])]


def test_bad_steps_in_a_row_send_the_run_back_which_heals_a_damaged_state(tmp_path: Path) -> None:
    def damage(now: int) -> None:
        if now == 6 and not events(tmp_path / "run", "rollback"):
            weight_of(t).data.fill_(math.inf)
            weight_of(t).grad.fill_(math.nan)

    t = trainer(tmp_path / "run", steps=STEPS, ledger=True, checkpoint={"every": 4}, anomaly={"patience": 2})
    after_backward(t, damage)
    assert t.fit() == "done"
    assert [(e["step"], e["to"], e["skipped"]) for e in events(tmp_path / "run", "rollback")] == [(7, 4, [6, 7])]
    assert torch.equal(tensors(tmp_path / "run", STEPS)["model.weight"], without(tmp_path / "other", {6, 7}))
    assert rows(tmp_path / "run") == {step: step in (6, 7) for step in range(1, STEPS + 1)}
    assert skipped(tmp_path / "run") == [6, 7]


def test_a_second_time_everything_since_the_checkpoint_is_skipped(tmp_path: Path) -> None:
    t = trainer(tmp_path / "run", steps=STEPS, ledger=True, checkpoint={"every": 4}, anomaly={"patience": 2})
    poison(t, {6, 7, 9, 10})
    assert t.fit() == "done"
    assert [(e["to"], e["skipped"]) for e in events(tmp_path / "run", "rollback")] == [
        (4, [6, 7]),
        (8, [9, 10]),  # a newer checkpoint
    ]
    other = trainer(tmp_path / "again", steps=STEPS, ledger=True, checkpoint={"every": 4}, anomaly={"patience": 2})
    poison(other, {5, 6, 7, 8})
    assert other.fit() == "done"
    assert [(e["to"], e["skipped"]) for e in events(tmp_path / "again", "rollback")] == [
        (4, [5, 6]),
        (4, [5, 6, 7, 8]),
    ]
    assert torch.equal(tensors(tmp_path / "again", STEPS)["model.weight"], without(tmp_path / "o", {5, 6, 7, 8}))
    assert skipped(tmp_path / "again") == [5, 6, 7, 8]


def test_after_going_back_often_enough_the_run_ends_with_what_it_saw(tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint": {"every": 4}, "anomaly": {"patience": 2, "rollbacks": 1}}
    t = trainer(tmp_path, steps=STEPS, **options)
    poison(t, range(6, 13))
    with pytest.raises(TooManyBadSteps, match=r"steps 8 to 9 are bad: .* is nan; the run had gone back to step 4"):
        t.fit()
    assert len(events(tmp_path, "bad_step")) == 4
    again = trainer(tmp_path, attempt=2, steps=STEPS, **options)
    assert again.fit() == "done"
    assert rows(tmp_path) == dict.fromkeys(range(1, STEPS + 1), False)


def test_what_a_run_would_go_back_to_is_saved_in_good_steps_only(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS, checkpoint={"every": 4})
    poison(t, {4})
    assert t.fit() == "done"
    assert [event["step"] for event in events(tmp_path, "save")] == [8, 12]


def stop_during_bad(t: Trainer, step: int) -> None:
    after_backward(t, lambda now: setattr(t.lifeline.stop, "raised", now >= step))


def test_a_run_that_is_stopped_among_bad_steps_goes_on_from_the_good_ones(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": STEPS, "checkpoint": {"every": 2}, "anomaly": {"patience": 3}}
    first = trainer(tmp_path / "run", **options)
    after_backward(first, lambda now: weight_of(first).data.fill_(math.inf) if now == 3 else None)
    stop_during_bad(first, 3)
    assert first.fit() == "stopped"
    assert committed(tmp_path / "run/checkpoints") == [2]
    assert trainer(tmp_path / "run", attempt=2, **options).fit() == "done"
    assert torch.equal(tensors(tmp_path / "run", STEPS)["model.weight"], without(tmp_path / "other", ()))


def test_without_a_checkpoint_it_goes_on_counting(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": STEPS, "checkpoint": {"every": 20}, "anomaly": {"patience": 3}}
    first = trainer(tmp_path, **options)
    poison(first, {3, 4})
    stop_during_bad(first, 3)
    assert first.fit() == "stopped"
    saved = json.loads((tmp_path / "checkpoints/step_4/trainer.json").read_text())["progress"]
    assert (saved["step"], saved["health"]["bad"]) == (4, 2)


@pytest.mark.parametrize("patience", [None, 1])
def test_a_run_does_not_end_with_a_state_that_is_bad(patience: int | None, tmp_path: Path) -> None:
    """Not with its last step, and not because nothing gets better any more."""

    def damage(now: int) -> None:
        if now == STEPS and not events(tmp_path / "run", "rollback"):
            weight_of(t).data.fill_(math.inf)
            weight_of(t).grad.fill_(math.nan)

    options: dict[str, Any] = {"steps": STEPS, "checkpoint": {"every": 5}, "patience": patience, "eval_every": STEPS}
    t = trainer(tmp_path / "run", **options)
    after_backward(t, damage)
    assert t.fit() == "done"
    assert [(e["to"], e["skipped"]) for e in events(tmp_path / "run", "rollback")] == [(10, [STEPS])]
    assert torch.equal(tensors(tmp_path / "run", STEPS)["model.weight"], without(tmp_path / "other", {STEPS}))


def test_one_bad_step_at_the_end_is_no_reason_to_fail(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS, checkpoint={"every": 5}, anomaly={"rollbacks": 0})
    poison(t, {STEPS})
    assert t.fit() == "done"
    assert [step for step, bad in rows(tmp_path).items() if bad] == [STEPS]


def test_what_a_damaged_state_came_to_in_an_evaluation_is_forgotten(tmp_path: Path) -> None:
    def damage(now: int) -> None:
        if now in (7, 8) and not events(tmp_path, "rollback"):
            weight_of(t).data.zero_()  # which fits the held-out samples exactly
            weight_of(t).grad.fill_(math.nan)

    options: dict[str, Any] = {"checkpoint": {"every": 3}, "anomaly": {"patience": 2}}
    t = trainer(tmp_path, steps=STEPS, eval_every=7, **options)
    after_backward(t, damage)
    assert t.fit() == "done"
    assert events(tmp_path, "rollback")[0]["to"] == 6
    saved = json.loads((tmp_path / "checkpoints/step_9/trainer.json").read_text())
    assert saved["metrics"]["eval_loss"] > 0
    assert saved["progress"]["best"] == saved["metrics"]["eval_loss"]


def test_a_spike_is_not_trained(tmp_path: Path) -> None:
    def spiking(share: Sequence[Batch], weight: float) -> Tensor:
        return whole(share, weight) * (50.0 if t.progress.step + 1 == 20 else 1.0)

    t = trainer(tmp_path, steps=24, anomaly={"spike": 6.0})
    whole = t.engine.forward_backward
    t.engine.forward_backward = spiking  # type: ignore[method-assign]
    assert t.fit() == "done"
    (told,) = events(tmp_path, "bad_step")
    assert told["step"] == 20
    assert "deviations above" in told["why"]
    assert [step for step, bad in rows(tmp_path).items() if bad] == [20]
