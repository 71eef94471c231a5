"""Names of members, and what became of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainkit.config.space import Space
from trainkit.runfolder import RunFolder, append_line
from trainkit.sweep.member import Result, evaluations, named, result
from trainkit.sweep.sampler import Grid

VALUES = st.dictionaries(st.sampled_from(["optimizer.lr", "recipe.lr", "train.seed"]), st.text(min_size=1), min_size=1)


def test_a_name_says_what_differs() -> None:
    assert named({"optimizer.lr": "0.0001", "train.seed": "1"}).name == "lr=0.0001_seed=1"
    assert named({"optimizer.lr": "1", "recipe.lr": "2"}).name == "optimizer.lr=1_recipe.lr=2"
    assert named({"optimizer.lr": "1"}, 7).name == "7_lr=1"


@given(VALUES, VALUES)
@example({"optimizer.lr": "1_seed=2", "train.seed": "3"}, {"optimizer.lr": "1", "train.seed": "2_seed=3"})
def test_names_are_safe_and_tell_members_apart(first: dict[str, str], second: dict[str, str]) -> None:
    name = named(first).name
    assert "/" not in name and name.isascii() and name.isprintable() and " " not in name and len(name) < 120
    if [*first] == [*second]:
        assert (name == named(second).name) == (first == second)


def test_a_grid_has_every_combination_once() -> None:
    grid = Grid([Space(key="a", values=("1", "2")), Space(key="b", values=("x", "y", "z"))])
    taken = [member.name for _ in range(6) if (member := grid.next())]
    assert taken == ["a=1_b=x", "a=1_b=y", "a=1_b=z", "a=2_b=x", "a=2_b=y", "a=2_b=z"] == list(grid.members())
    assert grid.next() is None


@pytest.mark.parametrize("last", [0.5, math.inf])
def test_what_became_of_a_member_is_in_its_folder(tmp_path: Path, last: float) -> None:
    folder = RunFolder(tmp_path)
    assert result(folder, "eval_loss") == Result("waiting")
    folder.event("launch")
    for step, row in enumerate([{"eval_loss": 2.0}, {"loss": 1.0}, {"eval_loss": last}, {"loss": 0.5}]):
        append_line(folder.metrics, {"step": step, **row})
    assert result(folder, "eval_loss").counts is False
    assert result(folder, "eval_loss") == Result("unfinished", 3, last)
    folder.event("failure", message="rank 0 was killed")
    folder.summary.write_text(json.dumps({"status": "failed"}))
    assert result(folder, "eval_loss") == Result("failed", 3, last, "rank 0 was killed")
    folder.summary.write_text(json.dumps({"status": "done"}))
    assert result(folder, "eval_loss") == Result("done", 3, last)
    assert result(folder, "eval_loss").counts is (last == 0.5)
    assert result(folder, "eval_accuracy").value is None


def test_an_evaluation_before_the_training_tells_no_members_apart() -> None:
    rows = [{"step": 0, "eval_loss": 2.0}, {"step": 3, "loss": 1.0}, {"step": 3, "eval_loss": 1.5}]
    assert evaluations(rows, "eval_loss") == [1.5]
