"""Running members, each as a command of its own: what befalls one befalls no other. On this machine they run one after
the other; elsewhere there may be room for several at once.

A member goes on from what is in its folder. When this process dies, its members are asked to save and leave.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Protocol

from trainkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from trainkit.launcher._family import start_child
from trainkit.resilience.lock import until_free
from trainkit.runfolder import RunFolder
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


class Command(Protocol):
    """A member at work. `why`: its exit code says nothing of the run; empty otherwise."""

    why: str

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""

    def ask(self) -> None:
        """Have it save and leave; the second time, end at once."""


class Place(Protocol):
    """Where members run, `at_once` so many."""

    at_once: int

    def start(self, words: Sequence[str], folder: RunFolder) -> Command:
        """The run of `words`, which is in `folder`."""


@dataclass
class AtWork:
    """`values`: of the metric so far, up to the step `seen`; `asked`: so often, to stop."""

    member: Member
    command: Command
    tail: Tail
    values: list[float] = field(default_factory=list)
    seen: int = -1
    asked: int = 0
    pruned: bool = False


class Members:
    """Those that `sampler` names, with the words that all share, in `place`. `ended`: what became of those that ran
    here."""

    def __init__(self, sweep: SweepFolder, asked: Asked, sampler: Sampler, requests: Requests, place: Place) -> None:
        self.sweep, self.asked, self.sampler, self.requests, self.place = sweep, asked, sampler, requests, place
        self.ended: dict[str, Result] = {}
        self._at_work: list[AtWork] = []

    def run(self, begin: Callable[[Member], None], end: Callable[[], None]) -> int:
        """Until there are no more, or somebody asks to stop; `begin` is called before each, `end` after each. Returns
        the exit code of the sweep."""
        while True:
            while self._fill(begin, end):
                pass
            if not self._at_work:
                break
            time.sleep(LOOK_S)
            for one in [*self._at_work]:
                if (came_to := self._look(one)) is not None:
                    self._at_work.remove(one)
                    self._told(one.member, came_to, end)
        if any(result.failed for result in self.ended.values()) and not self.requests.count:
            return EXIT_FAILED
        stopped = self.requests.count or any(result.status == "stopped" for result in self.ended.values())
        return EXIT_STOPPED if stopped else EXIT_DONE

    def _fill(self, begin: Callable[[Member], None], end: Callable[[], None]) -> bool:
        """Begin one more, if there is room and nobody has asked to stop; whether there was one."""
        if len(self._at_work) >= self.place.at_once or self.requests.count or (member := self.sampler.next()) is None:
            return False
        folder = self.sweep.of(member)
        if folder.events.exists():  # it may still be saving, after its sweep was killed
            until_free(folder.root, folder.command_lock, folder.ranks_lock)
        came_to = result(folder, self.asked.metric)
        if came_to.status == "done":
            self.sampler.tell(member, came_to)
            end()
            return True
        begin(member)
        if self.sampler.prune(member, []):
            self._told(member, Result("pruned"), end)
        else:
            command = self.place.start([*self.asked.shared, *member.words(self.sweep.root)], folder)
            self._at_work.append(AtWork(member, command, Tail(folder.metrics)))
        return True

    def _told(self, member: Member, came_to: Result, end: Callable[[], None]) -> None:
        self.ended[member.name] = came_to
        self.sampler.tell(member, came_to)
        end()

    def _look(self, one: AtWork) -> Result | None:
        """What it has come to, once it has ended. Until then it may be asked to leave, for it falls behind or the sweep
        is to stop."""
        code = one.command.poll()
        new = [row for row in one.tail.rows() if row["step"] > one.seen]  # read anew when the run has gone back
        one.seen = max((row["step"] for row in new), default=one.seen)
        one.values += evaluations(new, self.asked.metric)
        if code is not None:
            return self._end(one, code)
        if new and not one.pruned and self.sampler.prune(one.member, one.values):
            one.pruned = True
            one.command.ask()
        while one.asked < self.requests.count:
            one.asked += 1
            one.command.ask()
        return None

    def _end(self, one: AtWork, code: int) -> Result:
        came_to = result(self.sweep.of(one.member), self.asked.metric)
        if one.pruned and came_to.status == "stopped":
            return Result("pruned", came_to.step, came_to.value)
        if came_to.status in ("done", "failed", "stopped", "killed", "refused") or one.asked:
            return came_to
        status = "refused" if code == EXIT_CONFIG else "killed"  # it could not write its summary
        return replace(came_to, status=status, message=one.command.why or f"its command ended with exit code {code}")


class Here:
    """This machine."""

    at_once = 1

    def start(self, words: Sequence[str], folder: RunFolder) -> Command:
        return Child(words)


class Child:
    """A run as a command of its own. It is in a session of its own: Ctrl-C reaches the sweep only, which passes it on
    once."""

    why = ""

    def __init__(self, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "trainkit", *words]
        self._process = start_child(command, signal.SIGTERM, start_new_session=True)

    def poll(self) -> int | None:
        return self._process.poll()

    def ask(self) -> None:
        self._process.send_signal(signal.SIGTERM)
