"""`top` on a terminal of its own, while a run of two ranks trains, and when it has ended."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.command import NOT_TRACKED, TWO, WORDS, Running, Terminal, done, until

pytestmark = pytest.mark.slow
RANK = re.compile(r"([01]) +\S+ +(\d+) +(training|saving|evaluating) +\d+ s +([\d.]*) +([\d.e-]*) +[\d.]+ GiB")


def test_top_follows_a_run_until_it_is_left(tmp_path: Path) -> None:
    running = Running(tmp_path, *WORDS, *TWO, *NOT_TRACKED, "train.epochs=2000")
    running.reach(20)
    top = Terminal(tmp_path, "top", "run")

    def steps(rank: str) -> set[str]:
        top._read()
        return {found[1] for found in RANK.findall(top.text) if found[0] == rank}

    until(lambda: len(steps("0")) > 2 and len(steps("1")) > 2, lambda: running.front.poll() is None)
    assert any(found[4] for found in RANK.findall(top.text))  # seconds that it waited for data
    assert any(found[3] for found in RANK.findall(top.text))  # seconds per step
    top.see("run: running")
    plain = done(tmp_path, "top", "run")  # for a script: once
    assert plain.count("training") >= 1 and "\x1b" not in plain
    top.type(b"q")
    assert top.wait() == 0
    running.front.terminate()
    assert running.wait() == 75
    told = json.loads((running.run / "logs/ranks.json").read_text())
    assert [rank["rank"] for rank in told["ranks"]] == [0, 1]
    over = Terminal(tmp_path, "top", "run")
    assert over.wait() == 0  # by itself
    assert "run: stopped" in over.text
