"""checkpoint.memory_every on two machines, one of which goes down with its memory: the run goes on from the newest
snapshot, with the weights of an undisturbed run. A make-believe srun gives each but the first a /dev/shm of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import psutil
import pytest
import yaml

from tests.chaos.project import made
from tests.chaos.test_snapshots import slowly
from tests.chaos.test_storm import shared_memory
from tests.e2e.command import ROOT, curve, done, saved, trained, weights
from tests.unit.conftest import until, write
from tests.unit.test_nodes import ended, events, processes
from trainkit.config import compose
from trainkit.launcher._address import candidates
from trainkit.launcher._order import Order
from trainkit.launcher.local import LocalJob, start_agent
from trainkit.runfolder import RunFolder

__all__ = ["shared_memory"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not candidates(False), reason="this machine has no address but the loopback's"),
    pytest.mark.skipif(os.getuid() != 0, reason="a /dev/shm for each needs the right to mount"),
]
STEPS, SAVED, LOST_AT = 24, 6, 9
WORDS = ("recipe=chaos", "strategy=fsdp", "tracker=none", "run.dir=run", f"train.steps={STEPS}", "train.device=cpu")
SRUN = """\
import os, subprocess, sys
tasks = []
for i, size in enumerate(%s):
    told = {"SLURM_PROCID": str(i), "SLURM_LOCALID": "0", "SLURMD_NODENAME": f"fake{i}"}
    own = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]
    tasks.append(subprocess.Popen([*(own if i else ()), *sys.argv[1:]], env=os.environ | told))
sys.exit(max(task.wait() for task in tasks))
"""

Begin = Callable[..., tuple[LocalJob, RunFolder]]


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Starts a command on two machines; again in the same folder, where it has been started before."""
    monkeypatch.chdir(slowly(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    jobs: list[LocalJob] = []

    def start(places: int = 1, sizes: tuple[int, ...] = (), room: str = "50%") -> tuple[LocalJob, RunFolder]:
        folder = RunFolder(tmp_path / "run")
        attempt = folder.next_attempt()
        keys = (f"checkpoint.every={SAVED}", "checkpoint.memory_every=1", f"run.dir={folder.root}")
        write(folder.config, yaml.safe_dump(compose([*WORDS, *keys])))
        folder.logs(attempt).mkdir(parents=True)
        folder.event("launch", attempt=attempt, ranks=2 * places)
        agent = start_agent()
        srun = [sys.executable, "-c", SRUN % repr([room, room])]
        order = Order(start=srun, keepers=2, places=places, lost_s=20.0, owner={})
        assert agent.stdin is not None
        with agent.stdin as stdin:
            what = [str(folder.root), sizes or (2 * places,), 0, attempt, asdict(order)]
            stdin.write(json.dumps(what).encode() + b"\n")
        jobs.append(LocalJob(agent))
        return jobs[-1], folder

    yield start
    for job in jobs:
        job.kill()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The run folder of an undisturbed run with so many ranks on this machine, without snapshots."""

    @cache
    def run(ranks: int) -> Path:
        folder = made(tmp_path_factory.mktemp("whole"))
        done(folder, *WORDS, f"launcher.ranks={ranks}", f"checkpoint.every={SAVED}")
        return folder / "run"

    return run


def goes_down(folder: RunFolder) -> int:
    """Kill all processes of the second machine after a few steps; the step of the newest snapshot by then."""
    until(lambda: kept(folder) >= LOST_AT and kept(folder) % SAVED != 0, "a snapshot is kept", 100)
    down = [process for what in ("keeper", "rank") for process in processes(1, what)]
    newest = kept(folder)
    for process in down:
        process.kill()
    return newest


def kept(folder: RunFolder) -> int:
    return max((event["step"] for event in events(folder, "snapshot")), default=0)


def as_undisturbed(folder: RunFolder, whole: Path, shared_memory: set[str]) -> None:
    """Also to an audit; and nothing is left in the memory of this machine. That of the others is gone with them."""
    assert weights(folder.root) == weights(whole)
    assert trained(folder.root) == trained(whole)
    assert curve(folder.root) == curve(whole)
    folder.event("end", step=STEPS, status="done")
    audit = done(folder.root.parent, "audit", "run")
    assert audit.count("ok: ") == 4, audit
    assert {path.name for path in Path("/dev/shm").iterdir()} <= shared_memory


@pytest.mark.drill
@pytest.mark.parametrize("places", [1, pytest.param(2, marks=pytest.mark.drill)])
def test_a_job_that_goes_down_with_a_machine_goes_on_from_memory(
    places: int, begun: Begin, whole: Callable[[int], Path], shared_memory: set[str]
) -> None:
    """The next one is on the same machines, one of which has lost its memory."""
    job, folder = begun(places)
    until(lambda: kept(folder) >= LOST_AT and kept(folder) % SAVED != 0, "a snapshot is kept", 100)
    there = [process for host in (0, 1) for what in ("keeper", "rank") for process in processes(host, what)]
    job.kill()
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in there), "all is down")
    newest = kept(folder)
    again, _ = begun(places)
    assert ended(again) == 0
    second = events(folder, "start")[1]
    (used,) = events(folder, "snapshot_used")
    assert used["step"] == second["step"] >= newest
    as_undisturbed(folder, whole(2 * places), shared_memory)


def test_what_a_machine_has_left_is_moved_to_the_disk_where_the_run_cannot_do_without_it(
    begun: Begin, whole: Callable[[int], Path], shared_memory: set[str]
) -> None:
    """By the keeper that is left; the next command goes on from there."""
    job, folder = begun()
    newest = goes_down(folder)
    assert ended(job) == 1
    (gave_up,), (moved,) = events(folder, "give_up"), events(folder, "snapshot_moved")
    assert gave_up["why"] == "1 places are left, and it needs 2"
    assert moved["step"] >= newest
    assert moved["step"] in saved(folder.root)
    assert {path.name for path in Path("/dev/shm").iterdir()} <= shared_memory
    again, _ = begun()
    assert ended(again) == 0
    assert events(folder, "start")[-1]["step"] == moved["step"]
    as_undisturbed(folder, whole(2), shared_memory)


@pytest.mark.drill
def test_a_run_that_can_do_without_a_machine_goes_on_from_the_memory_of_the_other(
    begun: Begin, shared_memory: set[str]
) -> None:
    job, folder = begun(sizes=(1, 2))
    newest = goes_down(folder)
    assert ended(job) == 0
    assert [(start["attempt"], start["ranks"]) for start in events(folder, "start")] == [(1, 2), (2, 1)]
    (used,) = events(folder, "snapshot_used")
    assert used["step"] == events(folder, "start")[-1]["step"] >= newest
    assert {path.name for path in Path("/dev/shm").iterdir()} <= shared_memory


@pytest.mark.drill
def test_where_one_machine_has_no_room_the_run_goes_on_without(
    begun: Begin, whole: Callable[[int], Path], shared_memory: set[str]
) -> None:
    job, folder = begun(room="64k")
    assert ended(job) == 0
    (failed,) = events(folder, "snapshot_failed")
    assert failed["step"] == 1
    assert "rank 1: a snapshot takes" in failed["message"]
    assert "checkpoint.memory_every=null" in failed["message"]
    assert events(folder, "snapshot") == []
    as_undisturbed(folder, whole(2), shared_memory)
