"""A real MLflow: one sqlite file for all tests here, and a server process on it that can go down and come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_server import Server
from trainkit.protocols import RunInfo
from trainkit.runfolder import RunFolder, append_line, read_lines
from trainkit.tracker.mlflow import Mlflow


@pytest.fixture(scope="package")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sqlite store, in the working directory, as `tracker=mlflow` makes it."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        uri = Mlflow(uri=None, experiment="x").resolved_uri()
        assert uri == f"sqlite:///{folder}/mlflow.db"
        Mlflow(uri=None, experiment="unit").open(info(folder / "first"))
        yield uri


def info(root: Path, attempt: int = 1, **params: str) -> RunInfo:
    """A run folder with a config.yaml, and what a tracker is told about it."""
    root.mkdir(exist_ok=True)
    RunFolder(root).config.write_text("train: {}\n")
    return RunInfo(folder=root, name=root.name, params=params, tags={"trainkit.attempt": str(attempt)})


def rows(*steps: int, attempt: int = 1) -> list[dict[str, Any]]:
    """A step that is trained again gives the same loss at another time."""
    return [{"step": s, "samples": 4 * s, "loss": 1 / (1 + s), "time": 1e9 * attempt + s} for s in steps]


def write(root: Path, *steps: int, attempt: int = 1) -> None:
    """What training does: append rows to the run folder."""
    for row in rows(*steps, attempt=attempt):
        append_line(RunFolder(root).metrics, row)


def measured(root: Path, *numbers: int, machines: int = 2) -> list[dict[str, Any]]:
    """What the agent does: append how busy the machines n0, n1... were; all such rows of the folder."""
    path = RunFolder(root).system
    path.parent.mkdir(exist_ok=True)
    for number in numbers:
        loads = {f"n{n}": {"cpu_utilization_percentage": float(10 * number + n)} for n in range(machines)}
        append_line(path, {"sample": number, "time": 1e9 + number, "machines": loads})
    return [*read_lines(path)]


@dataclass
class Seen:
    """What MLflow holds of one run folder."""

    status: str
    params: dict[str, str]
    tags: dict[str, str]
    history: list[tuple[int, float]]


def seen(uri: str, root: Path) -> Seen:
    from mlflow import MlflowClient  # after Mlflow.open has made it quiet

    client = MlflowClient(uri)
    runs = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], f"attributes.run_name = '{root.name}'"
    )
    (run,) = runs
    history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
    return Seen(run.info.status, run.data.params, run.data.tags, sorted(history))


def losses(*steps: int) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows(*steps)]


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(database, tmp_path / "artifacts")
    yield server
    server.stop()
