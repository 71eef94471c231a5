"""What is planned, refused, and told to be typed."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from trainkit.config import build, compose
from trainkit.errors import ConfigError
from trainkit.plan.machine import Site, site
from trainkit.plan.plan import command, plan

SMALL = ["recipe=llm_pretrain", "recipe.layers=1", "recipe.width=64", "recipe.seq_len=16", "recipe.vocab=300"]


def test_a_run_on_two_nodes_is_one_for_slurm() -> None:
    words, where = [*SMALL, "strategy=ddp"], site("16xh100")
    (row,) = plan(words, where)
    assert (row.verdict, row.samples * row.passes) == ("fits", 2)  # of 32 samples, on 16 ranks
    told = shlex.split(command(words, row, where))
    assert {"launcher=slurm", "launcher.nodes=2", "launcher.ranks=8", "train.micro_batch=2"} <= {*told}
    assert build(compose(told[3:]))[1] == []


def test_what_does_not_fit_says_how_much_it_needs() -> None:
    machine = replace(site("h100").machine, memory_gb=0.0001)
    (row,) = plan([*SMALL, "strategy=ddp"], Site(word="tiny", machine=machine, ranks=2))
    assert row.verdict == "too large" and row.why.endswith("of 92.0 kB")
    assert row.load is not None and row.load.peak > 92_000
    assert row.samples == 1  # the smallest micro-batch there is


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        (["strategy=local"], "runs in one process"),
        (["strategy=tensor"], "does not divide the model's"),
        (["strategy=pipeline"], "need as many layers"),
        (["strategy=mesh", "strategy.tensor=3"], "must be a multiple of 3"),
        (["strategy=horovod"], "is up to its framework"),
    ],
)
def test_what_a_strategy_refuses_is_shown_with_its_reason(strategy: list[str], why: str) -> None:
    (row,) = plan([*SMALL, *strategy, "train.global_batch=240"], site("16xh100"))
    assert row.verdict == "refused" and why in row.why


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    (row,) = plan([*SMALL, "strategy=ddp", "train.global_batch=30"], site("16xh100"))
    assert "does not divide by the 16 data-parallel ranks" in row.why


def test_a_mistake_that_no_strategy_mends_ends_it() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.size=8q"):
        plan(["recipe=llm_pretrain", "recipe.size=8q"], site("8xh100"))
