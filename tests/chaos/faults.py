"""What can happen to a run, as data: a name, and how it is brought about in a run of two ranks."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import psutil

from tests.e2e.command import Running, events, lines, saved, until
from tests.ranks import of_number

Fault = Callable[[Running, random.Random], None]


def starts(running: Running) -> int:
    return len(events(running.run, "start"))


def until_it_is_back(running: Running, attempts: int) -> None:
    """Until one more attempt than `attempts` trains."""
    until(lambda: starts(running) > attempts, lambda: running.front.poll() is None)


def befall(running: Running, chance: random.Random, what: Callable[[psutil.Process], None]) -> None:
    """Do `what` to a rank, and wait until the run has restarted."""
    before = starts(running)
    _, ranks = running.processes()
    what(ranks[chance.randrange(len(ranks))])
    until_it_is_back(running, before)


def kill(running: Running, chance: random.Random) -> None:
    """As the out-of-memory killer does it, wherever the rank is: between two steps, in one, in a save."""
    befall(running, chance, psutil.Process.kill)


def kill_unseen(running: Running, chance: random.Random) -> None:
    """Kill a rank in a save, while the other one stands still: all that it has sent is there before it is gone."""
    before, dead = starts(running), chance.randrange(2)
    victim, other = of_number(dead), of_number(1 - dead)
    (running.run.parent / f"fault_{dead}").write_text("late")
    late = running.run.parent / f"late_{dead}"
    until(late.exists, victim.is_running)
    until_it_waits(other)
    other.suspend()
    late.unlink()
    until_it_waits(victim)
    victim.kill()
    until(lambda: victim.status() == psutil.STATUS_ZOMBIE, victim.is_running)
    other.resume()
    until_it_is_back(running, before)


def until_it_waits(process: psutil.Process) -> None:
    """Until it does nothing but that."""
    used: list[float] = []

    def still() -> bool:
        times = process.cpu_times()
        used.append(times.user + times.system)
        time.sleep(0.02)
        return len(used) > 10 and used[-10] == used[-1]

    until(still, process.is_running)


def hang(running: Running, chance: random.Random) -> None:
    """A rank that does nothing any more."""
    befall(running, chance, psutil.Process.suspend)


def corrupt(running: Running, chance: random.Random) -> None:
    """One bit of the newest checkpoint, and then the run needs it; where it is the only one, the run would end."""
    before = starts(running)
    until(lambda: len(saved(running.run)) > 1, lambda: running.front.poll() is None)
    _, ranks = running.processes()
    for rank in ranks:
        rank.suspend()  # no newer one
    newest = running.run / f"checkpoints/step_{saved(running.run)[-1]}"
    path = chance.choice(sorted(p for p in newest.iterdir() if p.stat().st_size))
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    for rank in ranks:
        rank.kill()
    until_it_is_back(running, before)


def slow(running: Running, chance: random.Random) -> None:
    """A rank that takes a second for a step: nothing has to follow."""
    told = running.run.parent / f"fault_{chance.randrange(2)}"
    told.write_text("slow")
    until(lambda: not told.exists(), lambda: running.front.poll() is None)


def nan(running: Running, chance: random.Random) -> None:
    """A loss that is not a number, on one rank, or on the last stage of a pipeline."""
    for rank in range(2):
        (running.run.parent / f"fault_{rank}").write_text("nan")
    until(lambda: events(running.run, "bad_step") != [], lambda: running.front.poll() is None)


def ask(running: Running, chance: random.Random) -> None:
    """As a scheduler that wants the machine back; whoever started the run starts it again."""
    running.front.send_signal(chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]))
    assert running.wait() == 75, running.said.read_text()
    assert [event["event"] for event in lines(running.run / "events.jsonl")][-2:] == ["stop", "end"]


STORM: dict[str, Fault] = {
    "kill": kill,
    "kill_unseen": kill_unseen,
    "hang": hang,
    "corrupt": corrupt,
    "slow": slow,
    "ask": ask,
}
"""After which the weights are those of the undisturbed run. All of them come in one run, in an order nobody chose."""
