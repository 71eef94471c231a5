"""The words of the command line: which command they mean, and what an error says to the person who typed them.

    trainkit recipe=NAME [key=value ...]     train
    trainkit COMMAND [...]                   a first word without `=` is a command

A command is the function `main(words) -> exit code` of the module of its name, imported when it is called: what one
command needs must not slow the others down.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from trainkit import __version__
from trainkit.cli.terminal import say, show_problems
from trainkit.config.suggest import suggest
from trainkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, ConfigError, Problem, TrainkitError

COMMANDS = {
    "ls": "what there is to choose from: recipes, strategies, launchers, ...; your own are marked",
    "validate": "check the same words as for a run, start nothing: what would run, or all that is wrong",
    "config": "print the resolved configuration of a run as YAML (also: --cfg job)",
    "verify": "verify A B recipe=NAME: a few steps under two strategies (local, ddp@2, ...), and where they differ",
    "profile": "profile recipe=NAME: record a few steps: where their time goes, and a trace of all that they do",
    "env": "this machine: versions, GPUs, cores, memory, which backends are installed",
    "doctor": "doctor [FOLDER]: try out what runs need of this machine: ok, warning or fault, with the remedy",
    "checkpoint": "checkpoint inspect|verify RUN: what checkpoints hold and whether they are whole; export, import",
    "audit": "audit RUN: prove that no step, sample, row or checkpoint is lost, and say where the time went",
    "sweep": "sweep recipe=NAME key=A,B: several runs that differ in some keys, and the best of them (sweep --help)",
    "top": "top [RUN]: where every rank is, live, from the run folder alone; q ends it",
    "report": "report RUN [RUN ...]: one HTML page about runs: curves, events, where the time went; to=FILE",
    "runs": "runs ls|show|compare|rm RUN: runs by what they have learnt; rm deletes their folders",
    "diff": "diff RUN RUN: keys and versions that differ, and the first step whose loss does",
    "slurm": "slurm render|check|submit recipe=NAME: a run as a Slurm job; slurm job: what its batch script calls",
    "ray": "ray submit recipe=NAME: a run as a job of a Ray cluster; ray status|logs|stop RUN; ray render: manifests",
    "jobs": "jobs ls|status|logs|wait|stop RUN: runs from any machine that sees their folder",
    "completion": "completion bash|zsh|fish: a script by which that shell completes commands, keys and choices",
    "mlflow": "mlflow sync RUN: send what MLflow has missed of a run folder",
    "promote": "promote RUN|MODEL --to ALIAS: move an alias of a registered model, --if 'eval_loss<=champion'; --back",
    "plan": "plan recipe=NAME cluster=8xh100: which strategies fit a machine, how fast each would be, and the command",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that `words` (by default those of the process) name. Returns the exit code."""
    try:
        return dispatch(list(sys.argv[1:] if words is None else words))
    except ConfigError as error:
        show_problems(error.problems)
        return error.exit_code
    except TrainkitError as error:
        say(f"error: {error}", error=True)
        return error.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        say(f"error: {os.strerror(error.errno)}{where}; free space, then give the same command again", error=True)
        return EXIT_FAILED


def dispatch(words: list[str]) -> int:
    if not words:
        return _usage()
    if "--help" in words or "-h" in words:
        return _call("help", words)
    if words == ["--version"]:
        say(__version__)
        return EXIT_DONE
    if "--cfg" in words:  # as hydra's own applications spell it
        return _call("config", [word for word in words if word not in ("--cfg", "job", "--resolve")])
    first = words[0]
    if "=" in first:
        return _call("run", words)
    if first in COMMANDS:
        return _call(first, words[1:])
    if first.startswith("-"):
        raise ConfigError([Problem("", "", f"there is no option {first}", "options are --help and --version")])
    nearest = suggest(first, COMMANDS) or "a run is started with recipe=NAME"
    raise ConfigError([Problem("", "", f"there is no command {first}; there are {', '.join(COMMANDS)}", nearest)])


def _call(name: str, words: list[str]) -> int:
    code: int = importlib.import_module(f"trainkit.cli.{name}").main(words)
    return code


def _usage() -> int:
    """No words at all: enough to go on with."""
    from trainkit.config.compose import no_recipe

    say("usage: python -m trainkit recipe=NAME [key=value ...]     (--help explains)\n", error=True)
    say(no_recipe().message, error=True)
    return EXIT_CONFIG
