"""How busy the machines of a run are: the journal, and what a person is shown of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.test_board import shown, write
from trainkit.runfolder import Fenced, RunFolder, append_line, own, read_lines, replace_text
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


def test_it_is_due_every_so_many_seconds_or_never(folder: RunFolder) -> None:
    log = SystemLog(folder, 1e-9)
    assert log.due()
    log.write({"n1": load(50.0)})
    assert not SystemLog(folder, 60.0).due()
    assert not SystemLog(folder, None).due()
    (row,) = read_lines(folder.system)
    assert row["machines"] == {"n1": load(50.0)}


def test_a_row_after_half_of_one_is_whole(folder: RunFolder) -> None:
    SystemLog(folder, 1.0).write({"n1": {}})
    with folder.system.open("a") as f:
        f.write('{"time": 1')
    SystemLog(folder, 1.0).write({"n2": {}})
    rows = [*read_lines(folder.system)]
    assert [(row["sample"], *row["machines"]) for row in rows] == [(1, "n1"), (2, "n2")]


def test_where_nobody_has_answered_nothing_is_written(folder: RunFolder) -> None:
    SystemLog(folder, 1.0).write({})
    assert not folder.system.exists()


def test_a_disk_that_is_away_disturbs_nothing(tmp_path: Path) -> None:
    log = SystemLog(RunFolder(tmp_path / "gone"), 1.0)
    log.write({"n1": {}})
    assert not (tmp_path / "gone").exists()
    (tmp_path / "gone/logs").mkdir(parents=True)
    log.write({"n1": {}})
    assert [row["sample"] for row in read_lines(RunFolder(tmp_path / "gone").system)] == [1]


def test_a_job_that_has_lost_the_run_writes_nothing(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SystemLog(folder, 1.0)
    monkeypatch.setattr("os.environ", {})
    own(folder, "1.0")
    replace_text(folder.owner, "1.1")
    with pytest.raises(Fenced):
        log.write({"n1": {}})
    assert not folder.system.exists()


def test_gpus_say_how_busy_a_machine_is_where_there_are_some() -> None:
    assert gpus(load(10.0, 90.0, 70.0)) == [90.0, 70.0]
    assert (busy(load(10.0, 90.0, 70.0)), busy(load(10.0))) == (80.0, 10.0)


def test_the_machines_of_the_ranks_are_lines_those_that_are_idle_first(folder: RunFolder) -> None:
    write(folder, 24)  # on n0, n1 and n2
    loads = {"n0": load(97.0), "n1": load(12.0), "n2": load(3.0, 88.0, 90.0), "other": load(0.0)}
    append_line(folder.system, {"time": 1.0, "machines": {"n0": load(1.0)}})
    append_line(folder.system, {"time": 2.0, "machines": loads})
    lines = shown(folder, height=60)
    assert lines[-3:] == [
        "n1: CPU 12%  memory 25%  network 1.25 in, 0.5 out MiB/s",
        "n2: GPU 88% 90%  CPU 3%  memory 25%  network 1.25 in, 0.5 out MiB/s",
        "n0: CPU 97%  memory 25%  network 1.25 in, 0.5 out MiB/s",
    ]


def test_of_a_thousand_machines_the_idle_ones_are_shown(folder: RunFolder) -> None:
    write(folder, 8000)
    loads = {f"n{n}": load(5.0 if n == 777 else 90.0) for n in range(1000)}
    append_line(folder.system, {"time": 1.0, "machines": {}})
    append_line(folder.system, {"time": 2.0, "machines": loads})
    lines = shown(folder)
    assert len(lines) <= 24
    assert lines[-5].startswith("n777: CPU 5%") and lines[-1] == "... 996 more machines, which are busier"
    assert len(json.dumps(loads)) > 100_000
