"""Runs that a command starts under a launcher of its own: `slurm submit`, `ray render`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from trainkit.cli.run import prepare
from trainkit.errors import ConfigError, Problem
from trainkit.protocols import Cluster
from trainkit.settings import Settings

L = TypeVar("L")


def under(launcher: str, words: Sequence[str], *more: str) -> list[str]:
    """The words of a run under it, whether or not they say so."""
    chosen = [word for word in words if word.startswith("launcher=")]
    if chosen and chosen != [f"launcher={launcher}"]:
        found = chosen[-1].partition("=")[2]
        raise ConfigError([Problem("launcher", found, f"is not {launcher}", "leave it out")])
    return [*words, *([] if chosen else [f"launcher={launcher}"]), *more]


def prepare_under(kind: type[L], words: Sequence[str]) -> tuple[dict[str, Any], Settings, Cluster, L]:
    """The checked run, and its launcher, which is trainkit's own. Raises ConfigError; writes nothing."""
    config, settings, cluster = prepare(words)
    if not isinstance(settings.launcher, kind):
        name = kind.__name__.lower()
        raise ConfigError([Problem("launcher", name, "is another component here", "rename your own")])
    return config, settings, cluster, settings.launcher
