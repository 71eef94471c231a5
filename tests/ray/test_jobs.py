"""Runs as jobs of a real Ray cluster: submitted, looked at, stopped, and gone on with."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import NOT_TRACKED, done, environment, events, last_step, summary, trainkit
from tests.ray.cluster import Cluster, keepers, until
from tests.ray.test_runs import WORDS

JOB = (*WORDS, *NOT_TRACKED, "launcher.workers=2", "launcher.placement=SPREAD")
LONG = ("train.epochs=4000", "train.eval_every=null", "checkpoint.metric=null")


def ended(folder: Path, state: str) -> None:
    until(lambda: state in done(folder, "ray", "status", "run"), f"the job is {state}")


@pytest.mark.slow
@pytest.mark.drill
def test_a_job_is_submitted_stopped_and_gone_on_with_by_another(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = done(tmp_path, "ray", "submit", "--address", cluster.dashboard, *JOB, *LONG)
    (job,) = re.findall(r"job (\S+) is submitted", said)
    assert f"ray logs -f {run}" in said
    until(lambda: last_step(run) >= 50, "it trains")
    assert "RUNNING" in done(tmp_path, "ray", "status", "run")
    assert "running" in done(tmp_path, "jobs", "status", "run")
    assert job in done(tmp_path, "ray", "stop", "run")
    ended(tmp_path, "STOPPED")
    (stop,) = events(run, "stop")
    assert summary(run)["status"] == "stopped"  # saved, and not killed
    assert "rank(s) on cpu" in done(tmp_path, "ray", "logs", "run")

    step = stop["step"]
    plain = ["python", "-m", "trainkit", *JOB, *LONG, "launcher=ray", f"run.dir={run}"]
    plain += ["train.epochs=null", f"train.steps={step + 30}"]
    around = environment(RAY_API_SERVER_ADDRESS=cluster.dashboard)
    command = ["ray", "job", "submit", "--", *plain]
    submitted = subprocess.run(command, cwd=tmp_path, env=around, capture_output=True, text=True)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert [start["step"] for start in events(run, "start")] == [0, step]
    assert last_step(run) == step + 30


@pytest.mark.slow
@pytest.mark.drill
def test_a_job_whose_driver_dies_is_submitted_again(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["python", "-m", "trainkit", "ray", "submit", "--address", cluster.dashboard, "--retries", "1", *JOB]
    with (tmp_path / "said").open("w") as said:
        following = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=said, stderr=said)
    until(lambda: last_step(run) >= 150, "it trains")
    for process in drivers(run):
        process.kill()
    assert following.wait(200) == 0, (tmp_path / "said").read_text()
    assert "retry 1 of 1" in (tmp_path / "said").read_text()
    assert summary(run)["status"] == "done"
    first, again = events(run, "start")
    assert again["step"] >= 100 > first["step"]
    assert not keepers(tmp_path)


def drivers(run: Path) -> list[psutil.Process]:
    """The command of the job, and its agent and Ray's driver under it."""
    (front,) = [p for p in psutil.process_iter(["cmdline"]) if is_command(p.info["cmdline"] or [], run)]
    return [front, *front.children(recursive=True)]


def is_command(words: list[str], run: Path) -> bool:
    return words[1:3] == ["-m", "trainkit"] and f"run.dir={run}" in words


def test_status_of_a_run_that_is_no_job(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    said = trainkit(tmp_path, "ray", "status", "run")
    assert said.returncode == 2
    assert "was not submitted by `trainkit ray submit`" in said.stdout + said.stderr
