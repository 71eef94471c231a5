"""recipe=NAME [key=value ...]: train."""

from __future__ import annotations

import io
import signal
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainkit.cli.terminal import say
from trainkit.config import build, check, draft, fitting
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.launcher._visit import Meets
from trainkit.launcher.local import warm_agent
from trainkit.plan.auto import AUTO, chosen
from trainkit.preflight import HandsOver, Sweeps
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder
from trainkit.settings import Settings

AGENT_HERE = ("launcher=local", "launcher=ray")
"""With these, the agent is always on this machine."""


def main(words: Sequence[str]) -> int:
    here = not any(word.startswith("launcher=") and word not in AGENT_HERE for word in words)
    with warm_agent() if here else nullcontext():
        config, settings, cluster = prepare(words)
        if isinstance(settings.launcher, HandsOver):
            told = settings.launcher.hand_over(config, words, cluster)
            if told is not None:
                for line in told:
                    say(line)
                return EXIT_DONE
        visit = settings.launcher.visit(words, cluster) if isinstance(settings.launcher, Meets) else None
        if visit is None:
            from trainkit import front

            return front.run(config, settings, cluster, words)

    from trainkit import guest

    return guest.run(config, RunFolder(Path(settings.run.dir)), visit)


def prepare(words: Sequence[str]) -> tuple[dict[str, Any], Settings, Cluster]:
    """The checked run that `words` ask for, and what it would run on. Raises ConfigError; writes nothing."""
    if AUTO in words:
        words, told = chosen(words)
        say(told, error=True)  # stdout may be what a command is asked for
    config, wrong = draft(words)
    refused = {problem.key for problem in wrong}
    settings, problems = build(config)
    # What stands in for a choice that does not exist is nothing that the person has set.
    problems = [*wrong, *(p for p in problems if p.key.split(".")[0] not in refused)]
    if settings is None or wrong:
        raise ConfigError(problems)
    cluster = settings.launcher.cluster(settings.strategy, settings.train.device)
    problems += check(settings, cluster)
    if not problems and isinstance(settings.launcher, Sweeps):
        problems = [*_of_members(settings.launcher.members(Path(settings.run.dir)), settings.run.dir, words)]
    if problems:
        raise ConfigError(problems)
    return config, settings, replace(cluster, fewer=fitting(settings, cluster))


def passing(purpose: str) -> Path:
    """A folder for a run, or some, that are not kept; it is not made yet."""
    return Path(tempfile.gettempdir()) / f"trainkit-{purpose}-{uuid.uuid4().hex}"


def quietly(config: dict[str, Any], settings: Settings, cluster: Cluster, words: Sequence[str]) -> int:
    """Such a run, within a command that has another purpose. What it says is shown only if it fails."""
    from trainkit import front

    others = [signal.Signals[f"SIG{name}"] for name in settings.run.signals]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *others)}
    with redirect_stdout(io.StringIO()) as said:
        code = front.run(config, settings, cluster, words)
    for number, handler in handlers.items():  # the front's ask a job to stop that has ended
        signal.signal(number, handler)
    if code != EXIT_DONE:
        say(said.getvalue(), error=True)
    return code


def _of_members(members: Mapping[int, Sequence[str]], root: str, words: Sequence[str]) -> Iterator[Problem]:
    """What is wrong with the members of a sweep, each as the run that it will be."""
    for number, more in members.items():
        try:
            prepare([*words, "launcher.sweep=[]", f"run.dir={Path(root) / str(number)}", *more])
        except ConfigError as wrong:
            told = f"in member {number} of launcher.sweep: "
            yield from (replace(problem, message=told + problem.message) for problem in wrong.problems)
