"""How busy the machines of a run are: the journal, and what a person is shown of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.unit.test_board import shown, write
from trainkit import system
from trainkit.errors import Fenced
from trainkit.runfolder import RunFolder, append_line, own, read_lines, replace_text
from trainkit.system import SystemLog, busy, gpus


def load(cpu: float, *cards: float) -> dict[str, float]:
    return {
        "cpu_utilization_percentage": cpu,
        "system_memory_usage_percentage": 25.0,
        "network_receive_megabytes_per_second": 1.25,
        "network_transmit_megabytes_per_second": 0.5,
        **{f"gpu_{n}_utilization_percentage": value for n, value in enumerate(cards)},
    }


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "logs").mkdir()
    return RunFolder(tmp_path)


class Two:
    """Machines of which each has its load; `answered`: those that have answered."""

    def __init__(self, **answered: dict[str, float]) -> None:
        self.answered, self.asked = answered, 0

    def measure(self) -> None:
        self.asked += 1

    def loads(self) -> dict[str, dict[str, float]]:
        return self.answered


class Clock:
    """time, as far as SystemLog knows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(system.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(system.time, "time", lambda: 1000.0 + self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def looked(log: SystemLog, clock: Clock, machines: Two, until: float) -> None:
    """As the agent does."""
    while clock.now < until:
        clock.now += 0.25
        log.look(machines)


def times(folder: RunFolder) -> list[float]:
    return [row["time"] for row in read_lines(folder.system)]


def test_machines_are_asked_every_so_many_seconds_and_answer_for_that_time(folder: RunFolder, clock: Clock) -> None:
    log, machines = SystemLog(folder, 10.0), Two(n1=load(50.0), n2={})
    looked(log, clock, machines, 10.0)
    assert machines.asked == 1 and not folder.system.exists()
    looked(log, clock, machines, 35.0)
    assert times(folder) == [1010.0, 1020.0, 1030.0]
    assert [row["sample"] for row in read_lines(folder.system)] == [1, 2, 3]
    assert all(row["machines"] == {"n1": load(50.0)} for row in read_lines(folder.system))  # n2 has not answered


def test_never_is_never(folder: RunFolder, clock: Clock) -> None:
    machines = Two(n1=load(50.0))
    looked(SystemLog(folder, None), clock, machines, 100.0)
    assert (machines.asked, folder.system.exists()) == (0, False)


def test_many_machines_are_asked_less_often(folder: RunFolder, clock: Clock) -> None:
    looked(SystemLog(folder, 10.0), clock, Two(**{f"n{n}": load(1.0) for n in range(32)}), 125.0)
    assert times(folder) == [1010.0, 1050.0, 1090.0]


def sampled(folder: RunFolder, clock: Clock, **loads: dict[str, float]) -> SystemLog:
    """One sample more."""
    log = SystemLog(folder, 1.0)
    looked(log, clock, Two(**loads), clock.now + 1.5)
    return log


def test_a_row_after_half_of_one_is_whole(folder: RunFolder, clock: Clock) -> None:
    sampled(folder, clock, n1=load(1.0))
    with folder.system.open("a") as f:
        f.write('{"time": 1')
    sampled(folder, clock, n2=load(2.0))
    rows = [*read_lines(folder.system)]
    assert [(row["sample"], *row["machines"]) for row in rows] == [(1, "n1"), (2, "n2")]


def test_where_nobody_has_answered_nothing_is_written(folder: RunFolder, clock: Clock) -> None:
    sampled(folder, clock)
    assert not folder.system.exists()


@pytest.mark.parametrize("damage", ["no JSON\n", "[]\n", "{}\n"])
def test_a_journal_that_is_damaged_keeps_no_run_from_starting(damage: str, folder: RunFolder, clock: Clock) -> None:
    folder.system.write_text(damage)
    SystemLog(folder, None)
    sampled(folder, clock, n1=load(1.0))
    assert len(folder.system.read_text().splitlines()) == 2


def test_a_disk_that_is_away_disturbs_nothing(tmp_path: Path, clock: Clock) -> None:
    log = sampled(RunFolder(tmp_path / "gone"), clock, n1=load(1.0))
    assert not (tmp_path / "gone").exists()
    (tmp_path / "gone/logs").mkdir(parents=True)
    looked(log, clock, Two(n1=load(1.0)), clock.now + 1.5)
    assert [row["sample"] for row in read_lines(RunFolder(tmp_path / "gone").system)] == [1]


def test_a_job_that_has_lost_the_run_writes_nothing(
    folder: RunFolder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {})
    own(folder, "1.0")
    replace_text(folder.owner, "1.1")
    with pytest.raises(Fenced):
        sampled(folder, clock, n1=load(1.0))
    assert not folder.system.exists()


def test_gpus_say_how_busy_a_machine_is_where_there_are_some() -> None:
    assert gpus(load(10.0, 90.0, 70.0)) == [90.0, 70.0]
    assert (busy(load(10.0, 90.0, 70.0)), busy(load(10.0))) == (80.0, 10.0)


def test_the_machines_of_the_ranks_are_lines_those_that_are_idle_first(folder: RunFolder) -> None:
    write(folder, 24)  # on n0, n1 and n2
    loads = {"n0": load(97.0), "n1": load(12.0), "n2": load(3.0, 88.0, 90.0), "other": load(0.0)}
    append_line(folder.system, {"time": 1.0, "machines": {"n0": load(1.0)}})
    append_line(folder.system, {"time": time.time(), "machines": loads})
    lines = shown(folder, height=60)
    assert lines[-3:] == [
        "n1: CPU 12%  memory 25%  network 1.25 in, 0.5 out MiB/s",
        "n2: GPU 88% 90%  CPU 3%  memory 25%  network 1.25 in, 0.5 out MiB/s",
        "n0: CPU 97%  memory 25%  network 1.25 in, 0.5 out MiB/s",
    ]


def test_how_long_ago_that_was_is_told(folder: RunFolder) -> None:
    write(folder, 1)
    append_line(folder.system, {"time": time.time() - 300, "machines": {"n0": load(97.0)}})
    assert shown(folder)[-1] == "n0: CPU 97%  memory 25%  network 1.25 in, 0.5 out MiB/s  (5 min 0 s ago)"


def test_of_a_thousand_machines_the_idle_ones_are_shown(folder: RunFolder) -> None:
    write(folder, 8000)
    loads = {f"n{n}": load(5.0 if n == 777 else 90.0) for n in range(1000)}
    append_line(folder.system, {"time": 1.0, "machines": {}})
    append_line(folder.system, {"time": time.time(), "machines": loads})
    lines = shown(folder)
    assert len(lines) <= 24
    assert lines[-5].startswith("n777: CPU 5%") and lines[-1] == "... 996 more machines, which are busier"
    assert len(json.dumps(loads)) > 100_000
