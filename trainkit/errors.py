"""The errors that trainkit raises on purpose, and the exit code that each one means.

    TrainkitError                 1   a fault in a run; says what was saved and how to go on
    |- ConfigError                2   bad input: nothing was started or written
    |- CheckpointError            1   a checkpoint could not be written, read or trusted
    |- CorruptError               1   a rank's parameters are no longer those of the others
    |- Fenced                     1   a later job has taken the run over
    `- StoppedOnRequest          75   a checkpoint is saved; the same command goes on (EX_TEMPFAIL)

Anything else that escapes is a bug or a fault of the recipe and leaves with its traceback and code 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import ClassVar

EXIT_DONE, EXIT_FAILED, EXIT_CONFIG, EXIT_STOPPED = 0, 1, 2, 75


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration: what was set, what was found, what to set instead."""

    key: str
    value: object
    message: str
    hint: str = ""

    def __str__(self) -> str:
        # As it would be typed: null and true, not None and True.
        value = self.value if isinstance(self.value, str | PurePath) else json.dumps(self.value, default=str)
        head = f"{self.key}={value}: {self.message}" if self.key else self.message
        return f"{head}\n    {self.hint}" if self.hint else head


class TrainkitError(Exception):
    """The root of trainkit's own errors."""

    exit_code: ClassVar[int] = EXIT_FAILED
    hopeless: ClassVar[bool] = False
    """Whether another attempt would come to the same."""


class ConfigError(TrainkitError):
    """Every problem found in a configuration, at once."""

    exit_code: ClassVar[int] = EXIT_CONFIG

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class CheckpointError(TrainkitError):
    """A checkpoint could not be written, read or trusted."""


class CorruptError(TrainkitError):
    """A rank's parameters are no longer those of the others. `rank`: which one; None where no majority says so."""

    def __init__(self, message: str, rank: int | None) -> None:
        self.rank = rank
        super().__init__(message)


class NoGoodCheckpoint(CheckpointError):
    """There are checkpoints, and all of them are damaged."""

    hopeless: ClassVar[bool] = True


class TooManyFailedSaves(CheckpointError):
    """As many saves in a row have failed as checkpoint.max_failures allows."""

    hopeless: ClassVar[bool] = True


class TooManyBadSteps(TrainkitError):
    """The run has gone back as often as anomaly.rollbacks allows, or cannot."""

    hopeless: ClassVar[bool] = True


class Fenced(TrainkitError):
    """A later job has taken the run folder over: whoever finds this may write nothing more into it."""

    hopeless: ClassVar[bool] = True


class StoppedOnRequest(TrainkitError):
    """The run was asked to stop and has saved a checkpoint."""

    exit_code: ClassVar[int] = EXIT_STOPPED
