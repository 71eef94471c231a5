"""An agent with two keepers that stand for two machines: real processes, started by a make-believe srun."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.unit.conftest import until, write
from trainkit import nodes
from trainkit.board import read
from trainkit.config import compose
from trainkit.launcher._address import candidates
from trainkit.launcher._order import Order
from trainkit.launcher.local import LocalJob, start_agent
from trainkit.runfolder import RunFolder, read_lines

RECIPE = """\
import os, time
from dataclasses import dataclass

import torch
from torch import nn

from trainkit import Batch, Data, Task
from trainkit.lost import Lookout


@dataclass(frozen=True, kw_only=True)
class Mine(Task):
    def build_model(self):
        return nn.Linear(1, 1)

    def build_data(self):
        return Data(Numbers())

    def loss(self, output, targets):
        return ((output - targets["y"]) ** 2).sum()


class Numbers:
    def __len__(self):
        return 4000

    def fetch(self, ids):
        while not os.path.exists("go") and len(ids) < 3:
            time.sleep(0.01)
            if os.path.exists("watch") and Lookout().lost():
                open("go", "w").close()
        x = torch.tensor(ids)[:, None] / 4000
        return Batch({"input": x}, {"y": x}, len(ids), len(ids))
"""
SRUN = """\
import os, subprocess, sys
told = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": "0", "SLURMD_NODENAME": f"fake{i}"} for i in (0, 1)]
tasks = [subprocess.Popen(sys.argv[1:], env=os.environ | each) for each in told]
sys.exit(max(task.wait() for task in tasks))
"""
pytestmark = pytest.mark.skipif(not candidates(False), reason="this machine has no address but the loopback's")

Begin = Callable[..., tuple[LocalJob, RunFolder]]


@pytest.fixture
def begun(project: Path) -> Iterator[Begin]:
    """Starts a run on both, which waits in its first step until there is a file `go`."""
    jobs: list[LocalJob] = []

    def start(*more: str, sizes: tuple[int, ...] = (2,), srun: str = SRUN) -> tuple[LocalJob, RunFolder]:
        folder = RunFolder(project / "run")
        write(project / "recipes/mine.py", RECIPE)
        write(project / "conf/recipe/mine.yaml", "# @package _global_\nrecipe:\n  _target_: recipes.mine.Mine\n")
        words = ["recipe=mine", "strategy=ddp", "tracker=none", f"run.dir={folder.root}", "train.steps=20", *more]
        write(folder.config, yaml.safe_dump(compose([*words, "train.global_batch=2", "train.device=cpu"])))
        folder.logs(1).mkdir(parents=True)
        agent = start_agent()
        order = Order(start=[sys.executable, "-c", srun], keepers=2, places=1, lost_s=5.0, owner={})
        assert agent.stdin is not None
        with agent.stdin as stdin:
            stdin.write(json.dumps([str(folder.root), sizes, 0, 1, asdict(order)]).encode() + b"\n")
        jobs.append(LocalJob(agent))
        return jobs[-1], folder

    yield start
    for job in jobs:
        job.kill()


def ended(job: LocalJob) -> int | None:
    until(lambda: job.poll() is not None, "the agent ends", 100)
    return job.poll()


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(folder.events) if event["event"] == kind]


def started(folder: RunFolder, attempts: int = 1) -> None:
    until(lambda: len(events(folder, "start")) == attempts, "it trains", 100)


def processes(host: int, what: str) -> list[psutil.Process]:
    """The keeper of a host, or the ranks that it has forked; not the child in which it tries imports out."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            forked = psutil.Process(process.ppid()).cmdline()[1:3] == ["-m", "trainkit.keeper"]
            mine = process.environ().get("SLURMD_NODENAME") == f"fake{host}" and process.nice() == 0
            if mine and process.cmdline()[1:3] == ["-m", "trainkit.keeper"] and forked == (what == "rank"):
                found.append(process)
    return found


def go(folder: RunFolder) -> None:
    (folder.root.parent / "go").touch()


def test_a_rank_on_the_other_machine_is_killed(begun: Begin) -> None:
    job, folder = begun()
    started(folder)
    (rank,) = processes(1, "rank")
    rank.kill()
    go(folder)
    assert ended(job) == 0
    (failure,) = events(folder, "failure")
    assert (failure["rank"], failure["host"], failure["cause"]) == (1, "fake1", "killed")
    assert [(start["attempt"], start["ranks"]) for start in events(folder, "start")] == [(1, 2), (2, 2)]


def test_the_others_are_told_that_a_rank_is_dead(begun: Begin) -> None:
    """What waits for it might never notice: here it is the rank that lets the run go on."""
    job, folder = begun()
    started(folder)
    (folder.root.parent / "watch").touch()
    processes(1, "rank")[0].kill()
    assert ended(job) == 0


def test_the_rank_on_the_other_machine_stays(begun: Begin) -> None:
    """It holds the newest step, and sends it to the new one."""
    job, folder = begun("train.steps=100000")
    go(folder)
    until(lambda: len([*read_lines(folder.metrics)]) > 50, "it has made steps", 100)
    before = processes(0, "rank")
    processes(1, "rank")[0].kill()
    started(folder, attempts=2)
    assert processes(0, "rank") == before
    (failure,), (_, again) = events(folder, "failure"), events(folder, "start")
    assert failure["host"] == "fake1"
    # It died in a step; its gradients were in the sum of that, or they were not.
    assert again["step"] in (failure["step"] - 1, failure["step"])
    assert events(folder, "save") == []
    job.stop()
    assert ended(job) == 75


def test_each_machine_says_how_busy_it_is(begun: Begin) -> None:
    job, folder = begun("train.steps=100000", "system.every=0.2")
    go(folder)
    until(lambda: len([*read_lines(folder.system)]) > 2, "it is noted", 100)
    job.stop()
    assert ended(job) == 75
    assert {tuple(sorted(row["machines"])) for row in read_lines(folder.system)} >= {("fake0", "fake1")}
    assert all(
        0 <= load["cpu_utilization_percentage"] <= 100
        for row in read_lines(folder.system)
        for load in row["machines"].values()
    )


def test_a_machine_is_lost_and_the_run_goes_on_without(begun: Begin) -> None:
    job, folder = begun(sizes=(1, 2))
    started(folder)
    (keeper,) = processes(1, "keeper")
    keeper.kill()
    go(folder)
    assert ended(job) == 0
    (failure,) = events(folder, "failure")
    assert (failure["rank"], failure["host"], failure["cause"]) == (None, "fake1", "lost")
    assert failure["message"] == "fake1 is lost with rank 1: the connection to it is closed"
    (restart,) = events(folder, "restart")
    assert restart["why"] == "restart 1 of 8 (lost), without place 1"
    assert [(start["attempt"], start["ranks"]) for start in events(folder, "start")] == [(1, 2), (2, 1)]


def test_a_machine_that_says_nothing_is_lost(begun: Begin) -> None:
    """The run cannot do without it. When it is back, nobody waits for it: it ends its ranks."""
    job, folder = begun()
    started(folder)
    (keeper,), (rank,) = processes(1, "keeper"), processes(1, "rank")
    keeper.suspend()
    until(lambda: events(folder, "give_up") != [], "it is missed", 30)
    keeper.resume()
    assert ended(job) == 1
    (failure,), (gave_up,) = events(folder, "failure"), events(folder, "give_up")
    assert failure["message"] == "fake1 is lost with rank 1: nothing was heard of it for 5 s"
    assert gave_up["why"] == "1 places are left, and it needs 2"
    until(lambda: not rank.is_running(), "its rank is ended")


def test_no_process_outlives_the_agent(begun: Begin) -> None:
    job, folder = begun()
    started(folder)
    there = [process for host in (0, 1) for what in ("keeper", "rank") for process in processes(host, what)]
    assert len(there) == 4
    psutil.Process(job._agent.pid).kill()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in there), "all are gone")


@pytest.mark.slow
def test_a_rank_that_hangs_on_the_other_machine(begun: Begin) -> None:
    job, folder = begun("watchdog.slow=20", "recovery.hung=0")
    started(folder)
    (rank,) = processes(1, "rank")
    rank.send_signal(signal.SIGSTOP)
    assert ended(job) == 1
    (failure,) = events(folder, "failure")
    assert (failure["cause"], failure["rank"]) == ("hung", 1)
    assert "the process of rank 1 is stopped" in failure["message"]
    assert "fetch" in (folder.logs(1) / "rank_0.log").read_text()  # its stacks


def test_it_is_asked_to_stop(begun: Begin) -> None:
    job, folder = begun("train.steps=4000")
    started(folder)
    until(lambda: all(rank.memory for rank in read(folder)[2]) and len(read(folder)[2]) == 2, "both are told of", 30)
    assert len({rank.host for rank in read(folder)[2]}) == 2
    job.stop()
    go(folder)
    assert ended(job) == 75
    assert len(events(folder, "stop")) == 1


def test_machines_that_do_not_call_back_are_told_of(begun: Begin) -> None:
    job, folder = begun(srun="import sys; sys.stderr.write('no such partition'); sys.exit(3)")
    assert ended(job) == 1
    (failure,) = events(folder, "failure")
    assert failure["message"].startswith("0 of 2 tasks called back (none): ")
    assert "ended with 3" in failure["message"]
    assert "no such partition" in (folder.logs(1) / "agent.log").read_text()


def test_keepers_hear_of_an_agent_that_waits_for_its_disk() -> None:
    """It does not come to its loop for longer than their lease, which is 0.6 times lost_s."""
    start = [sys.executable, "-c", SRUN]
    there = nodes.Nodes(Order(start=start, keepers=2, places=1, lost_s=5.0, owner={}), lambda: False)
    try:
        time.sleep(4.0)
        there.pump(0.1)
        assert there.roll.gone() == []
    finally:
        there.close()


@pytest.mark.slow
def test_a_machine_that_waits_for_another_is_not_lost(begun: Begin) -> None:
    """It has no ranks of which it could tell anything, for longer than `lost_s`."""
    late = SRUN.replace(
        "for each in told]", "for each in told if not (each['SLURM_PROCID'] == '1' and time.sleep(12))]"
    )
    job, folder = begun(srun=f"import time\n{late}")
    go(folder)
    assert ended(job) == 0
    assert events(folder, "failure") == []


def test_a_stranger_is_not_listened_to(begun: Begin) -> None:
    """Whoever does not know the token is no keeper."""
    strange = SRUN.replace("os.environ | each", "os.environ | each | {'TRAINKIT_KEEPER_TOKEN': 'guessed'}")
    job, folder = begun(srun=strange)
    assert ended(job) == 1
    assert "0 of 2 tasks called back" in events(folder, "failure")[0]["message"]


def test_strangers_on_the_port_disturb_nobody(begun: Begin) -> None:
    """Before the keepers come, and while they train."""
    knocks = """\
import socket, threading, time
def knock(said):
    door = socket.create_connection((sys.argv[7], int(sys.argv[4])))
    door.sendall(said)
    return door
said = (b"GET / HTTP/1.1\\r\\n\\r\\n", b"[]\\n", b'{"what": "hello", "token": "\\xc3\\xa9"}\\n', b"")
first = [knock(each) for each in said]
def again():
    while True:
        time.sleep(0.1)
        [knock(each).close() for each in said]
threading.Thread(target=again, daemon=True).start()
"""
    first, rest = SRUN.split("\n", 1)
    job, folder = begun(srun=f"{first}\n{knocks}{rest}")
    go(folder)
    assert ended(job) == 0
    assert events(folder, "failure") == []


def test_a_task_without_the_token_says_so(begun: Begin) -> None:
    """srun was told to leave the environment out."""
    bare = SRUN.replace("os.environ | each", "{k: v for k, v in os.environ.items() if 'TOKEN' not in k} | each")
    job, folder = begun(srun=bare)
    assert ended(job) == 1
    told = (folder.logs(1) / "agent.log").read_text()
    assert "TRAINKIT_KEEPER_TOKEN is not set here: what started this did not pass its environment on" in told
    assert "KeyError" not in told


@pytest.mark.parametrize(("keepers", "host"), [(1, "127.0.0.1"), (2, "")])
def test_the_port_of_one_machine_is_closed_to_others(keepers: int, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def door(*asked: Any) -> None:
        raise TimeoutError(asked[0])

    monkeypatch.setattr(nodes, "Door", door)
    with pytest.raises(TimeoutError) as asked:
        nodes.Nodes(Order(start=[], keepers=keepers, places=1, lost_s=5.0, owner={}), lambda: True)
    assert asked.value.args == (host,)


def test_the_loopback_is_no_address_for_others() -> None:
    assert candidates(alone=True) == ["127.0.0.1"]
    assert not [address for address in candidates(alone=False) if address.startswith("127.")]
