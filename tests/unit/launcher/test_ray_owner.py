"""A command that runs on many machines takes a run folder over from one that is gone, and from no other."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from trainkit.errors import ConfigError, Fenced
from trainkit.launcher import _ray_owner
from trainkit.runfolder import OWNER, OWNER_FILE, RunFolder, guard


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    for name in (OWNER, OWNER_FILE):
        monkeypatch.setenv(name, "")  # what is set here is taken back
        monkeypatch.delenv(name)
    (tmp_path / "logs").mkdir()
    return RunFolder(tmp_path)


def beat(folder: RunFolder, host: str, pid: int, ago: float = 0.0) -> None:
    folder.heartbeat.write_text(json.dumps({"time": time.time() - ago, "host": host, "pid": pid}))


def test_what_an_earlier_command_left_writes_no_more(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    _ray_owner.take_over(folder, "first")
    guard()
    _ray_owner.take_over(folder, "second")
    guard()
    monkeypatch.setenv(OWNER, "first")
    with pytest.raises(Fenced, match="taken over by job second"):
        guard()


def test_one_whose_process_is_gone_is_not_waited_for(folder: RunFolder) -> None:
    pid = next(n for n in range(2**22, 1, -1) if not psutil.pid_exists(n))
    beat(folder, socket.gethostname(), pid)
    _ray_owner.until_silent(folder)
    beat(folder, "another", 1, ago=_ray_owner.FRESH_S + 1)
    _ray_owner.until_silent(folder)


def test_one_that_is_at_work_elsewhere_is_not_disturbed(folder: RunFolder) -> None:
    beat(folder, "another", os.getpid(), ago=1)
    again = threading.Timer(0.1, beat, (folder, "another", os.getpid()))
    again.start()
    with pytest.raises(ConfigError, match="a command on another is at work in this folder"):
        _ray_owner.take_over(folder, "mine")
    assert not folder.owner.exists()
