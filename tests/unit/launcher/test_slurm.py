"""launcher=slurm without a Slurm: what it would ask for, what it refuses, and what it makes of Slurm's answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import write
from trainkit.errors import ConfigError, Fenced
from trainkit.launcher import _control, _sbatch
from trainkit.launcher._takeover import Job, take_over
from trainkit.launcher.slurm import Restarts, Slurm
from trainkit.protocols import Cluster
from trainkit.runfolder import OWNER, RunFolder, guard
from trainkit.strategy.ddp import Ddp

PLAIN = Slurm(
    nodes=2,
    ranks=4,
    style="node",
    cpus=None,
    gpus=None,
    warning_s=120,
    restart="requeue",
    restarts=Restarts(preempted=1, timeout=1, node=1, crash=1),
    lost_s=45.0,
    submit=False,
    sbatch={},
    srun={},
    setup=[],
    sweep=[],
)
DDP = Ddp(bucket_cap_mb=25, timeout_s=60)


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SLURM_JOB_ID",
        "SLURM_JOB_NUM_NODES",
        "SLURM_CPUS_PER_TASK",
        "SLURM_RESTART_COUNT",
        "SLURM_ARRAY_JOB_ID",
    ):
        monkeypatch.delenv(name, raising=False)


def job(monkeypatch: pytest.MonkeyPatch, **around: str) -> None:
    for name, value in {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2", **around}.items():
        monkeypatch.setenv(name, value)


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Only these are installed, and what is in /bin."""
    for name, text in scripts.items():
        write(folder / name, f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin" if "sacct" in scripts else f"{folder}:/bin")


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"gres": "gpu:4"}, 4),
        ({"gres": "gpu:a100:8"}, 8),
        ({"gres": "gpu:h100_80g:2"}, 2),
        ({"gres": "nvme:1,gpu:3"}, 3),
        ({"gres": "gpu"}, 1),
        ({"gres": "nvme:1"}, 0),
        ({"gpus_per_node": 4}, 4),
        ({"gpus-per-node": "a100:2"}, 2),
        ({"account": "gpu:9"}, 0),
    ],
)
def test_the_gpus_that_the_options_ask_for(asked: dict[str, Any], count: int) -> None:
    assert _sbatch.gpus(asked) == count


def test_auto_is_a_rank_per_gpu_of_a_node() -> None:
    cluster = replace(PLAIN, ranks="auto", gpus=8).cluster(DDP, "auto")
    assert (cluster.hosts, cluster.ranks, cluster.gpus, cluster.fewer) == (2, 16, 16, ())
    assert replace(PLAIN, ranks="auto", gpus=8).cluster(DDP, "cpu").ranks == 2  # one per node without GPUs


def test_a_span_is_taken_down_to_its_least(monkeypatch: pytest.MonkeyPatch) -> None:
    span = replace(PLAIN, nodes="2:4")
    assert (span.cluster(DDP, "cpu").ranks, span.cluster(DDP, "cpu").fewer) == (16, (8, 12))
    job(monkeypatch, SLURM_JOB_NUM_NODES="3")  # what Slurm gave
    assert (span.cluster(DDP, "cpu").ranks, span.cluster(DDP, "cpu").fewer) == (12, (8,))
    assert span.problems(span.cluster(DDP, "cpu")) == []
    job(monkeypatch, SLURM_JOB_NUM_NODES="5")
    assert [p.key for p in span.problems(span.cluster(DDP, "cpu"))] == ["launcher.nodes"]


def test_what_is_to_be_submitted_has_nothing_to_do_with_the_job_in_which_that_is_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A notebook, or a shell in an allocation."""
    asked = replace(PLAIN, nodes=4, gpus=8, submit=True, restart="chain")
    job(monkeypatch, SLURM_JOB_NUM_NODES="1", SLURM_ARRAY_JOB_ID="17")
    cluster = asked.cluster(DDP, "auto")
    assert (cluster.hosts, cluster.gpus) == (4, 32)
    assert asked.problems(cluster) == []
    here = replace(asked, submit=False)
    assert here.cluster(DDP, "cpu").hosts == 1
    assert here.hand_over({}, [], cluster) is None


def test_what_is_refused() -> None:
    wrong = replace(
        PLAIN,
        nodes="4:2",
        sbatch={"ntasks_per_node": 2, "signal": "TERM", "array": "0-9", "account": "a"},
        sweep=["train.seed=1"],
        srun={"export": "NONE", "container_image": "x"},
    )
    problems = wrong.problems(Cluster(hosts=2, ranks=8, gpus=4, cores=2))
    assert [p.key for p in problems] == [
        "launcher.nodes",
        "launcher.ranks",
        "launcher.sbatch.ntasks_per_node",
        "launcher.sbatch.signal",
        "launcher.srun.export",
        "launcher.sbatch.array",
    ]
    assert all(p.hint for p in problems)


@pytest.mark.parametrize("array", [{"sweep": ["train.seed=1"]}, {"sbatch": {"array": "0-9"}}])
def test_an_array_is_not_chained(array: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task would submit the whole array again: the jobs would multiply."""
    one = Cluster(hosts=2, ranks=8, gpus=0, cores=2)
    (problem,) = replace(PLAIN, restart="chain", **array).problems(one)
    assert (problem.key, problem.value) == ("launcher.restart", "chain")
    assert "launcher.restart=requeue" in problem.hint
    assert replace(PLAIN, **array).problems(one) == replace(PLAIN, restart="chain").problems(one) == []
    job(monkeypatch, SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="3")  # sbatch --array slurm/train.sbatch
    assert [p.key for p in replace(PLAIN, restart="chain").problems(one)] == ["launcher.restart"]


def test_the_tasks_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    job(monkeypatch, SLURM_CPUS_PER_TASK="6")
    cluster = Cluster(hosts=2, ranks=8, gpus=0, cores=2)
    order = replace(PLAIN, srun={"container_image": "a b"}).order(cluster)
    assert (order.keepers, order.places) == (2, 4)
    assert {"--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=6", "--container-image=a b"} <= {*order.start}
    assert "--no-kill" not in order.start
    assert "--export=ALL" in order.start  # whatever sbatch --export said, srun would do the same
    each = replace(PLAIN, style="rank", cpus=3, nodes="1:2").order(cluster)
    assert (each.keepers, each.places) == (8, 1)
    assert {"--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=3", "--no-kill"} <= {*each.start}


# --------------------------------------------------------------------------------------- what Slurm says

SQUEUE = 'echo "17_2|RUNNING|node3"; echo "17_3|PENDING|Resources"'
SCONTROL = """\
case "$4" in
    18) echo "JobId=18 JobState=NODE_FAIL Reason=NodeDown EndTime=Unknown PreemptTime=None" ;;
    19) echo "JobId=19 JobState=RUNNING EndTime=2026-01-02T03:04:05 PreemptTime=2026-01-02T03:00:00" ;;
    *) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
esac
"""
DOWN = 'echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1'


def test_what_each_command_knows_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sacct = 'echo "20|CANCELLED by 0"; echo "20.0|x"'
    commands(tmp_path, monkeypatch, squeue=SQUEUE, scontrol=SCONTROL, sacct=sacct)
    found = _control.states(["17_2", "17_3", "18", "20", "21"])
    assert found is not None
    assert {number: state.state for number, state in found.items()} == {
        "17_2": "RUNNING",
        "17_3": "PENDING",
        "18": "NODE_FAIL",
        "20": "CANCELLED",
    }
    assert [found[number].over for number in ("17_2", "17_3", "18", "20")] == [False, False, True, True]


def test_a_controller_that_is_down_says_nothing_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path, monkeypatch, squeue=DOWN, scontrol=DOWN)
    assert _control.states(["17"]) is None
    assert _control.states([]) == {}
    munge = 'echo "squeue: error: Munge encode failed: Failed to access socket" >&2; exit 1'
    commands(tmp_path, monkeypatch, squeue=munge, scontrol=munge)
    assert _control.states(["17"]) is None  # whatever it fails for
    commands(tmp_path, monkeypatch, squeue="true", scontrol=munge)
    assert _control.states(["17"]) is None
    commands(tmp_path, monkeypatch, scontrol=SCONTROL)
    assert _control.states(["17"]) == {}  # that it does not know a job is an answer
    commands(tmp_path, monkeypatch, squeue=DOWN, scontrol=DOWN)
    assert _control.requeue("17") is None
    monkeypatch.setenv("PATH", "")  # nor does a machine without Slurm
    assert _control.states(["17"]) is None


def test_when_a_job_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands(tmp_path, monkeypatch, squeue=SQUEUE, scontrol=SCONTROL)
    assert _control.end_time("19") == float("inf")  # it is being preempted
    assert _control.end_time("18") is None
    assert _control.end_time("99") is None


# ------------------------------------------------------------------------------------ who owns the folder


def test_a_life_takes_over_from_the_one_before_and_that_writes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    monkeypatch.setenv(OWNER, "")  # undone after the test
    monkeypatch.setenv(f"{OWNER}_FILE", "")
    assert take_over(folder, Job(number="17", life=0, before=None)) is None
    folder.event("launch")
    folder.owner.write_text("17.1")  # elsewhere
    with pytest.raises(Fenced, match=r"taken over by job 17\.1; job 17\.0"):
        folder.event("end")
    with pytest.raises(Fenced):
        guard()
    assert take_over(folder, Job(number="17", life=2, before=None)) == "17.1"
    folder.event("launch")


def test_another_job_may_take_over_only_from_one_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    monkeypatch.setenv(OWNER, "")
    monkeypatch.setenv(f"{OWNER}_FILE", "")
    take_over(folder, Job(number="17_3", life=0, before=None))
    folder.heartbeat.write_text("{}")
    with pytest.raises(ConfigError, match="job 17_3 is at work"):
        take_over(folder, Job(number="18", life=0, before=None))
    assert take_over(folder, Job(number="19", life=0, before="17_3")) == "17_3.0"  # which waited for its end


def test_a_task_of_an_array_is_named_by_the_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last one has the number of the whole array as its own."""
    assert Job.here() is None
    job(monkeypatch, SLURM_ARRAY_JOB_ID="17", SLURM_ARRAY_TASK_ID="3", SLURM_RESTART_COUNT="2")
    assert Job.here() == Job(number="17_3", life=2, before=None)
