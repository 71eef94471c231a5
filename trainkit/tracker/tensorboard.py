"""TensorBoard: event files in the run folder, which `tensorboard --logdir` shows."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainkit.errors import Problem
from trainkit.protocols import RunInfo, TrackerSession
from trainkit.tracker._numbers import by_machine, grouped

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter


@dataclass(frozen=True, kw_only=True)
class Tensorboard:
    """`dir` null: tensorboard/ in the run folder; else a folder of that name in it for every run."""

    dir: str | None

    def problems(self) -> Sequence[Problem]:
        if importlib.util.find_spec("tensorboard") is None:
            return [Problem("tracker", "tensorboard", "is not installed", "pip install 'trainkit[tensorboard]'")]
        return ()

    def open(self, info: RunInfo) -> TrackerSession | None:
        """What is there is written anew, from the first row on: so neither a fault nor a run that went back leaves
        points twice."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = info.folder / "tensorboard" if self.dir is None else Path(self.dir) / info.folder.name
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        return TensorboardSession(EventFileWriter(str(folder)), folder)

    def held(self, folder: Path) -> Sequence[int] | None:
        return None


class TensorboardSession:
    """The event file of one run, while it is written."""

    def __init__(self, writer: EventFileWriter, folder: Path) -> None:
        self._writer, self._folder = writer, folder
        self._samples, self._measured = -1.0, 0

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A run that goes back in its own attempt makes the same steps again: the first of them stay."""
        for row in (row for row in rows if row["samples"] > self._samples):
            self._add(grouped(row), row["step"], row["time"])
            self._samples = row["samples"]
        self._writer.flush()

    def measure(self, samples: Sequence[Mapping[str, Any]]) -> None:
        for sample in (sample for sample in samples if sample["sample"] > self._measured):
            self._add(by_machine(sample), sample["sample"], sample["time"])
            self._measured = sample["sample"]
        self._writer.flush()

    def _add(self, numbers: Mapping[str, Any], step: int, at: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in numbers.items()]
        self._writer.add_event(Event(wall_time=at, step=step, summary=Summary(value=values)))

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        pass

    def artifact(self, name: str, text: str) -> None:
        pass

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        self._writer.close()

    def abandon(self) -> None:
        self._writer.close()

    def where(self) -> str:
        return f"tensorboard --logdir {shlex.quote(str(self._folder))}"
