"""A real `mlflow server` that dies, freezes, comes back or never answers, while a real run trains: no step waits for
it, no row is lost or doubled, and the end comes soon."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import Running, done, events, last_step, lines, summary, trainkit, until
from tests.mlflow_server import Server
from tests.postgres import Postgres, program

pytestmark = pytest.mark.slow

PYTHON = '''
"""The digits, one step in some 10 ms: long enough for a server to go down and come back."""

import time
from dataclasses import dataclass

from recipes.image_classification import ImageClassification


@dataclass(frozen=True, kw_only=True)
class Paced(ImageClassification):
    def loss(self, output, targets):
        time.sleep(0.008)
        return super().loss(output, targets)
'''
YAML = """\
# @package _global_
# The digits, slowly.
recipe:
  _target_: recipes.paced.Paced
  width: 4
  dropout: 0.0
"""
FLUSH_S = 30.0  # what the end of a run waits for its tracker at the most
DELAY_S = 0.05  # of a step
LINE = "ok: holds {} rows, none missing, none twice"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"recipes/paced.py": PYTHON, "conf/recipe/paced.yaml": YAML}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(f"sqlite:///{folder}/server.db", folder / "artifacts")
    server.start()
    yield server
    server.signal(signal.SIGCONT)
    server.stop()


@pytest.fixture
def database() -> Iterator[Postgres]:
    database = Postgres()
    database.start()
    yield database
    database.remove()


@pytest.fixture
def on_postgres(database: Postgres, folder: Path) -> Iterator[Server]:
    server = Server(database.uri, folder / "artifacts")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def hole() -> Iterator[str]:
    """The kernel takes its connections, and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def words(uri: str, steps: int) -> list[str]:
    paced = ["recipe=paced", f"train.steps={steps}", "train.device=cpu", "data.ledger=true", "run.dir=run"]
    return [*paced, f"tracker.uri={uri}"]


def held(run: Path, server: Server) -> Counter[int]:
    """How often the server has each step of the loss."""
    from mlflow import MlflowClient

    note = run / "mlflow.json"
    known = json.loads(note.read_text()) if note.exists() else {}
    if "run_id" not in known:
        return Counter()
    return Counter(metric.step for metric in MlflowClient(server.uri).get_metric_history(known["run_id"], "loss"))


def status(run: Path, server: Server) -> str:
    from mlflow import MlflowClient

    run_id = json.loads((run / "mlflow.json").read_text())["run_id"]
    return str(MlflowClient(server.uri).get_run(run_id).info.status)


def arrives(running: Running, server: Server, step: int) -> None:
    until(lambda: max(held(running.run, server), default=0) >= step, lambda: running.front.poll() is None)


def missed(running: Running) -> int:
    """Wait until the outage is noticed, and training has gone on for a while; the step by then."""
    until(lambda: "the tracker cannot be reached" in running.said.read_text(), lambda: running.front.poll() is None)
    step = last_step(running.run) + 50
    running.reach(step)
    return step


def goes_and_comes_back(running: Running, server: Server, what: Server | Postgres) -> None:
    """In the middle of the run; what was missed arrives."""
    arrives(running, server, 1)
    what.stop()
    step = missed(running)
    what.start()
    arrives(running, server, step)


def ends_whole(running: Running, server: Server, steps: int) -> None:
    """Nothing is left to be sent."""
    assert running.wait() == 0
    assert (summary(running.run)["unsent_rows"], summary(running.run)["tracker_trouble"]) == (0, None)
    once(running.run, server, steps)


def once(run: Path, server: Server, steps: int) -> None:
    """All steps are there, each once, and `audit` says so."""
    assert held(run, server) == Counter(range(1, steps + 1))
    assert status(run, server) == "FINISHED"
    assert LINE.format(len(lines(run / "metrics.jsonl"))) in done(run.parent, "audit", "run")


def test_a_server_that_is_killed_and_comes_back_has_every_row_once(folder: Path, server: Server) -> None:
    running = Running(folder, *words(server.uri, 1200))
    goes_and_comes_back(running, server, server)
    ends_whole(running, server, 1200)


@pytest.mark.skipif(program("postgres") is None, reason="apt-get install postgresql")
def test_its_postgresql_goes_down_and_then_it_does_itself(
    folder: Path, database: Postgres, on_postgres: Server
) -> None:
    running = Running(folder, *words(on_postgres.uri, 2400))
    goes_and_comes_back(running, on_postgres, database)
    on_postgres.stop()
    running.reach(last_step(running.run) + 100)
    on_postgres.start()
    ends_whole(running, on_postgres, 2400)


@pytest.mark.drill
def test_a_server_that_stays_down_gets_the_rest_later(folder: Path, server: Server) -> None:
    running = Running(folder, *words(server.uri, 600))
    arrives(running, server, 1)
    server.stop()
    missed(running)
    assert running.wait() == 0
    assert ended_after(running.run) < FLUSH_S
    assert summary(running.run)["unsent_rows"] > 50
    server.start()
    assert "lacks step" in audit_fails(running)
    for _ in range(2):  # the second time there is nothing left to send
        done(folder, "mlflow", "sync", "run")
    once(running.run, server, 600)


@pytest.mark.drill
def test_a_server_that_freezes_and_thaws_takes_no_row_twice(folder: Path, server: Server) -> None:
    """What was sent to it before the client gave up is still carried out when it wakes up."""
    running = Running(folder, *words(server.uri, 2400))
    arrives(running, server, 1)
    server.signal(signal.SIGSTOP)
    step = missed(running)
    server.signal(signal.SIGCONT)
    arrives(running, server, step)
    assert running.wait() == 0
    once(running.run, server, 2400)


@pytest.mark.drill
def test_a_server_that_freezes_while_the_run_is_made_gets_one_run(folder: Path, server: Server) -> None:
    from mlflow import MlflowClient

    server.signal(signal.SIGSTOP)
    running = Running(folder, *words(server.uri, 2400))
    missed(running)
    server.signal(signal.SIGCONT)
    assert running.wait() == 0
    once(running.run, server, 2400)
    experiments = [found.experiment_id for found in MlflowClient(server.uri).search_experiments()]
    assert len(MlflowClient(server.uri).search_runs(experiments)) == 1


@pytest.mark.drill
def test_a_run_that_is_killed_during_an_outage_goes_on_in_the_same_mlflow_run(folder: Path, server: Server) -> None:
    command = [*words(server.uri, 900), "checkpoint.every=100"]
    running = Running(folder, *command)
    arrives(running, server, 1)
    server.stop()
    running.reach(missed(running) + 100)
    for process in psutil.Process(running.front.pid).children(recursive=True):
        process.kill()
    running.front.kill()
    running.wait()
    server.start()
    done(folder, *command)
    once(running.run, server, 900)
    assert len(events(running.run, "start")) == 2


@pytest.mark.drill
def test_no_step_waits_for_a_server_that_never_answers(folder: Path, hole: str) -> None:
    """The ranks do not know of it: they have neither MLflow nor a connection. Another program may take their core for a
    moment, so the best of three runs counts; a step that waits for a tracker would do so in each."""
    port, delays = int(hole.rpartition(":")[2]), []
    for number in range(3):
        running = Running(folder, *words(hole, 2000), f"run.dir=run{number}")
        running.run = folder / f"run{number}"
        until(lambda: asks([psutil.Process(running.front.pid)], port), lambda: running.front.poll() is None)  # noqa: B023
        agent, ranks = running.processes()
        assert not asks([agent, *ranks], port)
        missed(running)
        assert running.wait() == 0
        assert "mlflow" not in (running.run / "logs/attempt_1/modules.txt").read_text().split()
        assert ended_after(running.run) < FLUSH_S + 5
        assert summary(running.run)["unsent_rows"] == len(lines(running.run / "metrics.jsonl"))
        delays.append(delay(running.run))
        if delays[-1] < DELAY_S:
            return
    pytest.fail(f"steps were late by {delays} s")


@pytest.mark.drill
def test_a_run_that_is_stopped_leaves_soon_although_nobody_answers(folder: Path, hole: str) -> None:
    running = Running(folder, *words(hole, 100000))
    missed(running)
    running.front.send_signal(signal.SIGTERM)
    assert running.wait() == 75
    assert ended_after(running.run) < FLUSH_S + 5
    assert "timed out" in summary(running.run)["tracker_trouble"]


def asks(processes: list[psutil.Process], port: int) -> bool:
    """Whether one of them has a connection to that port."""
    return any(c.raddr and c.raddr.port == port for process in processes for c in process.net_connections())


def ended_after(run: Path) -> float:
    """Seconds from the last row to the summary."""
    return (run / "summary.json").stat().st_mtime - float(lines(run / "metrics.jsonl")[-1]["time"])


def delay(run: Path) -> float:
    """By how much the slowest step of a run came later than its usual ones."""
    at = [row["time"] for row in lines(run / "metrics.jsonl") if row["step"] > 0]
    gaps = [b - a for a, b in itertools.pairwise(at)]
    return float(max(gaps) - statistics.median(gaps))


def audit_fails(running: Running) -> str:
    audit = trainkit(running.run.parent, "audit", "run")
    assert audit.returncode == 1
    return audit.stdout
