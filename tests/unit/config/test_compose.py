"""Words to one resolved dict."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.conftest import YAML, write
from trainkit.config import compose
from trainkit.errors import ConfigError


def refused(*words: str) -> str:
    """What is said of words that cannot be composed."""
    with pytest.raises(ConfigError) as caught:
        compose(words)
    return str(caught.value)


def test_a_recipe_of_ones_own_sits_on_the_shipped_defaults(project: Path) -> None:
    config = compose(["recipe=mine"])
    assert config["train"]["steps"] == 3
    assert config["train"]["global_batch"] == 32
    assert config["optimizer"]["_target_"] == "trainkit.optimizer.adamw.AdamW"
    assert list(config)[:3] == ["name", "run", "resume"]


def test_shipped_recipes_work_from_a_folder_with_its_own(project: Path) -> None:
    assert compose(["recipe=image_classification"])["name"] == "image_classification"


def test_ones_own_file_comes_before_the_shipped_one(project: Path) -> None:
    write(project / "conf/optimizer/adamw.yaml", "_target_: recipes.mine.Other\n")
    assert compose(["recipe=mine"])["optimizer"] == {"_target_": "recipes.mine.Other"}


def test_words_win_over_the_recipe_and_groups_over_both(project: Path) -> None:
    config = compose(["recipe=mine", "train.steps=9", "+train.seed=4", "strategy=ddp", "tracker=none"])
    assert (config["train"]["steps"], config["train"]["seed"]) == (9, 4)
    assert config["strategy"]["_target_"] == "trainkit.strategy.ddp.Ddp"
    assert config["tracker"] == {"_target_": "trainkit.tracker.none.NoTracker"}


def test_the_last_of_equal_words_counts(project: Path) -> None:
    assert compose(["recipe=mine", "train.steps=1", "train.steps=2"])["train"]["steps"] == 2


def test_a_section_can_be_set_to_null(project: Path) -> None:
    assert compose(["recipe=mine", "recipe.lora=null"])["recipe"]["lora"] is None


def test_the_name_is_the_recipes_unless_somebody_says_otherwise(project: Path) -> None:
    assert compose(["recipe=mine"])["name"] == "mine"
    assert compose(["recipe=mine", "name=try 2"])["name"] == "try 2"
    write(project / "conf/recipe/named.yaml", f"{YAML}name: given\n")
    assert compose(["recipe=named"])["name"] == "given"
    assert "/given/" in compose(["recipe=named"])["run"]["dir"]


def test_run_dir_is_absolute_and_holds_the_name(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose(["recipe=mine"])["run"]["dir"].startswith(f"{project}/runs/mine/2")
    assert compose(["recipe=mine", "run.dir=here"])["run"]["dir"] == f"{project}/here"
    monkeypatch.setenv("HOME", "/somewhere")
    assert compose(["recipe=mine", "run.dir=~/a"])["run"]["dir"] == "/somewhere/a"


def test_interpolations_are_resolved(project: Path) -> None:
    assert compose(["recipe=mine", "recipe.width=${train.steps}"])["recipe"]["width"] == 3


@pytest.mark.parametrize(
    "value", ["~/a", "a=b", "Hello, you!", 'say "hi"', "(x)", "What is a robot?", "1,2", "a\\b: #c"]
)
def test_text_needs_no_quotes_of_hydras(project: Path, value: str) -> None:
    assert compose(["recipe=mine", f"recipe.text={value}"])["recipe"]["text"] == value


def test_lists_and_mappings_are_read_as_such(project: Path) -> None:
    config = compose(["recipe=mine", "recipe.a=[1,x]", "recipe.b={c: 2.5}", "recipe.d='[1'", 'recipe.e="null"'])
    assert [config["recipe"][key] for key in "abde"] == [[1, "x"], {"c": 2.5}, "[1", "null"]


def test_unknown_keys_come_through_so_that_all_are_named_together(project: Path) -> None:
    config = compose(["recipe=mine", "train.stesp=1", "+a.b=2"])
    assert (config["train"]["stesp"], config["a"]) == (1, {"b": 2})


def test_every_word_that_cannot_be_used_is_named(project: Path) -> None:
    words = ["~train.steps", "train.steps=[1", "strategy@x=ddp", "hydra.run.dir=x", "--multirun", "=3", "mine"]
    said = refused("recipe=mine", *words)
    assert [word for word in words if repr(word) not in said] == []


def test_every_choice_that_does_not_exist_is_named(project: Path) -> None:
    said = refused("recipe=mien", "strategy=dpp", "tracker=[a,b]", "launcher=null")
    assert "recipe=mien: there is no such recipe" in said
    assert "did you mean mine?" in said
    assert "strategy=dpp: there is no such strategy; there are " in said
    assert "did you mean ddp?" in said
    assert "there is no such tracker" in said
    assert "launcher=null: there is no such launcher" in said


def test_what_others_call_a_launcher_is_explained(project: Path) -> None:
    said = refused("recipe=mine", "launcher=horovodrun")
    assert "launcher=horovodrun: there is no such launcher" in said
    assert "strategy=horovod runs under launcher=local, ssh, mpi and slurm" in said


def test_a_recipe_without_its_yaml_is_explained(project: Path) -> None:
    write(project / "recipes/yours.py", "")
    assert "conf/recipe/yours.yaml, which is not there" in refused("recipe=yours")


def test_no_recipe_lists_them_with_their_descriptions(project: Path) -> None:
    said = refused("train.steps=1")
    assert "choose one with recipe=NAME" in said
    assert "Mine, in one line." in said
    assert "Handwritten digits" in said


def test_every_reference_that_leads_nowhere_is_named(project: Path) -> None:
    said = refused(
        "recipe=mine", "train.seed=${no.such}", "run.dir=${oc.env:NOT_SET_HERE}", "optimizer.betas=[0.9,${x}]"
    )
    assert "train.seed=${no.such}" in said
    assert "run.dir=${oc.env:NOT_SET_HERE}" in said
    assert "optimizer.betas.1=${x}" in said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("recipe: {_target_: [}", "mine.yaml"),
        ("# @package _global_\ndefaults:\n  - override /schedule: cosnie\n", "schedule/cosnie"),
        ("# @package _global_\ndefaults:\n  - /schedule: cosine\n", "schedule"),
    ],
)
def test_a_faulty_file_is_a_problem_and_not_a_crash(project: Path, text: str, part: str) -> None:
    write(project / "conf/recipe/mine.yaml", text)
    assert part in refused("recipe=mine")
