"""jobs ls|status|logs|wait|stop: runs from any machine that sees their folders, whoever started them.

A subcommand is the function `main(words) -> exit code` of its module, imported when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

SUBCOMMANDS = {
    "ls": "ls [FOLDER]                    every run in FOLDER (by default runs/), one a line",
    "status": "status RUN                     where it stands, and what happened to it",
    "logs": "logs [-f] [--rank R] RUN       what the command said, or rank R, in all attempts; -f: on until it ends",
    "wait": "wait RUN                       until it has ended; with its exit code",
    "stop": "stop RUN                       save and leave; a job that waits is taken out of the queue",
}
"""Each, and how it is called."""


def main(words: Sequence[str]) -> int:
    name = words[0] if words else ""
    if name not in SUBCOMMANDS:
        usage = "\n".join(f"    jobs {how}" for how in SUBCOMMANDS.values())
        found = f"there is no jobs {name}; there are" if name else "the commands are"
        raise ConfigError([Problem("", "", f"{found}:\n{usage}", suggest(name, SUBCOMMANDS))])
    code: int = importlib.import_module(f"trainkit.cli.jobs.{name}").main(words[1:])
    return code


def usage(name: str) -> ConfigError:
    """For words that `jobs NAME` does not understand."""
    return ConfigError([Problem("", "", f"the command is: jobs {SUBCOMMANDS[name]}")])
