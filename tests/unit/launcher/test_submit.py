"""Handing a run to Slurm, with an sbatch that only notes what it is given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import write
from trainkit.cli.main import main
from trainkit.launcher._takeover import chainable
from trainkit.runfolder import RunFolder

RUN = ("recipe=image_classification", "strategy=local", "tracker=none", "train.device=cpu")
SBATCH = 'echo "$@" >> sbatch.said; for last; do :; done; cat "$last" >> sbatch.script; echo 17'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    sbatch(tmp_path, monkeypatch, SBATCH)
    return tmp_path


def sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    write(folder / "bin/sbatch", f"#!/bin/sh\n{text}\n")
    (folder / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")


def test_a_run_is_submitted_from_inside_a_job(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    monkeypatch.setenv("TRAINKIT_JOB_BEFORE", "8")
    sbatch(here, monkeypatch, f"env > sbatch.env; {SBATCH}")
    assert main(["slurm", "submit", *RUN, "launcher.nodes=2", "strategy=ddp", "run.dir=run"]) == 0
    assert not re.findall("SLURM|TRAINKIT_JOB_BEFORE", (here / "sbatch.env").read_text())
    assert "job 17 is submitted" in capsys.readouterr().out
    assert main(["slurm", "render", *RUN, "launcher.nodes=2", "strategy=ddp", "run.dir=run"]) == 0
    for script in ((here / "run/job.sbatch").read_text(), capsys.readouterr().out):
        assert "#SBATCH --nodes=2\n" in script
        assert "launcher.submit" not in script


def test_a_script_that_is_submitted_by_hand_writes_where_that_is_typed(
    here: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    """Slurm ends a job at once whose output is to go into a folder that is not there."""
    assert main(["slurm", "render", *RUN, "run.dir=run"]) == 0
    assert "#SBATCH --output=slurm-%j.out\n" in capsys.readouterr().out
    assert main(["slurm", "render", *RUN, "run.dir=run", "launcher.sweep=['train.seed=1']"]) == 0
    assert "#SBATCH --output=slurm-%A_%a.out\n" in capsys.readouterr().out
    assert not (here / "run").exists()
    assert main(["slurm", "submit", *RUN, "run.dir=run"]) == 0
    assert f"#SBATCH --output={here}/run/logs/slurm-%j.out\n" in (here / "run/job.sbatch").read_text()


def test_what_is_submitted_by_hand_is_not_chained(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    """The next job would not have the options that were typed after sbatch."""
    chain = ("launcher=slurm", "launcher.restart=chain")
    assert main(["slurm", "render", *RUN, *chain]) == 2
    assert "launcher.restart=chain" in (refused := capsys.readouterr().err)
    assert main(["slurm", "submit", *RUN, *chain, "run.dir=run"]) == 0
    assert f"export TRAINKIT_SCRIPT={here}/run/job.sbatch\n" in (here / "run/job.sbatch").read_text()
    (here / "sbatch.said").unlink()
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    monkeypatch.setenv("TRAINKIT_SCRIPT", str(here / "other/job.sbatch"))  # of the job around it
    capsys.readouterr()
    assert main(["slurm", "job", *RUN, *chain, f"run.dir={here}/run"]) == 2
    assert capsys.readouterr().err == refused
    assert not (here / "sbatch.said").exists()
    assert not (here / "run/logs/owner").exists()
    monkeypatch.setenv("TRAINKIT_SCRIPT", str(here / "run/job.sbatch"))
    chainable(RunFolder(here / "run"))


def test_members_of_a_sweep_are_checked_before_anything_is_submitted(
    here: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    sweep = "launcher.sweep=['train.seed=1','train.sed=2','train.steps=3 train.epochs=4']"
    assert main(["slurm", "submit", *RUN, "run.dir=run", sweep]) == 2
    told = capsys.readouterr().err
    assert "train.sed=2: in member 1 of launcher.sweep: " in told
    assert "train.steps=3: in member 2 of launcher.sweep: exactly one of" in told
    assert "member 0" not in told
    assert main(["slurm", "submit", *RUN, "run.dir=run", """launcher.sweep=["train.seed=1 'x"]"""]) == 2
    assert "launcher.sweep=train.seed=1 'x: is no line of words: No closing quotation" in capsys.readouterr().err
    write(here / "run/1/summary.json", '{"status": "done"}')
    write(here / "run/2/summary.json", '{"status": "done"}')
    assert main(["slurm", "submit", *RUN, "run.dir=run", sweep]) == 0  # those two need not run
    assert "members 0" in capsys.readouterr().out


def test_nothing_is_left_of_what_sbatch_refuses(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    sbatch(here, monkeypatch, "echo invalid account >&2; exit 1")
    assert main(["slurm", "submit", *RUN, "run.dir=runs/a"]) == 2
    assert "sbatch refuses the job: invalid account" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["bin"]
    sbatch(here, monkeypatch, "echo Unable to contact slurm controller >&2; exit 1")
    assert main(["slurm", "submit", *RUN, "run.dir=runs/b"]) == 2
    assert "Slurm does not answer" in capsys.readouterr().err
    assert (here / "runs/b/logs").is_dir()  # it may have taken the job all the same
    sbatch(here, monkeypatch, "echo invalid account >&2; exit 1")
    write(here / "runs/a/job.sbatch", "of the job before")
    assert main(["slurm", "submit", *RUN, "run.dir=runs/a"]) == 2
    assert (here / "runs/a/job.sbatch").read_text() == "of the job before"
    assert [path.name for path in (here / "runs/a").iterdir()] == ["job.sbatch"]
