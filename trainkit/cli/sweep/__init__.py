"""sweep recipe=NAME key=A,B [key=value ...] [--sampler tpe --trials N]: several runs that differ in some keys.

words -> what varies -> check every member -> run them one after the other, as tasks of Ray as many at a time as there
are workers, or submit them as an array -> the best
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trainkit.cli.jobs.state import standings
from trainkit.cli.sweep.checked import checked
from trainkit.cli.sweep.options import DETAILS, options
from trainkit.cli.sweep.parent import close
from trainkit.cli.sweep.table import show
from trainkit.cli.terminal import say, title
from trainkit.errors import EXIT_DONE
from trainkit.launcher.ray import Ray
from trainkit.launcher.slurm import Slurm
from trainkit.resilience.lock import RunLock
from trainkit.settings import Settings
from trainkit.sweep.member import Member, Result
from trainkit.sweep.record import Asked, SweepFolder
from trainkit.sweep.running import Here, Members, Place, Requests
from trainkit.sweep.sampler import Grid, Sampler

__all__ = ["DETAILS", "main"]


def main(words: Sequence[str]) -> int:
    asked, root = options(words)
    sweep, settings = checked(asked, root)
    again = ["sweep", *(word for word in words if not word.startswith("run.dir=")), f"run.dir={sweep.root}"]
    if isinstance(settings.launcher, Slurm) and not settings.launcher.runs_here:
        return as_array(sweep, asked, settings, again)
    if asked.sampler != "grid":
        return by_turns(sweep, asked, settings, again)
    with RunLock(sweep.lock, sweep.root):
        return by_turns(sweep, asked, settings, again)


def by_turns(sweep: SweepFolder, asked: Asked, settings: Settings, again: Sequence[str]) -> int:
    place = where(settings)
    sweep.write(asked)
    sampler = sampled(sweep, asked)
    requests = Requests(sweep, settings.run.signals)  # after Ray has taken the handlers

    members = Members(sweep, asked, sampler, requests, place)

    def begin(member: Member) -> None:
        title(f"\nmember {member.name}")

    def end() -> None:
        sweep.write_table(asked, sampler.members(), results(sweep, asked, sampler) | members.ended)

    code = members.run(begin, end)
    end()
    came_to = results(sweep, asked, sampler) | members.ended
    close(sweep, asked, settings, came_to, code)
    show(sweep, asked, sampler.members(), came_to)
    if code != EXIT_DONE:
        say(f"\nnext: go on with what is not done\npython -m trainkit {shlex.join(again)}")
    return code


def where(settings: Settings) -> Place:
    launcher = settings.launcher
    if not isinstance(launcher, Ray):
        return Here()
    from trainkit.launcher._ray_tasks import Tasks

    cluster = launcher.cluster(settings.strategy, settings.train.device)
    return Tasks(launcher.wanted(cluster), cluster.ranks // cluster.hosts)


def sampled(sweep: SweepFolder, asked: Asked) -> Sampler:
    if asked.sampler == "grid":
        return Grid(asked.spaces)
    from trainkit.sweep.optuna import Study

    return Study(sweep, asked)


def results(sweep: SweepFolder, asked: Asked, sampler: Sampler) -> dict[str, Result]:
    members = sampler.members()
    found = sweep.results(members, asked.metric)
    return {name: sampler.judged(members[name], result) for name, result in found.items()}


def as_array(sweep: SweepFolder, asked: Asked, settings: Settings, again: Sequence[str]) -> int:
    """Submit the members that are neither done nor at work, as one job array."""
    from trainkit.cli import run

    members = Grid(asked.spaces).members()
    came_to = sweep.results(members, asked.metric)
    known = [sweep.of(member).root for name, member in members.items() if came_to[name].status != "done"]
    begun = standings([root for root in known if root.exists()])
    at_work = {standing.folder.root.name: standing.state for standing in begun if standing.goes_on}
    came_to |= {name: replace(came_to[name], status=state, message="") for name, state in at_work.items()}
    show(sweep, asked, members, came_to)
    left = {name: m for name, m in members.items() if came_to[name].status != "done" and name not in at_work}
    if sweep.root.exists():
        sweep.write_table(asked, members, came_to)
    if not left:
        if not at_work:
            close(sweep, asked, settings, came_to, EXIT_DONE)
        return EXIT_DONE
    code = run.main([*asked.shared, f"run.dir={sweep.root}", array(left, sweep.root), "launcher.submit=true"])
    sweep.write(asked)
    say(f"    table    python -m trainkit {shlex.join(again)}")
    return code


def array(members: Mapping[str, Member], root: Path) -> str:
    """launcher.sweep as it would be typed."""
    lines = [shlex.join(member.words(root)).replace("\\", "\\\\").replace('"', '\\"') for member in members.values()]
    return "launcher.sweep=[" + ",".join(f'"{line}"' for line in lines) + "]"
