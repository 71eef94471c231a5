"""The words of `sweep`: those of a run, what varies, and options."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainkit.cli.terminal import say, show_rows, title
from trainkit.config import spaces
from trainkit.config.suggest import suggest
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.sweep.record import Asked

CHOICES = {
    "sampler": ("grid", "tpe", "random"),
    "mode": ("min", "max"),
    "prune": ("none", "median", "hyperband"),
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
EXAMPLES = (
    "sweep recipe=image_classification train.seed=1,2 train.steps=2",
    "sweep recipe=llm_finetune optimizer.lr=1e-4,3e-4 train.seed=1,2,3 run.dir=runs/lr",
    "sweep recipe=image_classification 'optimizer.lr=tag(log,interval(1e-4,1e-1))' --sampler tpe --trials 50",
    "sweep recipe=llm_finetune optimizer.lr=1e-4,3e-4 launcher=slurm launcher.sbatch.throttle=2 run.dir=/shared/lr",
)

BELOW = (
    "\nAll members are checked before the first one starts. They run one after the other on this machine, each in a",
    "folder of its own, or as a job array with launcher=slurm. Ctrl-C: the running member saves, and the sweep ends.",
    "The same command again runs only what is not done; a member that failed goes on from its checkpoint.",
)


def explain() -> int:
    """sweep --help."""
    say("usage: python -m trainkit sweep recipe=NAME key=A,B [key=value ...] [OPTIONS]\n")
    title("examples (after python -m trainkit)")
    for example in EXAMPLES:
        say(f"  {example}")
    title("\nwhat varies; in a shell, quote what has brackets")
    show_rows(WORDS.items())
    title("\noptions")
    show_rows(OPTIONS.items())
    for line in BELOW:
        say(line)
    return EXIT_DONE


def options(words: Sequence[str]) -> tuple[Asked, Path | None]:
    """What is asked for, and the folder that run.dir names. Raises ConfigError with all that is wrong with it."""
    rest, given, problems = _split(words)
    for name, value in given.items():
        if name in CHOICES and value not in CHOICES[name]:
            there = f"there are {', '.join(CHOICES[name])}"
            problems.append(Problem("", "", f"--{name} {value}: {there}", suggest(value, CHOICES[name])))
    if not given.get("trials", "1").isdigit() or int(given.get("trials", "1")) < 1:
        problems.append(
            Problem("", "", f"--trials {given['trials']}: must be a number above 0", "for example --trials 50")
        )
    if problems:
        raise ConfigError(problems)
    shared, varied = spaces(rest)
    dirs = [word.partition("=")[2] for word in shared if word.startswith("run.dir=")]
    chosen: dict[str, Any] = given | ({"trials": int(given["trials"])} if "trials" in given else {})
    asked = Asked(shared=[w for w in shared if not w.startswith("run.dir=")], spaces=varied, **chosen)
    problems = [*_together(asked)]
    if problems:
        raise ConfigError(problems)
    return asked, Path(dirs[-1]).expanduser().absolute() if dirs else None


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, str], list[Problem]]:
    """The words of the run, the options by name, and what is wrong with those. --name=value is --name value."""
    names = [option.split()[0].removeprefix("--") for option in OPTIONS]
    rest, given, problems, left = [], {}, [], [*words]
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if name not in names:
            there = f"there is no option --{name}; there are {', '.join(f'--{n}' for n in names)}"
            problems.append(Problem("", "", there, suggest(name, names)))
        elif equals or left:
            given[name] = value if equals else left.pop(0)
        else:
            problems.append(Problem("", "", f"--{name} needs a value", "sweep --help shows examples"))
    return rest, given, problems


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
