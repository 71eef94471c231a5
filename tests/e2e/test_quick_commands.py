"""The commands that answer at once: what would make them slow is not imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.command import environment

HEAVY = {"torch", "mlflow", "pandas", "sklearn", "transformers", "sqlalchemy"}
CONFIGURED = ("recipe=image_classification", "run.dir=run")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("--help",), "usage: python -m trainkit recipe=NAME"),
        (("--version",), r"\d+\.\d+\.\d+"),
        (("ls",), "image_classification +Handwritten digits"),
        (("env",), "torch +2"),
        (("validate", *CONFIGURED), "image_classification: OK"),
        (("validate", "recipe=llm_pretrain", "run.dir=run"), "llm_pretrain: OK"),
        (("config", *CONFIGURED), "_target_: recipes.image_classification.ImageClassification"),
        (("completion", "bash"), r"checkpoint\) words=\"inspect verify export import\""),
        (("--cfg", "job", *CONFIGURED), "global_batch: 64"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_answers_without_torch_and_mlflow(tmp_path: Path, words: tuple[str, ...], answer: str) -> None:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "trainkit", *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    assert re.search(answer, process.stdout)
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "trainkit.cli.main" in imported  # or the next line would say nothing
    assert imported & HEAVY == set()
    assert list(tmp_path.iterdir()) == []
