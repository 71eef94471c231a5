"""The commands. Each takes the words after its name and returns the exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainkit.config import build, check, compose
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.protocols import Cluster
from trainkit.settings import Settings


def checked(words: Sequence[str]) -> tuple[dict[str, Any], Settings, Cluster]:
    """The configuration that `words` select, if nothing is wrong with it. Raises ConfigError with all problems."""
    config = compose(words)
    settings, problems = build(config)
    if settings is None:
        raise ConfigError(problems)
    cluster = settings.launcher.cluster(settings.strategy)
    problems += check(settings, cluster)
    if problems:
        raise ConfigError(problems)
    return config, settings, cluster


def run(words: Sequence[str]) -> int:
    """Train."""
    from trainkit import front

    config, settings, cluster = checked(words)
    return front.run(config, settings, cluster, words)


def validate(words: Sequence[str]) -> int:
    """Check a configuration and say what it would run; starts and writes nothing."""
    from rich.console import Console

    from trainkit.cli.plan import plan

    _, settings, cluster = checked(words)
    Console().print(plan(settings, cluster))
    return EXIT_DONE


def config(words: Sequence[str]) -> int:
    """Print the resolved configuration as YAML."""
    import yaml

    chosen = [word for word in words if word not in ("job", "--resolve")]  # hydra writes --cfg job --resolve
    sys.stdout.write(yaml.safe_dump(compose(chosen), sort_keys=False))
    return EXIT_DONE


def ls(words: Sequence[str]) -> int:
    """List recipes, strategies, launchers, trackers, optimizers and schedules."""
    from trainkit.cli.listing import listing

    sys.stdout.write(listing())
    return EXIT_DONE


def env(words: Sequence[str]) -> int:
    """Show what this machine has: Python, torch, GPUs, cores, and which backends are installed."""
    from trainkit.cli.environment import environment

    sys.stdout.write(environment())
    return EXIT_DONE


def mlflow(words: Sequence[str]) -> int:
    """`mlflow sync RUN`: send the rows that the tracker has not got, and close its run."""
    if len(words) != 2 or words[0] != "sync":
        raise ConfigError(
            [Problem("", "", f"cannot read 'mlflow {' '.join(words)}'", "trainkit mlflow sync RUN_FOLDER")]
        )
    from trainkit.front import sync_tracker

    sys.stdout.write(sync_tracker(Path(words[1])) + "\n")
    return EXIT_DONE


def version(words: Sequence[str]) -> int:
    """Print trainkit's version."""
    from trainkit import __version__

    sys.stdout.write(f"trainkit {__version__}\n")
    return EXIT_DONE


def usage(words: Sequence[str]) -> int:
    """Explain the words, the commands and the keys."""
    from trainkit.cli.listing import usage_text

    sys.stdout.write(usage_text(COMMANDS))
    return EXIT_DONE


COMMANDS = {
    "ls": ls,
    "validate": validate,
    "config": config,
    "env": env,
    "mlflow": mlflow,
    "run": run,
    "help": usage,
    "--help": usage,
    "-h": usage,
    "--version": version,
    "--cfg": config,
}
