"""Every member of a sweep as the run that it will be, checked before the first one starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trainkit.cli.run import prepare
from trainkit.errors import ConfigError, Problem
from trainkit.launcher.slurm import Slurm, in_job
from trainkit.settings import Settings
from trainkit.sweep.member import Member, named
from trainkit.sweep.record import Asked, SweepFolder
from trainkit.sweep.sampler import grid

MOST = 1000  # members of a grid, each checked in 0.1 s: a range with too small a step is no sweep
NAMED = 3  # members in one message


def checked(asked: Asked, root: Path | None) -> tuple[SweepFolder, Settings]:
    """The folder, and one member as a run. Raises ConfigError with the problems of all; writes nothing."""
    number = math.prod(len(space.ends) for space in asked.spaces)
    if asked.sampler == "grid" and number > MOST:
        hint = "give fewer values, or --sampler random --trials N"
        raise ConfigError([Problem("", "", f"a grid of {number} members; {MOST} are the most", hint)])
    members = [*grid(asked.spaces)] if asked.sampler == "grid" else [*_corners(asked)]
    place = root or Path.cwd() / "runs" / asked.folder()
    found: dict[tuple[str, str], tuple[Problem, list[str]]] = {}
    sound: Settings | None = None
    for member in members:
        try:
            _, settings, _ = prepare([*asked.shared, *member.words(place), *_handed_over(asked.shared)])
            sound = sound or settings
        except ConfigError as error:
            for problem in error.problems:
                value = "" if problem.key == "run.dir" else str(problem.value)
                same = f"{problem.key} {value} {problem.message}", problem.hint
                found.setdefault(same, (problem, []))[1].append(member.name)
    problems = [_told(problem, names, len(members)) for problem, names in found.values()]
    if problems or sound is None:
        raise ConfigError(problems)
    sweep = SweepFolder(root or Path.cwd() / "runs" / sound.name / asked.folder())
    problems = [*asked.problems(sweep), *_as_a_whole(asked, sound)]
    if problems:
        raise ConfigError(problems)
    return sweep, sound


def _corners(asked: Asked) -> Iterator[Member]:
    """Every value and every end of an interval once, beside the first ones of the other keys."""
    first = {space.key: space.ends[0] for space in asked.spaces}
    yield named(first)
    for space in asked.spaces:
        yield from (named(first | {space.key: value}) for value in space.ends[1:])


def _handed_over(shared: Sequence[str]) -> list[str]:
    """Members of an array are checked as what is submitted; inside a job they run on its nodes."""
    return ["launcher.submit=true"] if "launcher=slurm" in shared and not in_job() else []


def _told(problem: Problem, names: Sequence[str], members: int) -> Problem:
    if len(names) == members:
        return problem
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    shown = f"in {'member' if len(names) == 1 else 'members'} {', '.join(names[:NAMED])}{more}: "
    return replace(problem, message=shown + problem.message)


def _as_a_whole(asked: Asked, settings: Settings) -> Iterator[Problem]:
    slurm = isinstance(settings.launcher, Slurm) and not settings.launcher.runs_here
    if slurm and asked.sampler != "grid":
        said = f"the members of a job array are fixed before it starts, and those of --sampler {asked.sampler} are not"
        hint = "give the same command without it in one or several jobs: they share the trials"
        yield Problem("launcher", "slurm", said, hint)
    if asked.prune != "none" and settings.train.eval_every is None and asked.metric.startswith("eval_"):
        said = "compares evaluations, but there are none during the run"
        yield Problem("", "", f"--prune {asked.prune} {said}", "set train.eval_every to a number of steps")
