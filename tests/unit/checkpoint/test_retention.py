"""Which checkpoints stay: the newest, the best, and everything until a newer one is sure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.checkpoint.samples import damage, keeping, saved, state, store_in, trainer
from trainkit.checkpoint.manifest import MARKER, TRAINER, step_folder, steps
from trainkit.checkpoint.retention import best, milestones, superseded

SCORES = {1: 0.9, 2: 0.2, 3: 0.5, 4: 0.5, 5: 0.7}


def scored(folder: Path, scores: dict[int, float | None]) -> None:
    """Folders that look committed, with nothing but a metric in them."""
    for step, value in scores.items():
        path = step_folder(folder, step)
        path.mkdir(parents=True)
        metrics = {} if value is None else {"eval_loss": value}
        (path / TRAINER).write_text(json.dumps({"metrics": metrics}))
        (path / MARKER).touch()


def step_of(path: Path | None) -> int | None:
    return None if path is None else int(path.name.removeprefix("step_"))


@settings(deadline=None)  # a busy disk is no fault
@given(
    every=st.sets(st.integers(0, 40), min_size=1, max_size=10),
    keep=st.integers(1, 5),
    keep_every=st.none() | st.integers(1, 50),
    data=st.data(),
)
def test_only_what_is_old_and_neither_new_enough_nor_best_nor_a_milestone_goes(
    every: set[int], keep: int, keep_every: int | None, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("retention")
    scored(folder, dict.fromkeys(every))
    now = data.draw(st.sampled_from(sorted(every)))
    damaged = data.draw(st.sets(st.sampled_from(sorted(every)))) - {now}
    favourite = data.draw(st.none() | st.sampled_from(sorted(every - damaged)))
    old = superseded(folder, now, keep, keep_every, folder / f"step_{favourite}", damaged)
    stays = every - {step_of(path) for path in old}
    good = sorted(step for step in every if step <= now and step not in damaged)
    forever = set(milestones(good, keep_every))
    assert now in stays
    assert set(good[-keep:]) <= stays
    assert forever <= stays
    assert favourite is None or favourite in stays
    assert {step for step in every if step > now} <= stays
    assert stays <= set(good[-keep:]) | forever | {favourite} | {step for step in every if step > now}


@pytest.mark.parametrize(
    ("good", "every", "kept"),
    [
        ([5, 10, 15, 20, 25], 10, [10, 20]),
        ([3, 13, 17, 44, 49, 51], 10, [13, 44, 51]),  # saves by the clock: the first after each multiple
        ([3, 4], 10, []),
        ([3, 13], None, []),
    ],
)
def test_milestones_are_the_first_after_each_multiple(good: list[int], every: int | None, kept: list[int]) -> None:
    assert milestones(good, every) == kept


def test_a_milestone_stays_for_ever(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for step in range(2, 26, 3):
        store.save(step, state(step), trainer(step))
        store.prune(keeping(1, every=10))
    assert steps(tmp_path) == [11, 20, 23]


@pytest.mark.parametrize(("mode", "step"), [("min", 2), ("max", 1)])
def test_the_best_is_the_lowest_or_the_highest(mode: str, step: int, tmp_path: Path) -> None:
    scored(tmp_path, dict(SCORES))
    assert step_of(best(tmp_path, "eval_loss", mode)) == step


def test_of_equals_the_one_that_was_evaluated_is_the_best(tmp_path: Path) -> None:
    """Evaluated every 10 steps and saved every 5: step 15 carries the evaluation of step 10."""
    scored(tmp_path, {5: 0.9, 10: 0.4, 15: 0.4, 20: 0.6})
    assert step_of(best(tmp_path, "eval_loss", "min")) == 10


@pytest.mark.parametrize("mode", ["min", "max"])
def test_no_number_is_not_the_best(mode: str, tmp_path: Path) -> None:
    scored(tmp_path, {1: float("nan"), 2: 0.5, 3: float("inf"), 4: float("-inf"), 5: None})
    assert step_of(best(tmp_path, "eval_loss", mode)) == 2
    assert best(tmp_path, "eval_accuracy", mode) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"metrics": null}', '{"metrics": {"eval_loss": "low"}}'])
def test_a_spoilt_score_is_none(text: str, tmp_path: Path) -> None:
    scored(tmp_path, dict(SCORES))
    (tmp_path / "step_2" / "trainer.json").write_text(text)
    assert step_of(best(tmp_path, "eval_loss", "min")) == 3


def test_a_run_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for step, value in SCORES.items():
        store.save(step, state(step), trainer(step, eval_loss=value))
        store.prune(keeping(2, "eval_loss"))
    assert steps(tmp_path) == [2, 4, 5]


def test_nothing_goes_before_something_newer_stands(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    store = store_in(tmp_path, attempt=2)
    assert step_of(store.latest()) == 3
    store.prune(keeping(1))
    assert steps(tmp_path) == [1, 2, 3]
    store.save(4, state(4), trainer(4))
    assert steps(tmp_path) == [1, 2, 3, 4]
    store.prune(keeping(1))
    assert steps(tmp_path) == [4]


def test_nothing_goes_if_the_newest_turns_out_damaged(tmp_path: Path) -> None:
    said: list[str] = []
    saved(tmp_path, 1, 2)
    store = store_in(tmp_path, said=said)
    store.save(3, state(3), trainer(3))
    damage(tmp_path, 3, "__0_0.distcp")
    store.prune(keeping(1))
    assert steps(tmp_path) == [1, 2, 3]
    assert "__0_0.distcp" in said[0]


def test_a_damaged_newer_one_does_not_count_as_kept(tmp_path: Path) -> None:
    """Went on from 2 because 9 is damaged; keep=1 must not keep 9 and delete what was just saved."""
    saved(tmp_path, 1, 2, 9)
    damage(tmp_path, 9)
    store = store_in(tmp_path, attempt=2)
    assert step_of(store.latest()) == 2
    store.save(3, state(3), trainer(3))
    store.prune(keeping(1))
    assert steps(tmp_path) == [3, 9]
    assert step_of(store.latest()) == 3


def test_a_damaged_older_one_does_not_count_as_kept_either(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 9)
    damage(tmp_path, 9)
    store = store_in(tmp_path, attempt=2)
    assert step_of(store.latest()) == 2
    store.save(12, state(12), trainer(12))
    store.prune(keeping(2))
    assert steps(tmp_path) == [2, 12]


def test_a_deletion_that_fails_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    saved(tmp_path, 1)
    store = store_in(tmp_path, said=said)
    store.save(2, state(2), trainer(2))

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    store.prune(keeping(1))
    assert "cannot be deleted: Permission denied" in said[0]
    assert steps(tmp_path) == [1, 2]
