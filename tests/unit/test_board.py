"""What the agent writes of the ranks, and what a person is shown of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trainkit.board import EVERY_S, Board, Standing, read
from trainkit.console.board import view
from trainkit.launcher._ranks import Place
from trainkit.resilience.pulse import Pulse
from trainkit.runfolder import RunFolder, append_line


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "logs").mkdir()
    return RunFolder(tmp_path)


def shown(folder: RunFolder, height: int = 24, width: int = 100) -> list[str]:
    console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(view(folder, "running", height))
    return console.export_text().splitlines()


def test_it_tells_where_each_rank_is_and_how_fast(folder: RunFolder) -> None:
    pulse, board, now = Pulse(2), Board(folder), time.monotonic()
    assert board.due() and read(folder) == (0.0, 0, [])
    for rank in (0, 1):
        pulse.beat(rank, 10, "training", at=now - 12)
    board.write(1, pulse.all(), [Place("n1", 2**30, 2**31), Place("n2", 2**29, None)])
    assert not board.due()
    pulse.beat(0, 14, "training", 0.5, now - 2)
    pulse.beat(1, 14, "saving", at=now - 4)
    board.write(1, pulse.all(), [Place("n1", 2**30, 2**31), Place("n2", 2**29, None)])
    at, attempt, ranks = read(folder)
    assert time.time() - at < 5 and attempt == 1
    late: Any = pytest.approx(2, abs=0.5)
    assert ranks[0] == Standing(0, "n1", 14, "training", late, 2.5, 2**30, wait=0.125, gpu=2**31)
    assert (ranks[1].section, ranks[1].pace, ranks[1].memory, ranks[1].gpu) == ("saving", 2.0, 2**29, None)
    assert ranks[1].wait == 0.0  # it goes on where no beat tells of it
    pulse.beat(0, 20, "training")
    board.write(2, pulse.all(), [Place("n1", 0, None)] * 2)  # a new attempt: what was before does not count
    assert [rank.pace for rank in read(folder)[2]] == [None, None]
    assert [path.name for path in (folder.root / "logs").iterdir()] == ["ranks.json"]


def test_it_is_not_written_often() -> None:
    assert EVERY_S >= 1


def test_a_disk_that_is_away_disturbs_nothing(tmp_path: Path) -> None:
    Board(RunFolder(tmp_path / "gone")).write(1, Pulse(1).all(), [Place("n", 0, None)])
    assert not (tmp_path / "gone").exists()


def write(folder: RunFolder, ranks: int, **steps: int) -> None:
    pulse = Pulse(ranks)
    for rank in range(ranks):
        pulse.beat(rank, steps.get(f"rank_{rank}", 100), "training")
    Board(folder).write(3, pulse.all(), [Place(f"n{rank // 8}", 2**30, None) for rank in range(ranks)])


def test_a_rank_is_a_line_with_what_is_wrong_with_it(folder: RunFolder) -> None:
    folder.event("start", step=0, total_steps=500, attempt=3)
    folder.event("straggler", step=50, rank=1, host="n0", what="compute", seconds=0.4, usual=0.2)
    append_line(
        folder.metrics, {"step": 99, "loss": 1.5, "tokens_per_second": 5000, "memory_mb": 2048, "data_wait": 0.1}
    )
    write(folder, 3, rank_2=97)
    lines = shown(folder)
    assert "step 99/500  loss 1.5000  5.0k tok/s  rank 0: 2.0 GiB, waits 0.1 s for data" in lines[1]
    ranks = [line.split() for line in lines if line.split()[:1] in (["0"], ["1"], ["2"])]
    assert ranks[0] == ["0", "n0", "100", "training", "0", "s", "1.0", "GiB"]
    assert " ".join(ranks[1][8:]) == "slow: 0.4 s, the others 0.2 s"
    assert " ".join(ranks[2][8:]) == "3 steps behind"
    assert "straggler" in lines[-1]


def test_memory_of_gpus_has_a_column_where_there_is_some(folder: RunFolder) -> None:
    write(folder, 1)
    assert "GPU" not in shown(folder)[2]
    pulse, board = Pulse(1), Board(folder)
    for step, waited in ((10, 1.0), (20, 2.0)):
        pulse.beat(0, step, "training", waited, at=float(step))
        board.write(3, pulse.all(), [Place("n0", 2**30, 3 * 2**30)])
    header, rank = shown(folder)[2:4]
    assert header.split()[-4:] == ["s/step", "waits", "memory", "GPU"]
    assert rank.split()[-6:] == ["1", "0.1", "1.0", "GiB", "3.0", "GiB"]


def test_of_a_thousand_ranks_those_are_shown_that_hold_the_others_up(folder: RunFolder) -> None:
    write(folder, 1000, rank_777=42)
    lines = shown(folder, height=24)
    assert len(lines) <= 24
    assert [line.split()[0] for line in lines].index("777") == 3  # first of all
    assert any(line.split() == ["...", "990", "more"] for line in lines)


def test_ranks_that_nothing_is_heard_of(folder: RunFolder) -> None:
    assert "nothing was heard of its ranks yet" in shown(folder)[1]
    write(folder, 1)
    text = folder.ranks.read_text()
    folder.ranks.write_text(text.replace(f'"time":{text.split(":")[1].split(",")[0]}', f'"time":{time.time() - 90}'))
    lines = shown(folder)
    assert "attempt 3; its ranks were heard of 1 min 30 s ago" in lines[1]
    assert "1 min 30 s" in lines[3]
