"""A fault between two steps loses neither; what cannot be whole is not kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.training import tensors
from tests.unit.checkpoint.samples import damage
from tests.unit.test_bad_steps import after_backward, weight_of
from tests.unit.test_trainer import Line, during, events, held, logged, trainer
from trainkit.checkpoint.manifest import committed
from trainkit.errors import TrainkitError
from trainkit.rescue import Kept, Pocket, _givers, fill_in, hand_over, keep, save
from trainkit.resilience.pulse import Section
from trainkit.runfolder import RunFolder, read_lines
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


def kept(t: Trainer) -> Kept:
    assert t.pocket.kept is not None
    return t.pocket.kept


def write_kept(t: Trainer) -> None:
    save(kept(t), t.store.folder, t.store.attempt, print, lambda: None)


def test_the_next_attempt_goes_on_from_what_is_kept(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert trainer(whole, steps=STEPS).fit() == "done"
    first = trainer(run, steps=STEPS, ledger=True, checkpoint={"every": 3})
    broken(first, 6, RuntimeError("Connection closed by peer"))
    second = trainer(run, attempt=2, steps=STEPS, ledger=True)
    second.pocket.kept = kept(first)
    assert second.fit() == "done"
    assert second.pocket.kept is None  # its memory is free again
    begun, again = events(run, "start")
    assert (begun["step"], again["step"], again["from_attempt"], again["given_by"]) == (0, 5, 1, 0)
    assert logged(run) == list(range(1, STEPS + 1))
    ours, theirs = tensors(run, STEPS), tensors(whole, STEPS)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_attempt_that_makes_no_step_keeps_what_the_one_before_had_made(tmp_path: Path) -> None:
    first = trainer(tmp_path, steps=STEPS, ledger=True)
    broken(first, 6, ConnectionError())
    second = trainer(tmp_path, attempt=2, steps=STEPS, ledger=True)
    second.pocket.kept = kept(first)
    broken(second, 6, ConnectionError())
    assert (kept(second).step, kept(second).attempt) == (5, 1)


def test_a_last_step_that_was_made_and_not_saved_is_saved_by_the_next_attempt(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert trainer(whole, steps=STEPS).fit() == "done"
    first = trainer(run, steps=STEPS, checkpoint={"every": 3})
    save_last = first.preserve

    def fail(saving: bool, last: bool, good: bool) -> None:
        if last:
            raise ConnectionError
        save_last(saving, last, good)

    first.preserve = fail  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        first.fit()
    second = trainer(run, attempt=2, steps=STEPS)
    assert second.fit(Pocket(kept(first))) == "done"
    assert committed(run / "checkpoints")[-1] == STEPS
    ours, theirs = tensors(run, STEPS), tensors(whole, STEPS)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_kept_is_held_until_the_attempt_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trainer(tmp_path, steps=STEPS)
    broken(first, 6, ConnectionError())
    second = trainer(tmp_path, attempt=2, steps=STEPS)
    second.forget_after = lambda step: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    pocket = Pocket(kept(first))
    with pytest.raises(ZeroDivisionError):
        second.fit(pocket)
    assert pocket.kept is not None


def test_a_checkpoint_that_is_newer_than_what_is_kept_counts(tmp_path: Path) -> None:
    first = trainer(tmp_path, steps=STEPS)
    broken(first, 3, ConnectionError())
    other = trainer(tmp_path, steps=STEPS, checkpoint={"every": 4})
    broken(other, 6, ConnectionError())
    third = trainer(tmp_path, attempt=3, steps=STEPS)
    third.pocket = Pocket(kept(first))
    assert third.fit() == "done"
    assert [(event["step"], event["given_by"]) for event in events(tmp_path, "start")][-1] == (4, None)


def test_a_newer_checkpoint_that_is_damaged_does_not(tmp_path: Path) -> None:
    """The step that is kept is newer than the good ones."""
    first = trainer(tmp_path, steps=STEPS, checkpoint={"every": 2})
    broken(first, 4, ConnectionError())
    other = trainer(tmp_path, steps=STEPS, checkpoint={"every": 2})
    broken(other, 5, ConnectionError())
    assert committed(tmp_path / "checkpoints") == [2, 4]
    damage(tmp_path / "checkpoints", 4)
    third = trainer(tmp_path, attempt=3, steps=STEPS)
    third.pocket = Pocket(kept(first))
    assert third.fit() == "done"
    assert [(event["step"], event["given_by"]) for event in events(tmp_path, "start")][-1] == (3, 0)


def test_the_newest_step_is_saved_and_the_run_ends_where_it_would_have(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert trainer(whole, steps=STEPS).fit() == "done"
    first = trainer(run, steps=STEPS, ledger=True)
    broken(first, 6, RuntimeError("Connection closed by peer"))
    write_kept(first)
    assert trainer(run, attempt=2, steps=STEPS, ledger=True).fit() == "done"
    assert [event["step"] for event in events(run, "start")] == [0, 5]
    assert logged(run) == list(range(1, STEPS + 1))
    ours, theirs = tensors(run, STEPS), tensors(whole, STEPS)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Normed(Line):
    """Its running statistics have counted the samples of a step before the step is made."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(1), super().build_model())


def test_nothing_of_the_step_in_flight_is_kept(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    for root, save_every in ((whole, 5), (run, None)):
        t = trainer(root, Normed(), steps=STEPS, checkpoint={"every": save_every})
        passes = t.engine.model  # type: ignore[attr-defined]
        passes.register_forward_hook(fails_in(t, 6))
        with pytest.raises(ConnectionError):
            t.fit()
        if save_every is None:
            write_kept(t)
    ours, theirs = tensors(run, 5), tensors(whole, 5)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_statistics_of_a_batch_whose_loss_finds_a_rank_gone_are_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = trainer(tmp_path, Normed(), steps=STEPS)

    def gone(loss_sum: Tensor, world: Any) -> Tensor:
        if t.progress.step == 5:
            raise ConnectionError
        return loss_sum

    monkeypatch.setattr("trainkit.trainer.over_all_ranks", gone)
    with pytest.raises(ConnectionError):
        t.fit()
    monkeypatch.undo()
    assert trainer(tmp_path / "whole", Normed(), steps=STEPS, checkpoint={"every": 5}).fit() == "done"
    whole = tensors(tmp_path / "whole", 5)
    for name, tensor in kept(t).state["model"].items():
        assert torch.equal(tensor, whole[f"model.{name}"]), name


def fails_in(t: Trainer, step: int) -> Callable[..., None]:
    """A forward pass after which a rank is found to be gone."""

    def hook(module: nn.Module, given: Any, output: Any) -> None:
        if module.training and t.progress.step + 1 == step:
            raise ConnectionError

    return hook


@pytest.mark.parametrize("bad", [False, True])
def test_a_state_among_bad_steps_is_not_worth_keeping(bad: bool, tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS)

    def happen(now: int) -> None:
        if now == 5 and bad:
            weight_of(t).grad.fill_(math.nan)
        if now == 6:
            raise ConnectionError

    after_backward(t, happen)
    with pytest.raises(ConnectionError):
        t.fit()
    assert (t.pocket.kept is None) == bad


def test_a_step_that_is_still_being_evaluated_is_not_kept(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS, log_every=4, eval_every=3)
    whole = t.engine.evaluate

    def evaluate(share: Any) -> Any:
        if t.progress.step == 3:
            raise ConnectionError
        return whole(share)

    t.engine.evaluate = evaluate  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        t.fit()
    assert t.pocket.kept is None


def test_whoever_watches_knows_of_the_fault_before_the_save_in_flight_is_waited_for(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS, checkpoint={"every": 2})
    go, heard = held(t), list[str]()

    def beat(step: int, section: Section, waited: float = 0.0) -> None:
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
    assert t.pocket.kept is None


def test_what_trainkit_itself_refuses_is_no_fault_to_be_rescued_from(tmp_path: Path) -> None:
    t = trainer(tmp_path, steps=STEPS)
    broken(t, 3, TrainkitError("no"))
    assert t.pocket.kept is None


def test_what_goes_wrong_in_it_is_told_and_hides_nothing(tmp_path: Path) -> None:
    t, said = trainer(tmp_path, steps=STEPS), list[str]()
    t.store.say = said.append
    t.small_state = lambda: {}[0]  # type: ignore[method-assign,assignment]
    broken(t, 3, ZeroDivisionError())
    assert t.pocket.kept is None
    assert said == ["step 2 cannot be kept: KeyError: 0"]


# ------------------------------------------------------------------------------- what counts as whole


def alone(**world: Any) -> Solo:
    return replace(Solo(device=torch.device("cpu")), **world)


def test_what_a_dead_rank_did_not_get_to_write_is_written_for_it(tmp_path: Path) -> None:
    """Its samples are in the sum of the gradients. A line that it had half written goes."""
    t = trainer(tmp_path, steps=STEPS, ledger=True)
    broken(t, 6, ConnectionError())
    state, folder = kept(t), RunFolder(tmp_path)
    ledger, rows = folder.ledger(1, 0), folder.metrics.read_text().splitlines(keepends=True)
    whole = ledger.read_text().splitlines(keepends=True)
    for torn in (whole[-1][:9], ""):
        ledger.write_text("".join(whole[:-1]) + torn)
        folder.metrics.write_text("".join(rows[:-1]))
        fill_in(folder, state, t.settings, len(t.data.train))
        assert ledger.read_text().splitlines(keepends=True) == whole
        assert [*read_lines(folder.metrics)][-1] == json.loads(rows[-1])
    fill_in(folder, state, t.settings, len(t.data.train))
    assert ledger.read_text().splitlines(keepends=True) == whole


def test_what_is_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    state = keep(t.engine, alone(), {}, {}, (3, 1), (), None)
    assert state is not None
    assert save(state, t.store.folder, 1, print, lambda: None) is not None
    assert save(state, t.store.folder, 1, print, lambda: None) is None
    assert committed(t.store.folder) == [3]


def test_a_part_is_kept_where_another_rank_has_the_same(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    assert keep(t.engine, alone(size=2, part=(1, 2)), {}, {}, (3, 1), (), None) is None
    found = keep(t.engine, alone(size=4, part=(1, 2)), {}, {}, (3, 1), (), None)
    assert found is not None
    assert not found.whole


def test_what_is_no_tensor_of_torch_is_not_kept(tmp_path: Path) -> None:
    """As the fragments of DeepSpeed's buffers."""
    t = trainer(tmp_path)
    part: Any = Tensor._make_subclass(type("Fragment", (Tensor,), {}), torch.zeros(1))
    t.engine.state_dict = lambda: {"model": {"weight": part}}  # type: ignore[method-assign]
    assert keep(t.engine, alone(), {}, {}, (3, 1), (), None) is None


@pytest.mark.parametrize(
    ("said", "step", "givers"),
    [
        ([(7, (0, 2)), None, (7, (0, 2)), (7, (1, 2))], 7, [0, 3]),
        ([(7, (0, 2)), None, (7, (0, 2)), None], 7, []),
        # One copy of the first part was a step further: nobody has the rest of that.
        ([(8, (0, 2)), (7, (1, 2)), (7, (0, 2)), None], 8, []),
        ([(8, (0, 2)), (7, (1, 2)), (7, (0, 2)), None], 7, [2, 1]),
        # The model was divided in another way.
        ([(7, (0, 2)), (7, (1, 2)), (7, (1, 4)), None], 7, [0, 1]),
        ([(7, (0, 4)), (7, (1, 4)), None, None], 7, []),
    ],
)
def test_a_step_is_handed_over_where_each_part_of_it_is_there(said: list[Any], step: int, givers: list[int]) -> None:
    assert _givers(said, step, 2) == givers


def test_nothing_is_handed_over_where_nobody_has_kept_anything(tmp_path: Path) -> None:
    t = trainer(tmp_path)
    assert hand_over(None, t.engine, alone(), lambda step: False) is None
