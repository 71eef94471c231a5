"""tracker=[a,b]: each with its own keys and thread; TensorBoard's files and Prometheus' page as others read them."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import until
from tests.unit.tracker.conftest import info, losses, measured, rows, seen, write
from trainkit.config import build, compose
from trainkit.errors import ConfigError
from trainkit.runfolder import RunFolder, truncate_after
from trainkit.tail import Tail
from trainkit.tracker import follower
from trainkit.tracker._several import parts, several
from trainkit.tracker.follower import Followers, sync
from trainkit.tracker.mlflow import Mlflow
from trainkit.tracker.none import NoTracker
from trainkit.tracker.prometheus import Prometheus
from trainkit.tracker.tensorboard import Tensorboard

pytest.importorskip("tensorboard", reason="pip install 'trainkit[tensorboard]'")
WORDS = ("recipe=image_classification", "train.device=cpu")


def trackers(**chosen: Any) -> Any:
    return several({name: type(tracker) for name, tracker in chosen.items()})(**chosen)


def curve(folder: Path, tag: str = "train/loss") -> list[tuple[int, float]]:
    """What TensorBoard shows of it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(tag)]


def page(where: str, by: str = "") -> dict[str, float]:
    """Prometheus' text format: name{labels} value. By name; or those that have the label `by`, by that."""
    url = f"http://127.0.0.1:{where.rpartition(':')[2]}"
    lines = urllib.request.urlopen(url, timeout=5).read().decode().splitlines()
    found = {line: float(line.split()[-1]) for line in lines if line.startswith("trainkit_")}
    if not by:
        return {line.split("{")[0]: value for line, value in found.items()}
    labels = {line: re.search(f'[{{,]{by}="([^"]*)"', line) for line in found}
    return {label[1]: found[line] for line, label in labels.items() if label}


# ------------------------------------------------------------------------------------------ configuration


def test_each_has_its_keys_below_its_name() -> None:
    words = ("tracker=[mlflow,tensorboard,prometheus]", "tracker.mlflow.experiment=robots", "tracker.prometheus.port=0")
    settings, problems = build(compose([*WORDS, *words]))
    assert problems == [] and settings is not None
    assert parts(settings.tracker) == {
        "mlflow": Mlflow(uri=None, experiment="robots"),
        "tensorboard": Tensorboard(dir=None),
        "prometheus": Prometheus(port=0),
    }


def test_one_alone_is_as_it_was() -> None:
    config = compose([*WORDS, "tracker=tensorboard"])
    assert config["tracker"] == {"_target_": "trainkit.tracker.tensorboard.Tensorboard", "dir": None}


@pytest.mark.parametrize(
    ("words", "key", "told"),
    [
        (["tracker=[mlflow,tensorbord]"], "tracker", "there is no such tracker"),
        (["tracker=[mlflow,mlflow]"], "tracker", "there is no such tracker"),
        (["tracker=[]"], "tracker", "there is no such tracker"),
        (["strategy=[ddp,fsdp]"], "strategy", "there is no such strategy"),
    ],
)
def test_a_choice_that_is_none(words: list[str], key: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([*WORDS, *words])
    assert [(problem.key, told in problem.message) for problem in refused.value.problems] == [(key, True)]


@pytest.mark.parametrize(
    ("word", "key", "told"),
    [
        ("tracker.mlflow.url=x", "tracker.mlflow.url", "there is no such key"),
        ("tracker.uri=http://h", "tracker.uri", ""),
        ("tracker.prometheus.port=70000", "tracker.prometheus.port", "65535"),
    ],
)
def test_a_wrong_key_is_named_where_it_stands(word: str, key: str, told: str) -> None:
    _, problems = build(compose([*WORDS, "tracker=[mlflow,prometheus]", word]))
    assert [problem.key.split("._target_")[0] for problem in problems] == [key]
    assert told in problems[0].message


def test_problems_are_told_of_the_one_that_has_them() -> None:
    chosen = trackers(mlflow=Mlflow(uri="localhost:5000", experiment="x"), none=NoTracker())
    assert [problem.key for problem in chosen.problems()] == ["tracker.mlflow.uri"]


# ---------------------------------------------------------------------------------------- while a run trains


def test_a_fault_of_one_touches_no_other(database: str, tmp_path: Path) -> None:
    root = tmp_path / "several"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = trackers(
            mlflow=Mlflow(uri=database, experiment="unit"),
            tensorboard=Tensorboard(dir=None),
            prometheus=Prometheus(port=taken.getsockname()[1]),
        )
        followers = Followers(chosen, info(root))
        followers.start()
        write(root, 1, 2, 3)
        assert followers.finish("FINISHED", 30) == 3
    assert followers.trouble is not None and followers.trouble.startswith("prometheus: OSError: ")
    assert seen(database, root).history == losses(1, 2, 3)
    assert curve(root / "tensorboard") == losses(1, 2, 3)
    assert followers.where is not None and "mlflow ui" in followers.where and "tensorboard --logdir" in followers.where
    assert chosen.held(root) is not None and sorted(chosen.held(root)) == [1, 2, 3]


def test_tensorboard_has_what_the_journal_has_also_after_a_run_went_back(tmp_path: Path) -> None:
    root, chosen = tmp_path / "back", Tensorboard(dir=None)
    for attempt, steps in ((1, (1, 2, 3, 4)), (2, (3, 4, 5))):
        if attempt == 2:
            truncate_after(RunFolder(root).metrics, 2)
        followers = Followers(chosen, info(root, attempt))
        followers.start()
        write(root, *steps, attempt=attempt)
        assert followers.finish("KILLED", 30) == 0
    assert curve(root / "tensorboard") == losses(1, 2, 3, 4, 5)
    sync(Tensorboard(dir=str(tmp_path / "all")), info(root), "FINISHED")
    assert curve(tmp_path / "all/back") == losses(1, 2, 3, 4, 5)


def test_prometheus_sees_the_newest_row_and_counts_events_until_the_end(tmp_path: Path) -> None:
    root = tmp_path / "scraped"
    followers = Followers(Prometheus(port=0), info(root))
    followers.start()
    write(root, 1, 2)
    RunFolder(root).event("restart", attempt=2)
    until(lambda: followers.where is not None, "it listens")
    where = str(followers.where).removesuffix("/metrics")
    until(lambda: page(where).get("trainkit_events_total") == 1, "the event is counted")
    assert {key: page(where)[f"trainkit_{key}"] for key in ("step", "loss", "step_seconds")} == {
        "step": 2,
        "loss": rows(2)[0]["loss"],
        "step_seconds": 1,
    }
    assert followers.finish("FINISHED", 30) == 0
    with pytest.raises(urllib.error.URLError):
        page(where)


def test_tensorboard_and_prometheus_show_how_busy_machines_are(tmp_path: Path) -> None:
    root = tmp_path / "busy"
    followers = Followers(trackers(tensorboard=Tensorboard(dir=None), prometheus=Prometheus(port=0)), info(root))
    measured(root, 1, 2)
    followers.start()
    write(root, 1)
    until(lambda: followers.where is not None and "/metrics" in followers.where, "it listens")
    where = str(followers.where).removesuffix("/metrics")
    until(lambda: page(where, by="host").get("n1") == 21.0, "the newest is shown")
    measured(root, 3, machines=1)
    until(lambda: page(where, by="host") == {"n0": 30.0}, "a machine that is lost is not")
    assert followers.finish("FINISHED", 30) == 0
    tag = "system/n0/cpu_utilization_percentage"
    assert curve(root / "tensorboard", tag) == [(1, 10.0), (2, 20.0), (3, 30.0)]


def test_a_disk_that_cannot_be_read_for_a_moment_costs_prometheus_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its port is free for the session that follows."""
    monkeypatch.setattr(follower, "INTERVAL_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    root, read, faults = tmp_path / "stale", Tail.rows, [OSError("stale file handle")]

    def stale(tail: Tail) -> list[dict[str, Any]]:
        if "/metrics" in str(followers.where) and faults:
            raise faults.pop()
        return read(tail)

    monkeypatch.setattr(Tail, "rows", stale)
    followers = Followers(Prometheus(port=port), info(root))
    followers.start()
    write(root, 1)
    until(lambda: not faults, "it could not be read")
    write(root, 2)
    until(lambda: followers.trouble is None, "it can again")
    assert page(f":{port}")["trainkit_step"] == 2
    assert followers.finish("FINISHED", 30) == 0
