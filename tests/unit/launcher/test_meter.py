"""What is said of how busy this machine is, held against what is done to it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from trainkit.launcher import _meter
from trainkit.launcher._meter import Meter


def test_a_processor_that_works_is_seen(tmp_path: Path) -> None:
    meter, until, used = Meter(tmp_path), time.monotonic() + 0.5, os.times()
    while time.monotonic() < until:
        pass
    mine = sum(os.times()[:2]) - sum(used[:2])
    assert meter.read()["cpu_utilization_percentage"] >= 50 * mine / 0.6 / psutil.cpu_count()


def test_what_there_is_of_memory_and_disk(tmp_path: Path) -> None:
    load, disk, memory = Meter(tmp_path).read(), os.statvfs(tmp_path), psutil.virtual_memory()
    assert load["disk_available_megabytes"] == pytest.approx(disk.f_bavail * disk.f_frsize / 2**20, abs=512)
    used = load["system_memory_usage_megabytes"]
    assert used == pytest.approx((memory.total - memory.available) / 2**20, abs=512)
    assert load["system_memory_usage_percentage"] == pytest.approx(100 * used * 2**20 / memory.total, abs=1)


@pytest.mark.parametrize("disk", ["gone", None])
def test_a_disk_that_is_away_or_not_to_be_looked_at_is_left_out(disk: str | None, tmp_path: Path) -> None:
    load = Meter(None if disk is None else tmp_path / disk).read()
    assert "cpu_utilization_percentage" in load and "disk_available_megabytes" not in load


def test_what_stays_on_this_machine_is_no_network(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    before = psutil.net_io_counters(pernic=True)["lo"].bytes_recv
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as here:
        there, _ = door.accept()
        for _ in range(64):
            here.sendall(bytes(2**20))
            got = 0
            while got < 2**20:
                got += len(there.recv(2**20))
        there.close()
    assert psutil.net_io_counters(pernic=True)["lo"].bytes_recv - before >= 64 * 2**20
    assert meter.read()["network_receive_megabytes_per_second"] < 64  # it took less than a second


def test_traffic_is_told_per_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([(0, 2**20), (30 * 2**20, 16 * 2**20), (0, 0)])
    monkeypatch.setattr(_meter, "_carried", lambda: next(counts))
    monkeypatch.setattr(_meter.time, "monotonic", iter([9.0, 10.0, 15.0, 16.0]).__next__)
    meter = Meter(tmp_path)
    told = [meter.read()["network_receive_megabytes_per_second"] for _ in range(2)]
    assert told == [6.0, 0.0]  # a card that is new counts from 0


def test_a_bond_and_its_cards_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are hardware count; where none is, as in a container, all but the loopback."""
    cards = {
        name: SimpleNamespace(bytes_recv=n, bytes_sent=10 * n) for n, name in enumerate(("lo", "e0", "e1", "bond"))
    }
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: cards)
    monkeypatch.setattr(_meter, "CARDS", tmp_path)
    assert _meter._carried() == (6, 60)
    for name in ("e0", "e1"):
        (tmp_path / name / "device").mkdir(parents=True)
    assert _meter._carried() == (3, 30)


def test_a_machine_that_does_not_tell_disturbs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", lacks)
    assert Meter(tmp_path).read() == {}
