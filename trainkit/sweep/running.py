"""Running members one after the other, each as a command of its own: what befalls one befalls no other.

A member goes on from what is in its folder. When this process dies, the kernel asks the member to save and leave.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import FrameType

from trainkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from trainkit.launcher._family import start_child
from trainkit.resilience.lock import until_free
from trainkit.sweep.member import Member, Result, evaluations, result
from trainkit.sweep.record import Asked, SweepFolder
from trainkit.sweep.sampler import Sampler
from trainkit.tail import Tail

LOOK_S = 0.2


class Requests:
    """How often somebody has asked the sweep to stop. Ctrl-C and SIGTERM count; a scheduler's `signals`, and a file
    STOP in the sweep, ask once however often they come."""

    def __init__(self, sweep: SweepFolder, signals: Iterable[str]) -> None:
        self._sweep, self._typed, self._hinted = sweep, 0, False
        sweep.stop.unlink(missing_ok=True)  # it was for a sweep that is gone
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._type)
        for name in signals:
            signal.signal(signal.Signals[f"SIG{name}"], self._hint)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal does not end a sweep

    @property
    def count(self) -> int:
        return max(self._typed, int(self._hinted or self._sweep.stop.exists()))

    def _type(self, number: int, frame: FrameType | None) -> None:
        self._typed += 1

    def _hint(self, number: int, frame: FrameType | None) -> None:
        self._hinted = True


class Members:
    """Those that `sampler` names, with the words that all share. `ended`: what became of those that ran here."""

    def __init__(self, sweep: SweepFolder, asked: Asked, sampler: Sampler, requests: Requests) -> None:
        self.sweep, self.asked, self.sampler, self.requests = sweep, asked, sampler, requests
        self.ended: dict[str, Result] = {}

    def run(self, begin: Callable[[Member], None], end: Callable[[], None]) -> int:
        """Until there are no more, or somebody asks to stop; `begin` is called before each, `end` after each. Returns
        the exit code of the sweep."""
        while not self.requests.count and (member := self.sampler.next()) is not None:
            folder = self.sweep.of(member)
            if folder.events.exists():  # it may still be saving, after its sweep was killed
                until_free(folder.root, folder.command_lock, folder.ranks_lock)
            came_to = result(folder, self.asked.metric)
            if came_to.status != "done":
                begin(member)
                self.ended[member.name] = came_to = self._one(member)
            self.sampler.tell(member, came_to)
            end()
        if any(result.failed for result in self.ended.values()) and not self.requests.count:
            return EXIT_FAILED
        stopped = self.requests.count or any(result.status == "stopped" for result in self.ended.values())
        return EXIT_STOPPED if stopped else EXIT_DONE

    def _one(self, member: Member) -> Result:
        """Run it to its end, or until it is pruned."""
        folder, values, pruned = self.sweep.of(member), list[float](), False
        tail, asked, seen = Tail(folder.metrics), 0, -1
        if self.sampler.prune(member, values):
            return Result("pruned")
        process = start([*self.asked.shared, *member.words(self.sweep.root)])
        while True:
            over = process.poll() is not None
            new = [row for row in tail.rows() if row["step"] > seen]  # it is read anew when the run has gone back
            seen = max((row["step"] for row in new), default=seen)
            values += evaluations(new, self.asked.metric)
            if new and not pruned and not over and self.sampler.prune(member, values):
                pruned = True
                process.send_signal(signal.SIGTERM)
            while asked < self.requests.count and not over:
                asked += 1
                process.send_signal(signal.SIGTERM)
            if over:
                break
            time.sleep(LOOK_S)
        came_to = result(folder, self.asked.metric)
        if pruned and came_to.status == "stopped":
            return Result("pruned", came_to.step, came_to.value)
        if came_to.status in ("done", "failed", "stopped", "killed", "refused") or asked:
            return came_to
        status = "refused" if process.returncode == EXIT_CONFIG else "killed"  # it could not write its summary
        return replace(came_to, status=status, message=f"its command ended with exit code {process.returncode}")


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """A run as a command of its own. It is in a session of its own: Ctrl-C reaches the sweep only, which passes it on
    once."""
    return start_child([sys.executable, "-m", "trainkit", *words], signal.SIGTERM, start_new_session=True)
