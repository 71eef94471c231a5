"""What becomes of a run on a real Ray cluster: it ends as an undisturbed one on one machine, whatever happens to it."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.comparison import alone, same_run
from tests.e2e.command import NOT_TRACKED, done, events
from tests.e2e.test_interruption import mlflow_runs
from tests.ray.cluster import Begin, Cluster, keepers, ranks, until

WORDS = (
    "recipe=image_classification",
    "train.steps=null",
    "train.epochs=40",
    "train.device=cpu",
    "checkpoint.every=100",
    "data.ledger=true",
    "strategy=ddp",
    "run.dir=run",
)
"""920 steps, in which a run can be caught."""


def two(cluster: Cluster, *more: str) -> tuple[str, ...]:
    return (
        "launcher=ray",
        f"launcher.address={cluster.address}",
        "launcher.workers=2",
        "launcher.placement=SPREAD",
        *more,
    )


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of WORDS with two ranks on this machine."""
    return alone(tmp_path_factory.mktemp("undisturbed"), *WORDS, *NOT_TRACKED, "launcher.ranks=2")


def audited(folder: Path) -> None:
    """Each sample was trained as often as it was to be."""
    done(folder, "audit", "run")


def report(what: str, run: Path, since: float) -> None:
    """Print how long it took from the fault to the first new step."""
    starts = [event["time"] for event in events(run, "start") if event["time"] > since]
    print(f"MEASURED {what}: {starts[0] - since:.1f} s to the start")


@pytest.mark.slow
def test_a_run_is_the_same_on_two_nodes(cluster: Cluster, begin: Begin, undisturbed: Path, tmp_path: Path) -> None:
    running = begin(*WORDS, *NOT_TRACKED, *two(cluster))
    hosts = until(lambda: (found := keepers(tmp_path)) and len(found) == 2 and [*found], "there are two keepers")
    assert sorted(hosts) == ["127.0.0.2", "127.0.0.3"]
    assert running.wait() == 0, running.said.read_text()
    same_run(running.run, undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(cluster: Cluster, begin: Begin, undisturbed: Path, tmp_path: Path) -> None:
    """Ray starts another group, and the run goes on from what the surviving rank held."""
    running = begin(*WORDS, *NOT_TRACKED, *two(cluster))
    running.reach(150)
    worker, killed = keepers(tmp_path)["127.0.0.3"].parent(), time.time()
    assert worker is not None
    assert "RayTrainWorker" in worker.cmdline()[0]
    worker.kill()
    assert running.wait() == 0, running.said.read_text()
    report("worker killed", running.run, killed)
    same_run(running.run, undisturbed)
    (failure,) = events(running.run, "failure")
    assert (failure["cause"], failure["host"]) == ("lost", "127.0.0.3")
    first, again = events(running.run, "start")
    assert first["ranks"] == again["ranks"] == 2
    assert again["step"] >= 150


@pytest.mark.slow
@pytest.mark.drill
def test_a_rank_that_is_killed_starts_again_in_its_worker(
    cluster: Cluster, begin: Begin, undisturbed: Path, tmp_path: Path
) -> None:
    """That is the agent's, in seconds; Ray does not see it."""
    running = begin(*WORDS, *NOT_TRACKED, *two(cluster))
    running.reach(150)
    before = keepers(tmp_path)
    (rank,), killed = ranks(before["127.0.0.3"]), time.time()
    rank.kill()
    running.reach(400)
    report("rank killed", running.run, killed)
    assert keepers(tmp_path) == before
    assert running.wait() == 0, running.said.read_text()
    same_run(running.run, undisturbed)


@pytest.mark.slow
@pytest.mark.drill
def test_a_node_that_is_killed_is_done_without(
    cluster: Cluster, begin: Begin, undisturbed: Path, tmp_path: Path
) -> None:
    """Where the others have room, they take as many workers as before."""
    running = begin(*WORDS, *NOT_TRACKED, *two(cluster))
    running.reach(150)
    killed = time.time()
    cluster.kill("127.0.0.3")
    assert running.wait() == 0, running.said.read_text()
    report("node killed", running.run, killed)
    same_run(running.run, undisturbed)
    assert [start["ranks"] for start in events(running.run, "start")] == [2, 2]


@pytest.mark.slow
@pytest.mark.drill
def test_a_ghost_writes_nothing(cluster: Cluster, begin: Begin, undisturbed: Path, tmp_path: Path) -> None:
    """The node of the rank that writes the rows and the checkpoints is cut off, and comes back while the run goes on
    elsewhere."""
    running = begin(*WORDS, *NOT_TRACKED, *two(cluster), "launcher.lost_s=5", "data.ledger=true")
    running.reach(150)
    (node,) = [host for host, keeper in keepers(tmp_path).items() if keeper.environ()["TRAINKIT_KEEPER"] == "0"]
    ghosts = cluster.freeze(node)
    until(lambda: len(events(running.run, "start")) == 2, "it goes on elsewhere")
    running.reach(events(running.run, "start")[1]["step"] + 20)
    for process in ghosts:
        process.resume()
    assert not psutil.wait_procs(ghosts, 60)[1]
    cluster.kill(node)
    assert running.wait() == 0, running.said.read_text()
    same_run(running.run, undisturbed)
    audited(tmp_path)


@pytest.mark.slow
@pytest.mark.drill
def test_it_goes_on_with_fewer_nodes_and_takes_one_in_that_joins(
    cluster: Cluster, begin: Begin, tmp_path: Path
) -> None:
    """With a span of workers. No step is lost by the node that joins."""
    words = ("launcher.workers=1:2", "launcher.cpus=2", "launcher.join_s=2", "train.epochs=4000")
    words += ("train.eval_every=null", "checkpoint.metric=null")
    running = begin(*WORDS, *NOT_TRACKED, *two(cluster), *words)
    running.reach(150)
    killed = time.time()
    cluster.kill("127.0.0.3")
    until(lambda: len(events(running.run, "start")) == 2, "it goes on with one")
    report("node killed", running.run, killed)
    joined = time.time()
    cluster.restore()
    until(lambda: len(events(running.run, "start")) == 3, "it takes the node in")
    report("node added", running.run, joined)
    running.reach(events(running.run, "start")[2]["step"] + 20)
    (running.run / "STOP").touch()
    assert running.wait() == 75, running.said.read_text()
    first, fewer, more = events(running.run, "start")
    assert (first["ranks"], fewer["ranks"], more["ranks"]) == (2, 1, 2)
    assert [failure["host"] for failure in events(running.run, "failure")] == ["127.0.0.3"]
    *_, joining, last = events(running.run, "stop")
    assert more["step"] == joining["step"] < last["step"]
    audited(tmp_path)


@pytest.mark.slow
@pytest.mark.drill
def test_the_same_command_goes_on_after_its_driver_was_killed(
    cluster: Cluster, begin: Begin, undisturbed: Path, tmp_path: Path
) -> None:
    """All that it was on its machine, at once; what it leaves in the cluster ends, and MLflow shows one run."""
    words = (*WORDS, *two(cluster))
    running = begin(*words)
    until((running.run / "mlflow.json").exists, "MLflow has a run")
    running.reach(150)
    left = [process for keeper in keepers(tmp_path).values() for process in (keeper, *ranks(keeper))]
    front = psutil.Process(running.front.pid)
    killed, driver = time.time(), [front, *front.children(recursive=True)]
    for process in driver:
        process.kill()
    psutil.wait_procs(left, 30)
    assert not [process for process in left if process.is_running()]
    ((run_id, _),) = mlflow_runs(tmp_path).items()
    running = begin(*words)
    assert running.wait() == 0, running.said.read_text()
    report("driver killed, and the command typed again", running.run, killed)
    same_run(running.run, undisturbed)
    assert mlflow_runs(tmp_path) == {run_id: ("FINISHED", [*range(1, 921)])}
