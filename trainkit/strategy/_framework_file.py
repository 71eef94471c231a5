"""A framework's own configuration file, which a strategy takes: reading it, and saying what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainkit.errors import Problem
from trainkit.preflight import Claim


@dataclass(frozen=True, slots=True)
class FrameworkFile:
    """The keys of one file that have a value; none where there is no file."""

    path: str
    values: Mapping[str, Any]

    def claim(self, key: str, values: tuple[object, ...], said: str) -> Claim:
        return Claim(key=key, values=values, said=f"{self.path} says {said}")

    def problem(self, message: str, hint: str = "change the file") -> Problem:
        return Problem("strategy.config", self.path, message, hint)


def read(
    path: str | None, parse: Callable[[str], Any], syntax: str, otherwise: tuple[str, str]
) -> tuple[Mapping[str, Any], list[Problem]]:
    """What is in the file, and why it cannot be read; nothing of either without a path. `otherwise`: message and hint
    for what `parse` takes for `syntax`, but holds no keys."""
    if path is None:
        return {}, []
    try:
        values = parse(Path(path).read_text())
    except OSError as error:
        return {}, [Problem("strategy.config", path, f"cannot be read: {error.strerror}")]
    except (ValueError, yaml.YAMLError) as error:
        return {}, [Problem("strategy.config", path, f"is no {syntax}: {' '.join(str(error).split())}")]
    if not isinstance(values, Mapping):
        return {}, [Problem("strategy.config", path, *otherwise)]
    return values, []
