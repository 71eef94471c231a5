"""A plain dict to settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.conftest import PYTHON, write
from trainkit.config import build, compose, load
from trainkit.errors import ConfigError, Problem
from trainkit.optimizer.adamw import AdamW
from trainkit.settings import Settings


def problems(*words: str) -> list[Problem]:
    return build(compose(["recipe=mine", *words]))[1]


def texts(*words: str) -> list[str]:
    return [str(problem) for problem in problems(*words)]


def test_a_good_configuration_becomes_objects(project: Path) -> None:
    settings, found = build(compose(["recipe=mine", "optimizer.lr=1"]))
    assert found == []
    assert isinstance(settings, Settings)
    assert settings.optimizer == AdamW(lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    assert settings.recipe.lora.r == 8  # type: ignore[attr-defined]  # the project's own recipe


def test_a_rank_loads_what_the_front_wrote_without_hydra_and_torch(project: Path) -> None:
    write(project / "run/config.yaml", yaml.safe_dump(compose(["recipe=mine", "recipe.lora=null"])))
    check = (
        "import sys, pathlib; from trainkit.config import load; s = load(pathlib.Path('run/config.yaml'));"
        "print(s.recipe.lora, sorted({'hydra', 'omegaconf', 'torch'} & set(sys.modules)))"
    )
    repository = str(Path(__file__).parents[3])
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env={"PYTHONPATH": repository})
    assert (said.stdout, said.stderr) == ("None []\n", "")


def test_load_raises_every_problem(project: Path) -> None:
    config: dict[str, Any] = compose(["recipe=mine", "train.seed=x", "train.setps=1"])
    write(project / "config.yaml", yaml.safe_dump(config))
    with pytest.raises(ConfigError) as caught:
        load(project / "config.yaml")
    assert {problem.key for problem in caught.value.problems} == {"train.seed", "train.setps"}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.seed=x", "train.seed=x: should be an integer"),
        ("train.seed=true", "train.seed=true: should be an integer"),
        ("train.seed=1.0", "train.seed=1.0: should be an integer"),
        ("train.seed=-1", "train.seed=-1: should be greater than or equal to 0"),
        ("train.seed=null", "train.seed=null: should be an integer"),
        ("train.compile=1", "train.compile=1: should be a boolean"),
        ("train.precision=fp16", "train.precision=fp16: should be 'fp32' or 'bf16'"),
        ("train=5", "train=5: should be a section with keys of its own"),
        ("resume=yes", "resume=yes: should be 'auto', 'never' or 'must'"),
        ("run.dir=null", "run.dir=null: should be a string"),
        ("launcher.ranks=0", "launcher.ranks=0: should be greater than 0 or 'auto' or a string"),
        ("optimizer.lr=inf", "optimizer.lr=Infinity: should be finite"),
        ("optimizer.betas=[0.9]", "optimizer.betas[1]=null: is missing"),
        ("optimizer.betas=[0.9,2]", "optimizer.betas[1]=2: should be less than 1"),
        ("optimizer.betas=[0.9,nan]", "optimizer.betas=[0.9, NaN]: should be finite"),
        ("recipe.lora.r=x", "recipe.lora.r=x: should be an integer"),
        ("recipe.lora=5", "recipe.lora=5: should be a section with keys of its own"),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(project: Path, word: str, said: str) -> None:
    assert texts(word) == [said]


@pytest.mark.parametrize(
    ("word", "key", "hint"),
    [
        ("train.step=1", "train.step", "did you mean train.steps?"),
        ("+train.step=1", "train.step", "did you mean train.steps?"),
        ("train.lr=1", "train.lr", "did you mean optimizer.lr?"),
        ("ranks=2", "ranks", "did you mean launcher.ranks?"),
        ("trian.steps=2", "trian.steps", "did you mean train.steps?"),
        ("recpie=2", "recpie", "did you mean recipe?"),
        ("recipe.widht=2", "recipe.widht", "did you mean recipe.width?"),
        ("recipe.lora.q.z=2", "recipe.lora.q.z", "recipe.lora has r"),
        ("recipe.free=2", "recipe.free", "recipe has width, lora, lora.r"),
        ("strategy.zzz=2", "strategy.zzz", "strategy has no keys"),
        ("zzz={}", "zzz", "there are name, resume, run"),
        ("_target_=os.system", "_target_", "there are name, resume, run"),
    ],
)
def test_unknown_keys_are_named_with_a_hint(project: Path, word: str, key: str, hint: str) -> None:
    (problem,) = problems(word)
    assert (problem.key, problem.message) == (key, "there is no such key")
    assert problem.hint.startswith(hint)


def test_all_problems_are_told_at_once(project: Path) -> None:
    found = problems("train.seed=x", "train.foo=1", "strategy._target_=os.system", "optimizer.lr=-1", "recipe.width=a")
    assert {p.key for p in found} == {"train.seed", "train.foo", "strategy._target_", "optimizer.lr", "recipe.width"}


def test_a_section_that_a_file_leaves_out_is_named(project: Path) -> None:
    config = compose(["recipe=mine"])
    del config["train"], config["launcher"]
    assert {p.key for p in build(config)[1]} == {"train", "launcher._target_"}


# --------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.system", "must be trainkit.strategy.MODULE.CLASS or recipes.MODULE.CLASS"),
        ("trainkit.launcher.local.Local", "must be trainkit.strategy.MODULE.CLASS"),
        ("trainkit.strategyx.local.Local", "must be trainkit.strategy.MODULE.CLASS"),
        ("Local", "must be trainkit.strategy.MODULE.CLASS"),
        ("null", "must be trainkit.strategy.MODULE.CLASS"),
        ("trainkit.strategy.lokal.Local", "there is no file trainkit/strategy/lokal.py"),
        ("trainkit.strategy.local.Lokal", "has no Lokal"),
        ("trainkit.strategy.local.Sequence", "is not a dataclass"),
        ("trainkit.strategy.local.Problem", "is not a Strategy: it lacks ranks(), problems(), dp_size(), connect()"),
        ("recipes.mine.Mine", "is not a Strategy: it lacks ranks()"),
    ],
)
def test_only_a_strategy_is_taken_for_a_strategy(project: Path, target: str, said: str) -> None:
    (problem,) = problems(f"strategy._target_={target}")
    assert problem.key == "strategy._target_"
    assert said in problem.message


def test_a_forbidden_target_is_not_even_imported(project: Path) -> None:
    write(project / "evil.py", "raise SystemExit('imported')")
    (problem,) = problems("strategy._target_=evil.Thing")
    assert "must be" in problem.message


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:", "does not import: SyntaxError"),
        ("import no_such_package", "needs the package no_such_package, which is not installed"),
        ("import math\nmath.nothing", "does not import: AttributeError"),
        ("raise RuntimeError('boom')", "does not import: RuntimeError: boom"),
        ("", "recipes.mine has no Mine"),
        (PYTHON.replace("def loss", "def los"), "is not a Task: it lacks loss()"),
        (PYTHON.replace("(Task)", ""), "is not a Task: it does not derive from it"),
        (PYTHON.replace("width: int", "width: 'NoSuchType'"), "has a field whose type cannot be read"),
        (PYTHON.replace("width: int", "width: type('T', (), {})"), "has a field whose type cannot be read"),
    ],
)
def test_a_faulty_recipe_is_a_problem_and_not_a_crash(project: Path, source: str, said: str) -> None:
    write(project / "recipes/mine.py", source)
    (problem,) = problems()
    assert problem.key == "recipe._target_"
    assert said in problem.message


def test_the_line_where_a_recipe_fails_is_told(project: Path) -> None:
    write(project / "recipes/mine.py", "x = 1\n\nraise RuntimeError('boom')\n")
    assert problems()[0].hint == f"{project / 'recipes/mine.py'}:3"


def test_what_a_recipe_checks_when_it_is_made_is_a_problem(project: Path) -> None:
    check = "    def __post_init__(self):\n        raise ValueError('width and lora do not go together')\n"
    write(project / "recipes/mine.py", PYTHON + check)
    (problem,) = problems()
    assert (problem.key, problem.message) == ("recipe", "width and lora do not go together")


def test_a_folder_of_recipes_may_be_a_package(project: Path) -> None:
    write(project / "recipes/__init__.py", "raise RuntimeError('not needed')")
    assert problems() == []
    assert build(compose(["recipe=image_classification"]))[1] == []


def test_a_component_of_any_group_may_live_in_ones_own_folder(project: Path) -> None:
    write(
        project / "recipes/flat.py",
        "from dataclasses import dataclass\n\n\n@dataclass(frozen=True, kw_only=True)\nclass Flat:\n    at: float\n\n"
        "    def factor(self, step, total): return self.at\n    def problems(self, total): return ()\n",
    )
    write(project / "conf/schedule/flat.yaml", "_target_: recipes.flat.Flat\nat: 0.5\n")
    settings, found = build(compose(["recipe=mine", "schedule=flat"]))
    assert found == []
    assert settings is not None
    assert settings.schedule.factor(0, 10) == 0.5
