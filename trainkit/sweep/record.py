"""The folder of a sweep: what was asked for, one run folder for each member, and what became of them.

SWEEP/sweep.json     what was asked for; a run folder beside it belongs to the sweep
SWEEP/table.csv      the members and what became of them
SWEEP/NAME/          the run folder of a member
SWEEP/STOP           somebody asks the sweep to let its member save, and to leave
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trainkit.config.space import Space
from trainkit.errors import Problem
from trainkit.runfolder import RunFolder, replace_text
from trainkit.sweep.member import Member, Result, result

ELSEWHERE = ("launcher", "tracker", "run", "recovery", "watchdog")
"""Keys that change where and how members run, not what comes out of them."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a sweep was asked for. `shared`: the words of all members, without run.dir."""

    shared: Sequence[str]
    spaces: Sequence[Space]
    sampler: Literal["grid", "tpe", "random"] = "grid"
    trials: int | None = None
    metric: str = "eval_loss"
    mode: Literal["min", "max"] = "min"
    prune: Literal["none", "median", "hyperband"] = "none"

    def folder(self) -> str:
        """Its name, which is the same for the same command; more trials are still the same sweep."""
        same = [self.sampler, *self.shared, *(repr(space) for space in self.spaces)]
        return "sweep-" + hashlib.sha256("\n".join(same).encode()).hexdigest()[:8]

    def problems(self, sweep: SweepFolder) -> Iterator[Problem]:
        """Why it cannot go on in that folder."""
        before = sweep.read()
        if not before:
            return
        fixed: dict[str, object] = {"shared": _fixed(self.shared), "sampler": self.sampler}
        if self.sampler != "grid":
            fixed |= {"spaces": self.as_json()["spaces"], "metric": self.metric, "mode": self.mode}
        for name, now in fixed.items():
            was = _fixed(before["shared"]) if name == "shared" else before[name]
            if was != now:
                said = f"this folder holds another sweep: its {name} were {was}, and are {now} now"
                yield Problem("run.dir", sweep.root, said, "choose another run.dir, or give the same words")

    def as_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Paths and files of it."""

    root: Path

    @property
    def stop(self) -> Path:
        return RunFolder(self.root).stop

    @property
    def lock(self) -> Path:
        return RunFolder(self.root).command_lock

    def of(self, member: Member) -> RunFolder:
        return RunFolder(self.root / member.name)

    def read(self) -> dict[str, Any]:
        """What the sweep in it was asked for; empty for none."""
        path = RunFolder(self.root).sweep
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def write(self, asked: Asked) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        replace_text(RunFolder(self.root).sweep, json.dumps(asked.as_json(), indent=1))

    def results(self, members: Mapping[str, Member], metric: str) -> dict[str, Result]:
        return {name: result(self.of(member), metric) for name, member in members.items()}

    def write_table(self, asked: Asked, members: Mapping[str, Member], results: Mapping[str, Result]) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        keys = [space.key for space in asked.spaces]
        table.writerow(["member", *keys, "status", "step", asked.metric, "message"])
        for name, member in members.items():
            end = results[name]
            row = [end.status, end.step, "" if end.value is None else end.value, end.message]
            table.writerow([name, *(member.values[key] for key in keys), *row])
        replace_text(self.root / "table.csv", text.getvalue())


def _fixed(shared: Sequence[str]) -> list[str]:
    return sorted(word for word in shared if word.lstrip("+").partition("=")[0].split(".")[0] not in ELSEWHERE)
