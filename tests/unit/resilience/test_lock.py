"""One command per run folder, whatever became of the one before."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from trainkit.errors import ConfigError
from trainkit.resilience.lock import RunLock


def test_a_second_command_is_told_who_is_there_and_may_come_when_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "run/logs/command.lock"
    with RunLock(path, tmp_path / "run"):
        with pytest.raises(ConfigError) as refused:
            RunLock(path, tmp_path / "run")
        (problem,) = refused.value.problems
        assert (problem.key, problem.value) == ("run.dir", tmp_path / "run")
        assert f"process {os.getpid()} on {socket.gethostname()}, since " in problem.message
    with RunLock(path, tmp_path / "run"):
        pass


def test_the_lock_is_that_of_every_process_that_was_forked_while_it_was_held(tmp_path: Path) -> None:
    """A rank that outlives its command still writes."""
    path = tmp_path / "ranks.lock"
    lock = RunLock(path, tmp_path)
    child = os.fork()
    if child == 0:
        signal.pause()
    lock.release()
    with pytest.raises(ConfigError):
        RunLock(path, tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    RunLock(path, tmp_path).release()
