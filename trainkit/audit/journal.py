"""What a run folder says of its run: its attempts, and what was logged in which. Reads files only, and starts nothing.

An attempt is launched (by a command, or by the agent that restarts a run), starts to train once its ranks have met and
read a checkpoint, and ends in one way or another; of one that is killed the next one's launch is the only sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from trainkit.runfolder import RunFolder, read_lines

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Attempt:
    """One attempt and its events, in order; times are seconds since the epoch.

    launched  when its ranks were told to come up
    started   when it began to train; None if it never did
    first     the step of the checkpoint that it went on from; 0 for none
    source    the attempt that wrote that; None where it does not say
    given     it is no checkpoint: ranks that had outlived the attempt before held it
    """

    number: int
    launched: float
    started: float | None
    first: int
    source: int | None
    given: bool
    events: Sequence[Row]

    @property
    def ended(self) -> float:
        """When it was heard of last; if its newest step was saved because it broke, when that was done."""
        rescued = [event for event in self.of("save") if "rescued_by" in event]
        return float((rescued or self.events)[-1]["time"])

    def of(self, *kinds: str) -> list[Row]:
        """Its events of these kinds."""
        return [event for event in self.events if event["event"] in kinds]


@dataclass(frozen=True)
class Journal:
    """The run of `folder`."""

    folder: RunFolder

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the newest attempt."""
        config: dict[str, Any] = yaml.safe_load(self.folder.config.read_text())
        return config

    @cached_property
    def events(self) -> list[Row]:
        return list(read_lines(self.folder.events))

    @cached_property
    def rows(self) -> list[Row]:
        """Those of metrics.jsonl: of lost attempts only what is before the checkpoint that the run went on from."""
        return list(read_lines(self.folder.metrics))

    @cached_property
    def attempts(self) -> list[Attempt]:
        """In the order in which they were launched."""
        begins = [i for i, event in enumerate(self.events) if event["event"] in ("launch", "restart")]
        found = []
        for i, stop in zip(begins, [*begins, len(self.events)][1:], strict=True):
            events = self.events[i:stop]
            start = next((event for event in events if event["event"] == "start"), None)
            found.append(
                Attempt(
                    number=events[0]["attempt"],
                    launched=events[0]["time"] + events[0].get("pause", 0.0),
                    started=start["time"] if start else None,
                    first=start["step"] if start else 0,
                    source=start.get("from_attempt") if start else None,
                    given=start is not None and start.get("given_by") is not None,
                    events=events,
                )
            )
        return found

    @property
    def starts(self) -> list[Row]:
        return [event for event in self.events if event["event"] == "start"]

    @cached_property
    def ledger(self) -> dict[int, list[Row]]:
        """The rows of all ranks and attempts by step."""
        steps: dict[int, list[Row]] = {}
        for path in sorted(self.folder.root.glob("ledger/*/*.jsonl")):
            for row in read_lines(path):
                steps.setdefault(row["step"], []).append(row)
        return steps

    @property
    def checkpoints(self) -> Path:
        return self.folder.checkpoints(self.config["checkpoint"]["dir"])
