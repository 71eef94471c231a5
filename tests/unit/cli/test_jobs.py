"""Where a run stands, from its folder and from what Slurm says, if it can be asked."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import write
from trainkit.cli.jobs.state import runs, standings
from trainkit.cli.main import main
from trainkit.runfolder import RunFolder

ROOT = Path(__file__).parents[3]
OLD = time.time() - 4000


@pytest.fixture(autouse=True)
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def slurm(tmp_path: Path, said: str) -> None:
    """A Slurm whose queue is what it `said`, and that knows no other job."""
    for name, text in {"squeue": f"echo '{said}'", "scontrol": "echo Invalid job id specified >&2; exit 1"}.items():
        write(tmp_path / "bin" / name, f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)


def folder(tmp_path: Path, *events: str, job: str | None = None, status: str | None = None) -> RunFolder:
    """A run in which `events` happened, one a minute; the last one an hour ago."""
    made = RunFolder(tmp_path / "runs/a")
    write(made.config, "name: a\n")
    rows = [{"event": kind, "time": OLD + 60 * n} for n, kind in enumerate(events)]
    write(made.events, "".join(json.dumps(row) + "\n" for row in rows))
    os.utime(made.events, (OLD, OLD))
    if job is not None:
        write(made.job, json.dumps({"job": job, "submitted": OLD}))
    if status is not None:
        write(made.summary, json.dumps({"status": status}))
    return made


def state(run: RunFolder) -> tuple[str, str]:
    (found,) = standings([run.root])
    return found.state, found.note


def test_its_own_word_is_enough(tmp_path: Path) -> None:
    assert state(folder(tmp_path, "launch", "end", job="17", status="done")) == ("done", "")


def test_a_sign_of_life_is_enough(tmp_path: Path) -> None:
    run = folder(tmp_path, "launch", "end", "requeue", "launch", job="17")
    write(run.heartbeat, "{}")
    assert state(run)[0] == "running"


def test_a_lock_on_this_machine_is_enough(tmp_path: Path) -> None:
    run = folder(tmp_path, "launch")
    write(run.command_lock, "")
    assert state(run)[0] == "lost"
    with run.command_lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert state(run)[0] == "running"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("17|PENDING|Resources", ("queued", "Resources")),
        ("17|RUNNING|node3", ("running", "Slurm: RUNNING node3; heard of never")),
        ("17|NODE_FAIL|", ("lost", "Slurm: NODE_FAIL; heard of never")),
        ("18|RUNNING|node3", ("lost", "Slurm no longer knows job 17; heard of never")),
    ],
)
def test_what_the_folder_leaves_open_is_asked_of_slurm(tmp_path: Path, said: str, found: tuple[str, str]) -> None:
    slurm(tmp_path, said)
    assert state(folder(tmp_path, "launch", job="17")) == found


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("18|PENDING|Dependency", ("queued", "18")),
        ("17|COMPLETING|node3\n18|PENDING|Dependency", ("running", "17")),
        ("17|TIMEOUT|\n18|RUNNING|node3", ("running", "18")),
        ("17|TIMEOUT|\n18|CANCELLED|", ("lost", "17")),
    ],
)
def test_the_job_that_waited_for_the_end_goes_on(tmp_path: Path, said: str, found: tuple[str, str]) -> None:
    """Until it begins, the folder names the one before."""
    slurm(tmp_path, said)
    run = folder(tmp_path, "launch", "end", "requeue", job="17", status="stopped")
    write(run.job, json.dumps({"job": "17", "successor": "18", "submitted": OLD}))
    (standing,) = standings([run.root])
    assert (standing.state, standing.job) == found


def test_that_slurm_does_not_answer_says_nothing_of_a_run(tmp_path: Path) -> None:
    run = folder(tmp_path, "launch", "end", "requeue", job="17", status="stopped")
    assert state(run) == ("unclear", "Slurm cannot be asked; heard of never")
    os.utime(write_beat(run), (OLD, OLD))
    assert re.fullmatch(r"Slurm cannot be asked; heard of \d+ min ago", state(run)[1])


def write_beat(run: RunFolder) -> Path:
    write(run.heartbeat, "{}")
    return run.heartbeat


def test_a_sweep_is_its_members(tmp_path: Path) -> None:
    for member in ("0", "1"):
        write(tmp_path / "sweep" / member / "events.jsonl", "")
    write(tmp_path / "sweep/job.json", "{}")
    assert sorted(path.name for path in runs(tmp_path)) == ["0", "1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["jobs"], "the commands are"),
        (["jobs", "lss"], "did you mean ls"),
        (["jobs", "status"], "the command is: jobs status RUN"),
        (["jobs", "logs", "--rank", "x", "."], "the command is: jobs logs"),
        (["jobs", "stop", "."], "is no run folder"),
        (["jobs", "ls", "nowhere"], "there is no folder nowhere"),
        (["slurm"], "the commands are"),
        (["slurm", "render", "recipe=llm_finetune", "launcher=local"], "launcher=local: is not slurm"),
        (["slurm", "job", "recipe=llm_finetune"], "this is no Slurm job"),
    ],
)
def test_what_is_typed_wrong(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_logs_are_shown_over_attempts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder(tmp_path, "launch", "end", job="17", status="done")
    write(run.logs(1) / "rank_3.log", "one\n")
    write(run.logs(2) / "rank_3.log", "two\n")
    write(run.root / "logs/slurm-17.out", "said\n")
    assert main(["jobs", "logs", "--rank", "3", str(run.root)]) == 0
    assert capsys.readouterr().out == "==> logs/attempt_1/rank_3.log\none\n==> logs/attempt_2/rank_3.log\ntwo\n"
    assert main(["jobs", "logs", "-f", str(run.root)]) == 0  # it has ended
    assert capsys.readouterr().out == "==> logs/slurm-17.out\nsaid\n"


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("failed", 1), ("refused", 2), ("stopped", 75)])
def test_waiting_ends_as_the_run_did(tmp_path: Path, status: str, code: int) -> None:
    assert main(["jobs", "wait", str(folder(tmp_path, "launch", "end", status=status).root)]) == code


def test_waiting_lasts_as_long_as_the_run(tmp_path: Path) -> None:
    run = folder(tmp_path, "launch", job="17")
    write(run.heartbeat, "{}")
    waiting = subprocess.Popen([sys.executable, "-m", "trainkit", "jobs", "wait", str(run.root)], cwd=ROOT)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(3)
    write(run.summary, json.dumps({"status": "stopped"}))
    run.event("end")
    assert waiting.wait(60) == 75


def test_a_sweep_that_is_stopped_begins_no_other_member(tmp_path: Path) -> None:
    member = folder(tmp_path, "launch", "end", status="done")
    write(member.root.parent / "sweep.json", "{}")
    assert main(["jobs", "stop", str(member.root.parent)]) == 0
    assert (member.root.parent / "STOP").exists()
    assert not member.stop.exists()


def test_waiting_for_a_sweep_ends_as_the_worst_of_its_members(tmp_path: Path) -> None:
    sweep = folder(tmp_path, "launch", "end", status="done").root.parent
    write(sweep / "sweep.json", "{}")
    assert main(["jobs", "wait", str(sweep)]) == 0
    for name, status, code in (("b", "stopped", 75), ("c", "failed", 1)):
        folder(tmp_path / name, "launch", "end", status=status).root.rename(sweep / name)
        assert main(["jobs", "wait", str(sweep)]) == code
