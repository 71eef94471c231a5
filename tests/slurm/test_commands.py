"""Submitting, looking and stopping, on a real Slurm: with it, without sacct (which this one never has), and with its
controller down."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.command import ROOT, TRAINKIT, environment, events, last_step, summary, trainkit
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SLURM, TWO, WORDS, Submitted, around, asked

LONG = ("train.epochs=4000",)


def status(cluster: Cluster, run: Path) -> str:
    return asked(cluster, run.parent, "jobs", "status", str(run))


@pytest.mark.slow
def test_a_plain_sbatch(cluster: Cluster, tmp_path: Path) -> None:
    """No launcher code where it is typed: two nodes come from sbatch's own option."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    words = [word for word in WORDS if not word.startswith("run.dir")]
    number = cluster.run(
        *("sbatch", "--parsable", "-N2", str(ROOT / "slurm/train.sbatch"), *words, "train.epochs=2"),
        cwd=tmp_path,
    ).stdout.strip()
    assert cluster.ended(number)["ExitCode"] == "0:0"
    run = tmp_path / f"runs/slurm_{number}"
    assert (summary(run)["status"], events(run, "start")[0]["ranks"]) == ("done", 2)
    assert "2 rank(s) on cpu" in asked(cluster, tmp_path, "jobs", "logs", str(run))


@pytest.mark.slow
def test_a_rendered_script_that_is_submitted_by_hand(cluster: Cluster, tmp_path: Path) -> None:
    """There is no run folder yet, and the job is not given the environment of who submits it."""
    words = [*WORDS, "launcher.nodes=2", "launcher.ranks=1", "launcher.sbatch.export=NONE", "train.epochs=2"]
    (tmp_path / "a.sbatch").write_text(asked(cluster, tmp_path, "slurm", "render", *words))
    number = cluster.run("sbatch", "--parsable", "a.sbatch", cwd=tmp_path).stdout.strip()
    assert cluster.ended(number)["ExitCode"] == "0:0", (tmp_path / f"slurm-{number}.out").read_text()
    run = tmp_path / "run"
    assert (summary(run)["status"], events(run, "start")[0]["ranks"]) == ("done", 2)
    assert "2 rank(s) on cpu" in asked(cluster, tmp_path, "jobs", "logs", str(run))


@pytest.mark.drill
@pytest.mark.slow
def test_submitting_from_inside_a_job(cluster: Cluster, tmp_path: Path) -> None:
    words = shlex.join([*TRAINKIT, *WORDS, *TWO, "train.epochs=2"])
    outer = cluster.run("sbatch", "--parsable", "-o", "outer.out", "--wrap", words, cwd=tmp_path).stdout.strip()
    assert cluster.ended(outer)["ExitCode"] == "0:0", (tmp_path / "outer.out").read_text()
    number = re.findall(r"job (\d+) is submitted", (tmp_path / "outer.out").read_text())[0]
    assert cluster.ended(number)["ExitCode"] == "0:0"
    assert events(tmp_path / "run", "start")[0]["ranks"] == 2


@pytest.mark.slow
@pytest.mark.drill
def test_looking_and_stopping(cluster: Cluster, tmp_path: Path) -> None:
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, *LONG)
    with (tmp_path / "followed").open("w") as out:
        words = [*TRAINKIT, "jobs", "logs", "-f", str(run.run)]
        following = subprocess.Popen(words, env=environment(**around(cluster)), stdout=out, stderr=subprocess.STDOUT)
    run.reach(20)
    cluster.until(lambda: "running" in status(cluster, run.run), "it is seen to run")
    assert f"{run.run}  running" in asked(cluster, tmp_path, "jobs", "ls", ".")
    cluster.stop_controller()
    assert "running" in status(cluster, run.run)  # its own sign of life says so
    assert "save and leave" in asked(cluster, tmp_path, "jobs", "stop", str(run.run))
    cluster.until(lambda: "stopped" in status(cluster, run.run), "it has stopped")
    assert following.wait(60) == 0
    assert "step 1/" in (tmp_path / "followed").read_text()
    assert "it does not run (stopped)" in asked(cluster, tmp_path, "jobs", "stop", str(run.run))
    cluster.start_controller()
    assert run.wait() == "75:0"
    assert events(run.run, "requeue") == []


@pytest.mark.slow
@pytest.mark.drill
def test_a_job_that_is_suspended_goes_on_to_save(cluster: Cluster, tmp_path: Path) -> None:
    """Longer than anybody is to be silent, which for once is no loss of anybody."""
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, *LONG, "launcher.lost_s=5")
    run.reach(50)
    cluster.run("scontrol", "suspend", run.job)
    cluster.until(lambda: age(run.run / "logs/heartbeat.json") > 15, "it has stood still for 10 s at least")
    assert "it goes on, to save and leave" in asked(cluster, tmp_path, "jobs", "stop", str(run.run))
    assert run.wait() == "75:0"
    assert summary(run.run)["status"] == "stopped"
    assert events(run.run, "failure") == []
    assert len(events(run.run, "start")) == 1


def age(path: Path) -> float:
    return time.time() - path.stat().st_mtime if path.exists() else 0.0


@pytest.mark.slow
def test_a_job_that_waits(cluster: Cluster, tmp_path: Path) -> None:
    run = Submitted(cluster, tmp_path, *WORDS, *TWO, "launcher.sbatch.begin=now+1hour")
    said = status(cluster, run.run)
    assert "queued  (BeginTime)" in said
    cluster.stop_controller()
    assert "unclear  Slurm cannot be asked" in status(cluster, run.run)
    cluster.start_controller()
    cluster.until(lambda: cluster.job(run.job) != {}, "the controller is back")
    assert "taken out of the queue" in asked(cluster, tmp_path, "jobs", "stop", str(run.run))
    assert run.state() == "CANCELLED"
    assert "lost  Slurm: CANCELLED" in status(cluster, run.run)


@pytest.mark.slow
@pytest.mark.drill
def test_members_of_a_sweep_run_in_turn_and_only_failed_ones_again(cluster: Cluster, tmp_path: Path) -> None:
    sweep = "launcher.sweep=['train.epochs=2','train.epochs=2 recipe.width=5 anomaly.patience=1 optimizer.lr=1e30']"
    words = (*WORDS, *SLURM, "strategy=local", "launcher.restart=no", "launcher.sbatch.throttle=1", "train.epochs=1")
    run = Submitted(cluster, tmp_path, *words, sweep)
    cluster.until(lambda: not cluster.run("squeue", "-h").stdout.strip(), "both have ended", 120)
    assert [summary(run.run / str(member))["status"] for member in (0, 1)] == ["done", "failed"]
    ends = [events(run.run / str(member), kind)[0]["time"] for member, kind in ((0, "end"), (1, "launch"))]
    assert ends[0] < ends[1]  # throttled to one at a time
    again = Submitted(cluster, tmp_path, *words, sweep)
    assert "members 1" in again.said
    assert "--array=1%1" in (run.run / "job.sbatch").read_text()
    listed = asked(cluster, tmp_path, "jobs", "ls", "run")
    assert f"{run.run}/0  done" in listed


@pytest.mark.slow
def test_a_member_of_an_array_requeues_itself_alone(cluster: Cluster, tmp_path: Path) -> None:
    """The last one, which Slurm gives the number of the whole array."""
    words = (*WORDS, *SLURM, "strategy=local", "launcher.sweep=['train.seed=1','train.seed=2']")
    run = Submitted(cluster, tmp_path, *words)
    cluster.until(lambda: last_step(run.run / "1") > 20, "the last member trains", 120)
    cluster.run("scancel", "--batch", "--signal=USR2", f"{run.job}_1")
    cluster.until(lambda: not cluster.run("squeue", "-h").stdout.strip(), "both have ended", 120)
    assert [summary(run.run / str(member))["status"] for member in (0, 1)] == ["done", "done"]
    assert [len(events(run.run / str(member), "start")) for member in (0, 1)] == [1, 2]
    (again,) = events(run.run / "1", "requeue")
    assert again["job"] == f"{run.job}_1"


@pytest.mark.drill
@pytest.mark.slow
def test_a_crash_is_tried_again_elsewhere_and_ends_early(cluster: Cluster, tmp_path: Path) -> None:
    """A program that fails in the same way in the same step is not given the whole budget."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "conf/recipe").mkdir(parents=True)
    shipped = (ROOT / "conf/recipe/image_classification.yaml").read_text()
    (tmp_path / "conf/recipe/mine.yaml").write_text(
        shipped.replace("recipes.image_classification.ImageClassification", "recipes.mine.Mine")
    )
    (tmp_path / "recipes/mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from recipes.image_classification import ImageClassification\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(ImageClassification):\n"
        "    def loss(self, output, targets):\n"
        "        raise ValueError('no such loss')\n"
    )
    words = [word.replace("image_classification", "mine") for word in WORDS]
    run = Submitted(cluster, tmp_path, *words, *TWO, "launcher.restarts.crash=5")
    assert run.wait(180) == "1:0"
    assert len(events(run.run, "requeue")) == 0
    assert "it does not start again" in run.output()


@pytest.mark.slow
def test_two_jobs_do_not_share_a_folder(cluster: Cluster, tmp_path: Path) -> None:
    first = Submitted(cluster, tmp_path, *WORDS, *SLURM, *LONG)
    first.reach(20)
    cluster.until(lambda: (first.run / "logs/heartbeat.json").exists(), "a sign of life")
    second = Submitted(cluster, tmp_path, *WORDS, *SLURM, *LONG)
    assert second.wait() == "2:0"
    assert f"job {first.job} is at work in this folder" in second.output()
    before = last_step(first.run)
    first.reach(before + 50)


def test_what_is_wrong_is_told_before_anything_is_submitted(cluster: Cluster, tmp_path: Path) -> None:
    """By trainkit, and by sbatch itself."""
    wrong = trainkit(tmp_path, *WORDS, *SLURM, "launcher.nodes=4:2", "launcher.sbatch.signal=TERM", **around(cluster))
    assert wrong.returncode == 2
    assert "launcher.nodes=4:2" in wrong.stderr
    assert "launcher.sbatch.signal=TERM: is set by launcher.warning_s" in wrong.stderr
    refused = trainkit(tmp_path, *WORDS, *SLURM, "launcher.sbatch.partition=none", **around(cluster))
    assert refused.returncode == 2
    assert "invalid partition specified: none" in refused.stderr
    assert cluster.run("squeue", "-h").stdout == ""
    here = trainkit(tmp_path, *WORDS, "launcher=slurm", **around(cluster))
    assert here.returncode == 2
    assert "launcher.submit=false: this is no Slurm job" in here.stderr
    asks = ("slurm", "check", *WORDS, "launcher.nodes=2")
    assert "to start at" in asked(cluster, tmp_path, *asks)
    too_many = trainkit(tmp_path, *asks, "launcher.nodes=9", **around(cluster))
    assert too_many.returncode == 2
    assert not (tmp_path / "run/events.jsonl").exists()
