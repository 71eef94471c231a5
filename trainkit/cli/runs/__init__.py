"""runs ls|show|compare|rm: runs by what they have learnt; `jobs` is about how they run.

A subcommand is the function `main(words) -> exit code` of its module, imported when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

SUBCOMMANDS = {
    "ls": "ls [FOLDER]                    every run in FOLDER (by default runs/), one a line (the same as jobs ls)",
    "show": "show RUN                       what it has learnt, what it cost, what happened to it",
    "compare": "compare RUN RUN [RUN ...]      results side by side, and in which keys they differ",
    "rm": "rm RUN [RUN ...] --yes         delete run folders with their checkpoints; never one that is at work",
}
"""Each, and how it is called."""

ELSEWHERE = {"ls": "jobs"}


def main(words: Sequence[str]) -> int:
    name = words[0] if words else ""
    if name not in SUBCOMMANDS:
        listed = "\n".join(f"    runs {how}" for how in SUBCOMMANDS.values())
        found = f"there is no runs {name}; there are" if name else "the commands are"
        raise ConfigError([Problem("", "", f"{found}:\n{listed}", suggest(name, SUBCOMMANDS))])
    code: int = importlib.import_module(f"trainkit.cli.{ELSEWHERE.get(name, 'runs')}.{name}").main(words[1:])
    return code


def usage(name: str) -> ConfigError:
    """For words that `runs NAME` does not understand."""
    return ConfigError([Problem("", "", f"the command is: runs {SUBCOMMANDS[name]}")])
