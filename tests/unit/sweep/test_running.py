"""Asking a sweep to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainkit.sweep.record import SweepFolder
from trainkit.sweep.running import Requests


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_file_and_a_schedulers_signal_ask_once_and_ctrl_c_counts(tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()  # left by a sweep that was killed
    requests = Requests(SweepFolder(tmp_path), ["USR2"])
    assert requests.count == 0
    (tmp_path / "STOP").touch()
    assert requests.count == 1
    assert requests.count == 1  # others who work on the sweep are to see it, too
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGINT)
    assert requests.count == 1
    os.kill(os.getpid(), signal.SIGTERM)
    assert requests.count == 2
    os.kill(os.getpid(), signal.SIGHUP)
    assert requests.count == 2
