"""Real agents with real ranks: what ended a run is what is reported, whatever followed from it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.unit.conftest import until, write
from trainkit.cli.run import prepare
from trainkit.config import compose
from trainkit.data.order import Order
from trainkit.errors import EXIT_STOPPED
from trainkit.launcher import _machine, local
from trainkit.launcher.local import Local, LocalJob
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder, read_lines
from trainkit.strategy.ddp import Ddp
from trainkit.strategy.local import Local as LocalStrategy

RECIPE = """\
import os, signal, subprocess, time
from dataclasses import dataclass

import torch
from torch import nn

from trainkit import Batch, Data, Task
from trainkit.data.order import Order
from trainkit.lost import Lookout


@dataclass(frozen=True, kw_only=True)
class Mine(Task):
    fault: str

    def build_model(self):
        MODELS[:] = [nn.Linear(1, 1)]
        return MODELS[0]

    def build_data(self):
        return Data(Numbers(self.fault))

    def loss(self, output, targets):
        return (output - targets["y"]).square().sum()


MODELS = []
POSITION = {int(i): position for position, i in enumerate(Order(4000, 0).ids(0, 4000))}


class Numbers:
    def __init__(self, fault):
        self.fault, self.fetched = fault, 0

    def __len__(self):
        return 4000

    def fetch(self, ids):
        self.fetched += len(ids) < 3  # three are the handshake's
        step = 0 if len(ids) > 2 else POSITION[ids[0]] // 2 + 1
        if step == 3 and os.environ["RANK"] == "1":
            if self.fault == "killed":
                subprocess.Popen(["sleep", "1000"])
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "exits":
                os._exit(7)
            if self.fault == "leaves":
                os._exit(0)
            if self.fault == "is told of":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "raises":
                raise ValueError("sample 7 is [torn]")
        while self.fault == "is told of" and step == 3 and not os.path.exists("told"):
            time.sleep(0.01)
            if Lookout().lost():
                open("told", "w").close()
        if self.fault == "its place" and os.environ["WORLD_SIZE"] == "1":
            time.sleep(0.02)  # or the run would be over before its place has rested
        if self.fault == "its place" and os.environ["WORLD_SIZE"] == "2" and step == 3:
            with open("died", "a") as died:
                if died.tell() < 2 and os.environ["RANK"] == "1":
                    died.write("x")
                    died.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "again and again" and self.fetched == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "corrupts" and self.fetched == 7 and os.environ["RANK"] == "1" and not os.path.exists("once"):
            open("once", "w").close()
            MODELS[0].bias.data += 1e-3
        if self.fault == "hangs" and self.fetched == 7 and os.environ["RANK"] == "1":
            time.sleep(1000)
        if self.fault == "endless":
            print("fetching", flush=True)
            time.sleep(0.01)
        x = torch.tensor(ids)[:, None] / 4000
        return Batch({"input": x}, {"y": x}, len(ids), len(ids))
"""
YAML = "# @package _global_\nrecipe:\n  _target_: recipes.mine.Mine\n"
Begin = Callable[..., tuple[LocalJob, RunFolder]]


def here(ranks: int | str) -> Local:
    return Local(ranks=ranks, spares=0, nodes=1, rendezvous=None, head=None, lost_s=45.0, wait_s=600.0)


CLUSTER = Cluster(hosts=1, ranks=2, gpus=0, cores=2)


@pytest.fixture
def begun(project: Path) -> Iterator[Begin]:
    """Starts two ranks with a fault; ends whatever is left of them."""
    jobs: list[LocalJob] = []

    def start(fault: str, *more: str, raised: int = 0, cluster: Cluster = CLUSTER) -> tuple[LocalJob, RunFolder]:
        folder = RunFolder(project / "run")
        write(project / "recipes/mine.py", RECIPE)
        write(project / "conf/recipe/mine.yaml", f"{YAML}  fault: {fault}\n")
        words = ["recipe=mine", "strategy=ddp", "tracker=none", f"run.dir={folder.root}"]
        words += ["recovery.killed=0", "recovery.hung=0", f"recovery.raised={raised}", *more]
        train = ["train.steps=2000", "train.global_batch=2", "train.device=cpu"]
        write(folder.config, yaml.safe_dump(compose(train + words)))
        jobs.append(here(2).start(folder.root, cluster, folder.next_attempt()))
        return jobs[-1], folder

    yield start
    for job in jobs:
        job.kill()


def alive() -> list[psutil.Process]:
    """What this process has started, and what that has."""
    return [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def ended(job: LocalJob) -> int:
    until(lambda: job.poll() is not None, "the agent ends", 100)
    code = job.poll()
    return 0 if code is None else code


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(folder.events) if event["event"] == kind]


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("killed", "was killed by SIGKILL (out of memory?)"),
        ("exits", "called exit(7)"),
        ("leaves", "called exit(0)"),
    ],
)
def test_a_rank_that_vanishes_is_the_cause_and_not_what_the_other_says(fault: str, how: str, begun: Begin) -> None:
    job, folder = begun(fault)
    assert ended(job) == 1
    (failure,), (given_up,) = events(folder, "failure"), events(folder, "give_up")
    assert (failure["rank"], failure["message"], failure["attempt"]) == (1, f"rank 1 {how}", 1)
    assert (failure["step"], given_up["attempt"]) == (2, 1)
    assert "=0 restarts without a new checkpoint are used up" in given_up["why"]
    assert failure["log"] == str(folder.logs(1) / "rank_1.log")
    assert [p for p in alive() if "sleep" in p.cmdline()] == []


def test_the_others_are_told_that_a_rank_is_dead(begun: Begin) -> None:
    """What waits for it might never notice; who has heard it in time holds its step, and saves that."""
    job, folder = begun("is told of")
    assert ended(job) == 1
    assert (folder.root.parent / "told").exists()
    assert [event["rescued_by"] for event in events(folder, "save")] == [0]


def test_a_rank_that_raises_is_the_cause_with_its_traceback_and_once_more_is_enough(begun: Begin) -> None:
    job, folder = begun("raises", raised=5)
    assert ended(job) == 1
    first, failure = events(folder, "failure")
    assert (first["message"], first["step"]) == (failure["message"], failure["step"])
    assert [event["attempt"] for event in events(folder, "restart")] == [failure["attempt"]] == [2]
    (given_up,) = events(folder, "give_up")
    assert given_up["why"].startswith("step 2 fails in the same way 2 times in a row")
    assert (failure["rank"], failure["message"]) == (1, "ValueError: sample 7 is [torn]")
    assert 'raise ValueError("sample 7 is [torn]")' in failure["traceback"]
    assert "ValueError: sample 7 is [torn]" in Path(failure["log"]).read_text()


def test_a_run_is_stopped_with_a_checkpoint_or_killed_with_all_its_ranks(begun: Begin) -> None:
    job, folder = begun("endless")
    until(lambda: any("loss" in row for row in read_lines(folder.metrics)), "training begins")
    job.stop()
    assert ended(job) == EXIT_STOPPED
    (save,), (stop,) = events(folder, "save"), events(folder, "stop")
    assert save["step"] == stop["step"] < 2000
    again = here(2).start(folder.root, CLUSTER, folder.next_attempt())
    until(lambda: len(list(folder.logs(2).glob("rank_*.log"))) == 2, "two ranks start")
    everyone = [p for p in alive() if "trainkit.agent" in p.cmdline()]
    assert len(everyone) == 3
    again.kill()
    assert ended(again) == -signal.SIGKILL
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in everyone), "they are gone", 10)


def test_a_rank_that_does_nothing_any_more_is_named_with_its_stack(begun: Begin) -> None:
    job, folder = begun("hangs", "watchdog.timeout=3")
    assert ended(job) == 1
    (failure,), (given_up,) = events(folder, "failure"), events(folder, "give_up")
    assert given_up["time"] - failure["time"] < 20  # it is killed, and not given 30 s to heed SIGTERM
    assert (failure["cause"], failure["rank"], failure["step"]) == ("hung", 1, 7)
    assert "rank 1 did not come to step 7, where the others wait" in failure["message"]
    assert re.search(r'recipes/mine.py", line \d+ in fetch', Path(failure["log"]).read_text())
    assert "in total" in (folder.logs(1) / "rank_0.log").read_text()


def test_a_rank_whose_parameters_change_is_named_before_they_are_saved(begun: Begin) -> None:
    more = ["integrity.every=1000", "recovery.corrupt=1", "checkpoint.every=5", "train.steps=12"]
    job, folder = begun("corrupts", *more, "train.global_batch=3", cluster=replace(CLUSTER, ranks=3))
    assert ended(job) == 0
    (failure,), (restart,) = events(folder, "failure"), events(folder, "restart")
    assert (failure["cause"], failure["rank"], failure["step"]) == ("corrupt", 1, 10)
    assert "the ranks' parameters have come apart: rank 1 on " in failure["message"]
    assert "the parameter bias: " in failure["message"]
    assert (restart["step"], restart["why"]) == (5, "restart 1 of 1 (corrupt)")
    assert [event["step"] for event in events(folder, "save")] == [5, 10, 12]


def test_a_run_saves_and_leaves_when_its_hours_are_over_and_for_a_stop_file(begun: Begin) -> None:
    job, folder = begun("none", "run.max_hours=1.0e-6")
    assert ended(job) == EXIT_STOPPED
    folder.stop.touch()
    job, folder = begun("none")
    assert ended(job) == EXIT_STOPPED
    assert not folder.stop.exists()
    first, second = events(folder, "asked")
    assert first["why"] == "run.max_hours=1e-06 are over"
    assert second["why"] == f"there was a file {folder.stop}"
    steps = [event["step"] for event in events(folder, "save")]
    assert 0 < steps[0] < steps[1] < 2000


def test_a_place_that_fails_again_is_left_out_and_taken_in_later(begun: Begin) -> None:
    """Whatever the number of ranks, every step trains the samples that the order says, each once."""
    more = ["recovery.killed=3", "recovery.pause_s=0.0", "recovery.rest_s=0.1", "train.steps=40", "data.ledger=true"]
    job, folder = begun("its place", *more, cluster=replace(CLUSTER, fewer=(1,)))
    assert ended(job) == 0
    assert [(event["rank"], event["step"]) for event in events(folder, "failure")] == [(1, 2), (1, 2)]
    assert [event["ranks"] for event in events(folder, "start")] == [2, 2, 1, 2]
    out, back = events(folder, "restart")[1:]
    assert out["why"] == "restart 2 of 3 (killed), without place 1"
    assert back["why"] == "place 1 is taken in again"
    assert 0 < back["step"] < 40
    rows = [row for path in folder.root.glob("ledger/*/*.jsonl") for row in read_lines(path)]
    expected = Order(4000, 0).ids(0, 80).reshape(40, 2)
    for step, ids in enumerate(expected.tolist(), 1):
        assert sorted(i for row in rows if row["step"] == step for i in row["ids"]) == sorted(ids)


def test_what_survivors_save_gives_no_budget_back(begun: Begin) -> None:
    """Or a rank that dies every minute would have the run restarted for ever."""
    job, folder = begun("again and again", "recovery.killed=2", "recovery.pause_s=0.0")
    assert ended(job) == 1
    assert len(events(folder, "failure")) == 3
    assert [event["rescued_by"] for event in events(folder, "save")] == [0]
    assert [event["given_by"] for event in events(folder, "start")] == [None, 0, 0]
    (given_up,) = events(folder, "give_up")
    assert "recovery.killed=2 restarts without a new checkpoint are used up" in given_up["why"]


def test_a_span_is_the_most_ranks_and_as_few_as_are_left(project: Path) -> None:
    ddp = Ddp(bucket_cap_mb=25, timeout_s=60)
    cluster = here("2:5").cluster(ddp, "cpu")
    assert (cluster.ranks, cluster.fewer) == (5, (2, 3, 4))
    assert not here("2:5").problems(cluster)
    (problem,) = here("4:2").problems(here("4:2").cluster(ddp, "cpu"))
    assert (problem.key, problem.hint) == ("launcher.ranks", "set launcher.ranks=2:4")
    words = ["recipe=mine", "strategy=ddp", "launcher.ranks=2:4", "train.global_batch=8", "train.device=cpu"]
    write(project / "recipes/mine.py", RECIPE)
    write(project / "conf/recipe/mine.yaml", f"{YAML}  fault: none\n")
    _, settings, cluster = prepare([*words, "train.steps=9", f"run.dir={project / 'run'}"])
    assert settings.launcher.ranks == "2:4"
    assert (cluster.ranks, cluster.fewer) == (4, (2,))  # three do not divide the global batch


def test_an_agent_without_an_order_ends_with_the_front() -> None:
    with local.warm_agent():
        (agent,) = local.warm
        assert agent.poll() is None
    assert agent.wait(10) == -signal.SIGKILL
    assert local.warm == []


def test_ranks_that_no_gpu_is_left_for_are_refused() -> None:
    gpus = Cluster(hosts=1, ranks=3, gpus=2, cores=8)
    (problem,) = here(3).problems(gpus)
    assert (problem.key, problem.value) == ("launcher.ranks", 3)
    assert "launcher.ranks=2" in problem.hint
    assert not here(2).problems(replace(gpus, ranks=2))
    assert not here(3).problems(replace(gpus, gpus=0))


def test_auto_is_what_the_strategy_would_use() -> None:
    assert here("auto").cluster(LocalStrategy(), "auto").ranks == 1
    ddp = Ddp(bucket_cap_mb=25, timeout_s=60)
    assert here("auto").cluster(ddp, "auto").ranks == max(1, _machine.gpus())
    assert here(3).cluster(ddp, "auto").ranks == 3
