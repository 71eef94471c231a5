"""What runs on several machines are held to: the same run on this one, which nothing disturbs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import curve, done, summary, trained, weights

STRATEGIES = ("ddp", "fsdp", "tensor", "pipeline", "mesh", "zero1", "zero2", "zero3", "horovod", "accelerate")
FEW_STEPS = (
    "recipe=llm_pretrain",
    "recipe.seq_len=32",
    "recipe.sample_prompt=null",
    "recipe.vocab=512",
    "recipe.heldout=0.0005",
    "train.steps=5",
    "train.global_batch=8",
    "train.micro_batch=2",
    "train.eval_every=null",
    "train.device=cpu",
    "checkpoint.metric=null",
    "tracker=none",
    "run.dir=run",
)
"""Any strategy has to come to the curve that `local` has with these; see the fixture `local`."""


def alone(folder: Path, *words: str) -> Path:
    """The run folder of `words` on this machine, with run.dir=run."""
    done(folder, *words)
    return folder / "run"


def each(strategies: tuple[str, ...], *in_ci: str) -> list[Any]:
    """To parametrize with; those that are not `in_ci` are drills."""
    return [name if name in in_ci else pytest.param(name, marks=pytest.mark.drill) for name in strategies]


def same_run(run: Path, other: Path) -> None:
    """To the bit, each step once, each sample once."""
    assert summary(run)["status"] == "done"
    assert curve(run) == curve(other)
    assert weights(run) == weights(other)
    assert trained(run) == trained(other)


def same_curve(run: Path, other: Path) -> None:
    """The same steps; the losses but for the order in which sums are made."""
    here, there = curve(other), curve(run)
    assert [row["step"] for row in there] == [row["step"] for row in here]
    assert [row["loss"] for row in there[1:-1]] == pytest.approx([row["loss"] for row in here[1:-1]], rel=1e-5)
