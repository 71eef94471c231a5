"""A fault between two steps loses neither; what cannot be whole is not saved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tests.conformance.training import tensors
from tests.unit.test_bad_steps import after_backward, weight_of
from tests.unit.test_trainer import Line, during, events, held, logged, trainer
from trainkit.checkpoint.manifest import committed
from trainkit.errors import TrainkitError
from trainkit.rescue import rescue
from trainkit.resilience.pulse import Section
from trainkit.runfolder import append_line
from trainkit.strategy._world import Solo
from trainkit.trainer import Trainer

STEPS = 8


def broken(t: Trainer, step: int, error: Exception) -> None:
    """`error` in the backward pass of `step`."""

    def fail(now: int) -> None:
        if now == step:
            raise error

    after_backward(t, fail)
    with pytest.raises(type(error)):
        t.fit()


def test_the_newest_step_is_saved_and_the_run_ends_where_it_would_have(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert trainer(whole, steps=STEPS).fit() == "done"
    broken(trainer(run, steps=STEPS, ledger=True), 6, RuntimeError("Connection closed by peer"))
    (saved,) = events(run, "save")
    assert (saved["step"], saved["rescued_by"]) == (5, 0)
    assert trainer(run, attempt=2, steps=STEPS, ledger=True).fit() == "done"
    assert [event["step"] for event in events(run, "start")] == [0, 5]
    assert logged(run) == list(range(1, STEPS + 1))
    ours, theirs = tensors(run, STEPS), tensors(whole, STEPS)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Normed(Line):
    """Its running statistics have counted the samples of a step before the step is made."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(1), super().build_model())


def test_nothing_of_the_step_in_flight_is_saved(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    for root, save in ((whole, 5), (run, None)):
        t = trainer(root, Normed(), steps=STEPS, checkpoint={"every": save})
        passes = t.engine.model  # type: ignore[attr-defined]
        passes.register_forward_hook(fails_in(t, 6))
        with pytest.raises(ConnectionError):
            t.fit()
    ours, theirs = tensors(run, 5), tensors(whole, 5)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def fails_in(t: Trainer, step: int) -> Callable[..., None]:
    """A forward pass after which a rank is found to be gone."""

    def hook(module: nn.Module, given: Any, output: Any) -> None:
        if module.training and t.progress.step + 1 == step:
            raise ConnectionError

    return hook


@pytest.mark.parametrize(("bad", "steps"), [(False, [5]), (True, [])])
def test_a_state_among_bad_steps_is_not_worth_saving(bad: bool, steps: list[int], tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS)

    def happen(now: int) -> None:
        if now == 5 and bad:
            weight_of(t).grad.fill_(math.nan)
        if now == 6:
            raise ConnectionError

    after_backward(t, happen)
    with pytest.raises(ConnectionError):
        t.fit()
    assert committed(tmp_path / "checkpoints") == steps


def test_a_row_that_an_evaluation_was_to_fill_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainkit.rescue.PATIENCE_S", 0.05)
    t = trainer(tmp_path, steps=STEPS, log_every=4, eval_every=3)
    whole = t.engine.evaluate

    def evaluate(share: Any) -> Any:
        if t.progress.step == 3:
            raise ConnectionError
        return whole(share)

    t.engine.evaluate = evaluate  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        t.fit()
    assert committed(tmp_path / "checkpoints") == []


def test_whoever_watches_knows_of_the_fault_before_the_save_in_flight_is_waited_for(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS, checkpoint={"every": 2})
    go, heard = held(t), list[str]()

    def beat(step: int, section: Section) -> None:
        heard.append(section)
        if section == "rescuing":
            go.set()  # or it would be waited for for ever

    t.lifeline = replace(t.lifeline, beat=beat)
    broken(t, 3, ConnectionError())
    assert heard[-1] == "rescuing"
    assert committed(tmp_path / "checkpoints") == [2]


def test_in_the_middle_of_an_update_nothing_is_whole(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS)
    during(t, lambda step: 1 // (3 - step))
    with pytest.raises(ZeroDivisionError):
        t.fit()
    assert committed(tmp_path / "checkpoints") == []


def test_what_trainkit_itself_refuses_is_no_fault_to_be_rescued_from(tmp_path: Path) -> None:
    broken(trainer(tmp_path, steps=STEPS), 3, TrainkitError("no"))
    assert committed(tmp_path / "checkpoints") == []


def test_a_rescue_that_fails_is_told_and_hides_nothing(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS)
    t.small_state = lambda: {"progress": object()}  # type: ignore[method-assign]
    broken(t, 3, ZeroDivisionError())
    (failed,) = events(tmp_path, "save_failed")
    assert failed["step"] == 2
    assert committed(tmp_path / "checkpoints") == []


# ------------------------------------------------------------------------------- what counts as whole


def rescued(t: Trainer, journals: list[Path], **world: Any) -> bool:
    return rescue(t.engine, replace(Solo(device=torch.device("cpu")), **world), t.store, {}, 3, journals) is not None


def test_a_step_that_a_journal_lacks_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainkit.rescue.PATIENCE_S", 0.05)
    t, journal = trainer(tmp_path), tmp_path / "rank_1.jsonl"
    append_line(journal, {"step": 2, "ids": []})
    assert not rescued(t, [journal])
    append_line(journal, {"step": 3, "ids": []})
    assert rescued(t, [journal])
    assert not rescued(t, [journal])  # it is saved already


def test_ranks_that_divide_the_model_do_not_save_alone(tmp_path: Path) -> None:
    assert not rescued(trainer(tmp_path), [], size=2, dp_size=1)


def test_a_rank_that_has_a_part_of_a_tensor_does_not_save_alone(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    part: Any = Tensor._make_subclass(DTensor, torch.zeros(1))
    t.engine.state_dict = lambda: {"model": {"weight": part}}  # type: ignore[method-assign]
    assert not rescued(t, [])
