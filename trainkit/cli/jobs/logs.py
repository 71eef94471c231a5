"""jobs logs: what a run's command has said, or one of its ranks, over all attempts and jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainkit.cli.jobs import usage
from trainkit.cli.jobs.state import one, standings
from trainkit.cli.words import split
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.runfolder import RunFolder
from trainkit.tail import Tail

LOOK_S, ASK_S = 0.5, 5.0


def main(words: Sequence[str]) -> int:
    plain, given, wrong = split(words, {"--rank": None}, ["-f"])
    if wrong or not given.get("--rank", "0").isdecimal():
        raise usage("logs")
    root, follow = one(plain, usage("logs")), "-f" in given
    reader = Reader(root, int(given["--rank"]) if "--rank" in given else None)
    if not reader.show() and not follow:
        hint = "one that was started by hand wrote to its terminal; --rank 0 shows what the first rank wrote"
        raise ConfigError([Problem("", "", f"there is no log of this run in {root / 'logs'}", hint)])
    asked = 0.0
    while follow:
        reader.show()
        if time.monotonic() - asked > ASK_S:  # not more often: Slurm may have to be asked
            asked = time.monotonic()
            follow = standings([root])[0].goes_on
            reader.show()
        time.sleep(LOOK_S)
    return EXIT_DONE


class Reader:
    """The files of a run's command, or of one rank, as they grow and as new ones come."""

    def __init__(self, root: Path, rank: int | None) -> None:
        self._root, self._rank = RunFolder(root), rank
        self._tails: dict[Path, Tail] = {}
        self._last: Path | None = None

    def show(self) -> bool:
        """Print what is new; whether there is any file."""
        for path in self._files():
            lines = self._tails.setdefault(path, Tail(path)).lines()
            if lines and path != self._last:
                sys.stdout.write(f"==> {path.relative_to(self._root.root)}\n")
                self._last = path
            sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
        return bool(self._tails)

    def _files(self) -> list[Path]:
        logs = self._root.root / "logs"
        if self._rank is None:
            return sorted([*logs.glob("slurm-*.out"), *logs.glob("ray.out")], key=lambda path: path.stat().st_ctime)
        attempts = range(1, self._root.next_attempt())
        return [p for a in attempts if (p := self._root.logs(a) / f"rank_{self._rank}.log").exists()]
