"""diff RUN RUN: in which keys and versions two runs differ, and from which step on their losses do."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.audit.journal import Journal
from trainkit.cli.place import run_folders
from trainkit.cli.runs.compare import show_differences
from trainkit.cli.terminal import say, title
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.report.differences import common_steps, first_loss


def main(words: Sequence[str]) -> int:
    if len(words) != 2:
        raise ConfigError([Problem("", "", "the command is: diff RUN RUN", "`runs compare` takes more than two")])
    one, other = (Journal(folder) for folder in run_folders(words))
    title("loss")
    say(f"  {_loss(one, other)}")
    show_differences(words, [one, other])
    return EXIT_DONE


def _loss(one: Journal, other: Journal) -> str:
    common = common_steps(one, other)
    if not common:
        return "no step was logged by both"
    found = first_loss(one, other)
    if found is None:
        return f"the same to the bit in all {common} steps that both have logged"
    step, a, b = found
    relative = f", {abs(b - a) / abs(a):.2g} of it" if a else ""
    return f"first differs at step {step}: {a!r} and {b!r}, by {b - a:+.3g}{relative}"
