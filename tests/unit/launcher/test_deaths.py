"""Which of several processes ended first, and how: whoever looks later still learns it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.unit.conftest import until
from trainkit.launcher._deaths import Deaths

Child = subprocess.Popen[bytes]


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Each exits with the number on its stdin."""
    before = signal.getsignal(signal.SIGCHLD)
    code = "import sys; sys.exit(int(sys.stdin.readline()))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for _ in range(3)]
    yield started
    signal.signal(signal.SIGCHLD, before)
    for child in started:
        child.kill()
        child.communicate()


def leave(child: Child, code: int) -> None:
    if child.stdin is not None:
        child.stdin.write(f"{code}\n".encode())
        child.stdin.flush()


def gone(child: Child) -> bool:
    """Whether it has ended; not waited for, which would take its end away from Deaths."""
    return psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE


def test_the_first_is_told_and_not_those_that_follow(children: list[Child]) -> None:
    deaths = Deaths([child.pid for child in children])
    leave(children[1], 0)  # no rank ends before it is told to
    until(lambda: deaths.first is not None, "it is seen")
    children[0].kill()
    until(lambda: gone(children[0]), "the other is dead")
    assert deaths.first == (children[1].pid, 0)
    assert children[1].wait() == 0  # which is still to be learned by others


def test_of_those_that_ended_before_the_killed_one_is_the_cause(children: list[Child]) -> None:
    leave(children[0], 1)
    children[1].kill()
    leave(children[2], 1)
    until(lambda: all(map(gone, children)), "all are gone")
    assert Deaths([child.pid for child in children]).first == (children[1].pid, -signal.SIGKILL)


def test_the_death_of_another_child_is_none(children: list[Child]) -> None:
    """Such as a loader's orphan that was adopted."""
    orphan, rank, _ = children
    deaths = Deaths([rank.pid])
    orphan.kill()
    until(lambda: gone(orphan), "the orphan is dead")
    assert deaths.first is None
    leave(rank, 7)
    until(lambda: deaths.first is not None, "the rank's end is seen")
    assert deaths.first == (rank.pid, 7)
