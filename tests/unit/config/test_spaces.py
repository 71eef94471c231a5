"""What varies in a sweep, in Hydra's words for it."""

from __future__ import annotations

import pytest

from trainkit.config import spaces
from trainkit.config.space import Space
from trainkit.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "space"),
    [
        ("1e-4,3e-4", Space(key="a.b", values=("0.0001", "0.0003"))),
        ("range(1,4)", Space(key="a.b", values=("1", "2", "3"), step=1)),
        ("choice(x,y)", Space(key="a.b", values=("x", "y"))),
        ("'x,1',[1,2],null", Space(key="a.b", values=("'x,1'", "[1,2]", "null"))),
        ("1,1,2", Space(key="a.b", values=("1", "2"))),
        ("interval(1e-5,1)", Space(key="a.b", low=1e-5, high=1)),
        ("tag(log, interval(1e-5,1))", Space(key="a.b", low=1e-5, high=1, log=True)),
        ("int(interval(1,8))", Space(key="a.b", low=1, high=8, whole=True)),
        ("tag(int,log,interval(1,8))", Space(key="a.b", low=1, high=8, whole=True, log=True)),
    ],
)
def test_hydras_words(value: str, space: Space) -> None:
    assert spaces(["recipe=mine", f"a.b={value}", "c=[1,2]"]) == (["recipe=mine", "c=[1,2]"], [space])


def test_choices_of_a_group() -> None:
    _, (space,) = spaces(["strategy=glob(zero*)"])
    assert space.values == ("zero1", "zero2", "zero3")


def test_what_cannot_be_read_is_left_to_the_check_of_the_members() -> None:
    assert spaces(["a=interval(1,", "run.dir=~/runs"]) == (["a=interval(1,", "run.dir=~/runs"], [])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["launcher=local,slurm"], "launcher=local,slurm: is the same for all members"),
        (["run.dir=a,b"], "run.dir=a,b: is the same for all members"),
        (["a=interval(3,3)"], "there is nothing in it"),
        (["a=tag(log,interval(0,1))"], "a logarithm needs numbers above 0"),
        (["a=1,2", "a=3"], "a is given twice"),
        (["a=1,2", "+a=3,4"], "a is given twice"),
    ],
)
def test_what_is_no_sweep_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spaces(words)
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1
