"""The real command: where the time of a few steps goes, on one rank and on two."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.command import TWO, done, trainkit

pytestmark = pytest.mark.slow
WORDS = ("profile", "recipe=image_classification", "train.device=cpu")
PHASES = ("data", "forward", "backward", "communication", "optimizer", "checkpoint", "other")


def shares(said: str) -> dict[str, list[float]]:
    """Of each phase, by rank."""
    rows = [line.split() for line in said.splitlines() if line.split()[:1] and line.split()[0] in PHASES]
    return {name: [float(value.rstrip("%")) for value in values] for name, *values in rows}


def test_two_ranks_and_what_they_tell_each_other(tmp_path: Path) -> None:
    said = done(tmp_path, *WORDS, *TWO, "--ranks", "all", "--steps", "6", "run.dir=run")
    assert re.search(r"^6 steps of [\d.]+ ms$", said, re.M)
    found = shares(said)
    assert [*found] == [*PHASES]
    for rank in (0, 1):
        assert sum(share[rank] for share in found.values()) == pytest.approx(100, abs=0.5)
        assert found["communication"][rank] > 0 and found["backward"][rank] > 0
        trace = tmp_path / "run/profile" / f"rank_{rank}.json"
        assert f"trace  {trace}" in said
        names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
        assert sum(name.startswith("ProfilerStep#") for name in names) == 6
        assert any("all_reduce" in name or "allreduce" in name for name in names)
    assert len(re.findall(r" ms +[\d.]+%$", said, re.M)) == 10
    assert not (tmp_path / "run/model").exists() and not [*(tmp_path / "run").glob("checkpoints/step_*")]


def test_one_file_and_no_folder_is_left(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    said = trainkit(tmp_path, *WORDS, "--to", "trace.json", TMPDIR=str(tmp_path / "temporary"))
    assert said.returncode == 0, said.stdout + said.stderr
    assert shares(said.stdout)["communication"] == [0.0]
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary", "trace.json"]
    assert not [*(tmp_path / "temporary").glob("trainkit*")]
