"""What `trainkit plan` prints: no GPU, no values, hence the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.cli.main import main

GOLDEN = Path(__file__).parent / "plan.txt"
WORDS = ["recipe=image_classification", "cluster=cpu"]


def test_the_plan_of_a_small_model_is_the_committed_one(
    write_golden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # the shipped files alone, whatever the working directory has
    assert main(["plan", *WORDS]) == 0
    text = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
    if write_golden:
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), f"if {GOLDEN} is to change: make golden, and commit the difference"
    assert list(tmp_path.iterdir()) == []
