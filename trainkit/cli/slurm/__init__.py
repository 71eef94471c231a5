"""slurm render|check|submit|job: a run as a Slurm job.

A subcommand is the function `main(words) -> exit code` of its module, imported when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

SUBCOMMANDS = {
    "render": ("render", "render recipe=NAME [key=value ...]     print the batch script; no cluster is needed"),
    "check": ("check", "check recipe=NAME [key=value ...]      ask sbatch whether it would take the job, and when"),
    "submit": ("submit", "submit recipe=NAME [key=value ...]     the same as launcher=slurm launcher.submit=true"),
    "job": (
        "job",
        "job recipe=NAME [key=value ...]        what a batch script calls: run, start again if need be",
    ),
}
"""The module of each, and how it is called."""


def main(words: Sequence[str]) -> int:
    name = words[0] if words else ""
    if name not in SUBCOMMANDS:
        usage = "\n".join(f"    slurm {how}" for _, how in SUBCOMMANDS.values())
        found = f"there is no slurm {name}; there are" if name else "the commands are"
        raise ConfigError([Problem("", "", f"{found}:\n{usage}", suggest(name, SUBCOMMANDS))])
    code: int = importlib.import_module(f"trainkit.cli.slurm.{SUBCOMMANDS[name][0]}").main(words[1:])
    return code


def under_slurm(words: Sequence[str], *more: str) -> list[str]:
    """The words of a run under launcher=slurm, whether or not they say so."""
    chosen = [word for word in words if word.startswith("launcher=")]
    if chosen and chosen != ["launcher=slurm"]:
        raise ConfigError([Problem("launcher", chosen[-1].partition("=")[2], "is not slurm", "leave it out")])
    return [*words, *([] if chosen else ["launcher=slurm"]), *more]
