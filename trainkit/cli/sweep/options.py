"""The words of `sweep`: those of a run, what varies, and options."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainkit.cli.words import parse, whole
from trainkit.config import spaces
from trainkit.errors import ConfigError, Problem
from trainkit.sweep.record import Asked

CHOICES = {
    "--sampler": ("grid", "tpe", "random"),
    "--trials": None,
    "--metric": None,
    "--mode": ("min", "max"),
    "--prune": ("none", "median", "hyperband"),
}
OPTIONS = {
    "--sampler grid": "grid: every combination | tpe: where good values are likely | random; the last two by Optuna",
    "--trials N": "so many members in all; for tpe and random",
    "--metric eval_loss": "a key of metrics.jsonl, whose last value counts",
    "--mode min": "min | max: which value is best",
    "--prune none": "none | median | hyperband: end members early that fall behind; needs train.eval_every",
}
WORDS = {
    "optimizer.lr=1e-4,3e-4": "these values",
    "train.seed=range(1,4)": "1, 2 and 3",
    "strategy=glob(zero*)": "every choice with such a name",
    "optimizer.lr=interval(1e-5,1e-3)": "any number between them",
    "optimizer.lr=tag(log,interval(1e-5,1e-3))": "the same, evenly in its logarithm",
    "recipe.width=int(interval(8,64))": "any whole number between them",
}
FOLLOWS = {
    "first": "all members are checked before one starts",
    "then": "they run one after the other on this machine, each in a folder of its own",
    "launcher=slurm": "they are a job array",
    "launcher=ray": "they are tasks of the cluster, launcher.workers at a time",
    "Ctrl-C": "what runs saves, and the sweep ends",
    "the same again": "runs only what is not done; a member that failed goes on from its checkpoint",
}
DETAILS = {"what varies; in a shell, quote what has brackets": WORDS, "options": OPTIONS, "what happens": FOLLOWS}


def options(words: Sequence[str]) -> tuple[Asked, Path | None]:
    """What is asked for, and the folder that run.dir names. Raises ConfigError with all that is wrong with it."""
    rest, given = parse(words, CHOICES)
    trials = whole(given, "--trials", 1)
    shared, varied = spaces(rest)
    dirs = [word.partition("=")[2] for word in shared if word.startswith("run.dir=")]
    chosen: dict[str, Any] = {name.removeprefix("--"): value for name, value in given.items()} | {"trials": trials}
    asked = Asked(shared=[w for w in shared if not w.startswith("run.dir=")], spaces=varied, **chosen)
    problems = [*_together(asked)]
    if problems:
        raise ConfigError(problems)
    return asked, Path(dirs[-1]).expanduser().absolute() if dirs else None


def _together(asked: Asked) -> Iterator[Problem]:
    """What does not go together."""
    intervals = [space for space in asked.spaces if not space.values]
    if not asked.spaces:
        yield Problem("", "", "nothing varies", "give a key several values: optimizer.lr=1e-4,3e-4")
    if asked.sampler == "grid":
        for space in intervals:
            said = "is an interval, which has no combinations"
            hint = "add --sampler tpe --trials N, or give values: 1,2,3 or range(1,4)"
            yield Problem(space.key, f"interval({space.text(space.low)},{space.text(space.high)})", said, hint)
        for name, set_, unset in (("trials", asked.trials, None), ("prune", asked.prune, "none")):
            if set_ != unset:
                said = f"--{name} {set_}: a grid runs all combinations to their end"
                yield Problem("", "", said, "add --sampler tpe or random")
        return
    if asked.trials is None:
        yield Problem("", "", f"--sampler {asked.sampler} has no end of its own", "add --trials N")
    if importlib.util.find_spec("optuna") is None:
        said = f"--sampler {asked.sampler}: Optuna is not installed"
        yield Problem("", "", said, "pip install 'trainkit[sweep]'")
