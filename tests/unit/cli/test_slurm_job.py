"""What `slurm job` does before and after the run, with commands of Slurm that only note what they are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import write
from tests.unit.launcher.test_slurm import PLAIN
from trainkit import front
from trainkit.cli.main import main
from trainkit.cli.run import prepare
from trainkit.cli.slurm import job as slurm_job
from trainkit.cli.slurm.job import Life
from trainkit.errors import ConfigError
from trainkit.launcher._takeover import Job
from trainkit.launcher.slurm import Slurm
from trainkit.runfolder import OWNER, RunFolder, read_lines
from trainkit.settings import Settings

DOWN = 'echo "Unable to contact slurm controller (connect failure)" >&2; exit 1'
STOPPED = 75


@pytest.fixture(autouse=True)
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv(OWNER, "")  # undone after the test
    monkeypatch.setenv(f"{OWNER}_FILE", "")
    monkeypatch.setenv("TRAINKIT_SCRIPT", f"{tmp_path}/run/job.sbatch")
    monkeypatch.setattr(slurm_job, "PATIENCE_S", 0.2)
    monkeypatch.setattr(slurm_job, "LOOK_S", 0.05)
    write(tmp_path / "run/job.sbatch", "")


def says(folder: Path, **scripts: str) -> None:
    for name, text in scripts.items():
        write(folder / "bin" / name, f"#!/bin/sh\necho $(basename $0) $* >> {folder}/said\n{text}\n")
        (folder / "bin" / name).chmod(0o755)


def life(folder: Path, **launcher: Any) -> Life:
    words = ["recipe=image_classification", "strategy=local", "tracker=none", "train.device=cpu", "launcher.ranks=1"]
    _, settings, _ = prepare([*words, f"run.dir={folder}/run"])
    asked: Slurm = replace(PLAIN, **launcher)
    return Life(Job(number="17", life=0, before=None), RunFolder(folder / "run"), settings, asked)


def known(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run/job.json").read_text()))


def stopped(here: Life) -> int:
    """It was warned, and has saved; how many events there were before."""
    begun = len(here.folder.events.read_text().splitlines()) if here.folder.events.exists() else 0
    here.folder.event("launch")
    here.folder.event("stop", step=7)
    return begun


def test_a_controller_that_is_down_at_the_start_is_asked_again_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says(tmp_path, sbatch=DOWN, squeue=DOWN, scontrol=DOWN)
    here = life(tmp_path, restart="chain")
    assert here.begin([])
    assert "warning: no job waits for the end of this one: Slurm does not answer" in capsys.readouterr().err
    assert known(tmp_path)["successor"] is None
    begun = stopped(here)
    says(tmp_path, sbatch="echo 18")
    here.end(STOPPED, begun)
    assert "job 18 goes on" in capsys.readouterr().out
    assert known(tmp_path)["successor"] == "18"


def test_a_controller_that_is_back_soon_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_job, "PATIENCE_S", 60.0)
    once = f"[ -e {tmp_path}/asked ] && echo 18 && exit\ntouch {tmp_path}/asked\n{DOWN}"
    says(tmp_path, sbatch=once, squeue=DOWN, scontrol=DOWN)
    assert life(tmp_path, restart="chain").begin([])
    assert known(tmp_path)["successor"] == "18"


def test_that_the_end_finds_nobody_either_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says(tmp_path, sbatch=DOWN, squeue=DOWN, scontrol=DOWN)
    here = life(tmp_path, restart="chain")
    assert here.begin([])
    says(tmp_path, sbatch="echo too many jobs >&2; exit 1")
    here.end(STOPPED, stopped(here))
    told = capsys.readouterr().err
    assert "too many jobs" in told
    assert "submit it anew" in told


@pytest.mark.parametrize(
    ("scontrol", "told"),
    [
        ("echo JobState=COMPLETING Reason=TimeLimit", "job 17 is queued again"),
        ("[ $1 = requeue ] || exit 1", "job 17 is queued again"),  # nobody says that a person did it
        ("echo JobState=COMPLETING Reason=None", "job 17 was cancelled, so it does not start"),
    ],
)
def test_a_job_that_slurm_ends_at_its_time_limit_is_not_cancelled(
    scontrol: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says(tmp_path, squeue="echo '17|COMPLETING|node1'", scontrol=scontrol)
    here = life(tmp_path)
    here.begin([])
    here.end(STOPPED, stopped(here))
    assert told in capsys.readouterr().out
    assert ("scontrol requeue 17" in (tmp_path / "said").read_text()) == ("queued again" in told)


def test_a_checkpoint_that_a_failure_left_gives_no_budget_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is one after every failure."""
    says(tmp_path, squeue="", scontrol="echo JobState=RUNNING")
    here, saved = life(tmp_path), [100]
    monkeypatch.setattr(slurm_job, "committed", lambda folder: saved)
    assert here.begin([])
    for step, what in ((107, "queued again"), (110, "launcher.restarts.crash=1 without a new checkpoint")):
        begun = len([*read_lines(here.folder.events)])
        here.folder.event("failure", cause="raised", step=step, message=f"it broke at {step}")
        here.folder.event("save", step=step, rescued_by=1)
        saved.append(step)
        here.end(1, begun)
        assert what in capsys.readouterr().out
    here.folder.event("save", step=200)
    saved.append(200)
    assert here.against("crash") == ""


def test_a_refusal_at_the_start_is_one(tmp_path: Path) -> None:
    says(tmp_path, sbatch="echo invalid account >&2; exit 1", squeue="", scontrol="exit 1")
    with pytest.raises(ConfigError, match="invalid account"):
        life(tmp_path, restart="chain").begin([])


def test_the_warning_counts_whatever_run_signals_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(tmp_path, squeue="", scontrol="exit 1")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    given: list[Sequence[str]] = []

    def run(config: Any, settings: Settings, *more: Any) -> int:
        given.append(settings.run.signals)
        return 0

    monkeypatch.setattr(front, "run", run)
    for signals in ("[HUP]", "[USR1,USR2]"):
        words = ["recipe=image_classification", "strategy=local", "tracker=none", "train.device=cpu"]
        more = [f"run.dir={tmp_path}/run", f"run.signals={signals}", "launcher.ranks=1"]
        assert main(["slurm", "job", *words, *more]) == 0
    assert [*map(list, given)] == [["HUP", "USR2"], ["USR1", "USR2"]]
