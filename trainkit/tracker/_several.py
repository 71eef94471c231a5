"""Several trackers at once: tracker=[mlflow,tensorboard]. Each has its keys below its name (tracker.mlflow.uri), and a
thread of its own (follower.py), so that a fault of one touches no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, make_dataclass, replace
from pathlib import Path

from trainkit.errors import Problem
from trainkit.protocols import RunInfo, Tracker, TrackerSession


class Several:
    """Those that were chosen are the fields of a class that `several` makes."""

    def problems(self) -> Sequence[Problem]:
        return [_of(name, problem) for name, part in parts(self).items() for problem in part.problems()]

    def open(self, info: RunInfo) -> TrackerSession | None:
        raise NotImplementedError("each of them is opened by itself")

    def held(self, folder: Path) -> Sequence[int] | None:
        """What the first says that can be asked."""
        found = (part.held(folder) for part in parts(self).values())
        return next((steps for steps in found if steps is not None), None)


def several(kinds: Mapping[str, type]) -> type:
    """A component with one field per tracker, which is built as any other."""
    return make_dataclass("Several", [*kinds.items()], bases=(Several,), frozen=True, kw_only=True)


def parts(tracker: Tracker) -> dict[str, Tracker]:
    """The trackers by name; one that is alone has its own."""
    if isinstance(tracker, Several):
        return {field.name: getattr(tracker, field.name) for field in fields(tracker)}  # type: ignore[arg-type]
    return {type(tracker).__name__.lower(): tracker}


def _of(name: str, problem: Problem) -> Problem:
    """tracker.uri of one tracker is tracker.NAME.uri here; what concerns the choice stays so."""
    return (
        replace(problem, key=f"tracker.{name}{problem.key.removeprefix('tracker')}") if "." in problem.key else problem
    )
