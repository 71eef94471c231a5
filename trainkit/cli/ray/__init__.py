"""ray submit|status|logs|stop|render: a run as a job of a Ray cluster.

A subcommand is the function `main(words) -> exit code` of its module, imported when it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem

SUBCOMMANDS = {
    "submit": "submit [--address http://HEAD:8265] [--follow] [--retries N] recipe=NAME [key=value ...]",
    "status": "status RUN                     what Ray says of the job that has the run",
    "logs": "logs [-f] RUN                  what the job's command says; -f: on until it ends",
    "stop": "stop RUN                       have the run save and leave, and end the job",
    "render": "render rayjob|cluster [--image IMAGE] recipe=NAME ...   a manifest for KubeRay, a file for `ray up`",
}
"""Each, and how it is called."""


def main(words: Sequence[str]) -> int:
    name = words[0] if words else ""
    if name not in SUBCOMMANDS:
        usage = "\n".join(f"    ray {how}" for how in SUBCOMMANDS.values())
        found = f"there is no ray {name}; there are" if name else "the commands are"
        raise ConfigError([Problem("", "", f"{found}:\n{usage}", suggest(name, SUBCOMMANDS))])
    code: int = importlib.import_module(f"trainkit.cli.ray.{name}").main(words[1:])
    return code


def usage(name: str) -> ConfigError:
    """For words that `ray NAME` does not understand."""
    return ConfigError([Problem("", "", f"the command is: ray {SUBCOMMANDS[name]}")])


def under_ray(words: Sequence[str]) -> list[str]:
    """The words of a run under launcher=ray, whether or not they say so."""
    chosen = [word for word in words if word.startswith("launcher=")]
    if chosen and chosen != ["launcher=ray"]:
        raise ConfigError([Problem("launcher", chosen[-1].partition("=")[2], "is not ray", "leave it out")])
    return [*words, *([] if chosen else ["launcher=ray"])]


def option(words: list[str], name: str, default: str) -> str:
    """The value of `--name VALUE`, which is taken out of `words`."""
    if name not in words:
        return default
    at = words.index(name)
    if not words[at + 1 : at + 2]:
        raise ConfigError([Problem("", "", f"{name} needs a value")])
    value = words[at + 1]
    del words[at : at + 2]
    return value
