"""MLflow: one run per run folder, continued by every attempt; the server is the truth about what it holds."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from trainkit.errors import Problem
from trainkit.protocols import RunInfo, TrackerSession
from trainkit.secrets import HIDDEN, without_login
from trainkit.tracker._mlflow_models import Models
from trainkit.tracker._mlflow_run import noted, open_run
from trainkit.tracker._numbers import by_machine

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

SAMPLE = "system/sample"
TIMEOUT, TIMEOUT_S, UPLOAD_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "10", "600"
MOST_METRICS = 1000  # of one log_batch
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """Where the runs go.

    uri       null: MLFLOW_TRACKING_URI, else a sqlite file in the working directory, which plain `mlflow ui` shows
    registry  the name under which the exported model is registered; null: it is not
    upload    the files of the exported model go there too, else only where they are
    """

    uri: str | None
    experiment: str
    registry: str | None = None
    upload: bool = False

    def problems(self) -> Sequence[Problem]:
        scheme = urlsplit(self.resolved_uri()).scheme.split("+")[0]
        if scheme in SCHEMES or self.resolved_uri() == "databricks":
            return ()
        hint = "for example http://HOST:5000, or null for a local file"
        return [Problem("tracker.uri", self.uri, f"must begin with one of {', '.join(SCHEMES)}", hint)]

    def resolved_uri(self) -> str:
        """Where the runs go."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"

    def open(self, info: RunInfo) -> TrackerSession | None:
        """Create the folder's run, or continue it. Raises what MLflow raises, soon: an outage must not block."""
        uri = self.resolved_uri()
        with _lock(uri):  # processes that create one sqlite file at the same time break it
            client = connect(uri)
            experiment = self._experiment(client, uri)
            run = open_run(client, experiment, info, uri)
            return MlflowSession(client, run, uri, Models(client, run, info, self.registry, self.upload))

    def held(self, folder: Path) -> Sequence[int] | None:
        known = noted(folder)
        if "run_id" not in known:
            return []
        mine = self.resolved_uri()  # the note has it without its password
        uri = mine if without_login(mine) == known["uri"] else known["uri"]
        return [metric.step for metric in connect(uri).get_metric_history(known["run_id"], "samples")]

    def _experiment(self, client: MlflowClient, uri: str) -> str:
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        local = (Path.cwd() / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
        return str(client.create_experiment(self.experiment, artifact_location=local))


def connect(uri: str) -> MlflowClient:
    """A client that is quiet, and says soon that its server is down. It is the follower that tries again."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault(TIMEOUT, TIMEOUT_S)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nobody was asked, and it would be one more outage
    level = os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    logging.getLogger("alembic").setLevel(logging.ERROR)

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(level.upper())  # somebody else may have imported it before the variable
    return MlflowClient(tracking_uri=uri)


@contextmanager
def patient() -> Iterator[None]:
    """For files: a server that passes them on to its store answers when all of one is there."""
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = UPLOAD_S if before == TIMEOUT_S else before
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before


def _lock(uri: str) -> Any:
    from contextlib import nullcontext

    from filelock import FileLock

    return FileLock(uri.removeprefix("sqlite:///") + ".lock") if uri.startswith("sqlite:///") else nullcontext()


class MlflowSession:
    """One open run."""

    def __init__(self, client: MlflowClient, run: Run, uri: str, models: Models) -> None:
        self._client, self._uri, self._models = client, uri, models
        self._id, self._experiment = run.info.run_id, run.info.experiment_id
        # Every row carries `samples`, which only grows: what the server holds of it says which rows it has.
        self._samples = run.data.metrics.get("samples", -1.0)
        self._measured = run.data.metrics.get(SAMPLE, 0.0)

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        new = [row for row in rows if row["samples"] > self._samples]
        for batch in _batches(new):
            self._client.log_batch(self._id, metrics=[metric for row in batch for metric in _metrics(row)])
            self._samples = batch[-1]["samples"]
        self._models.look(rows)

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        self._models.tell(events)

    def measure(self, samples: Sequence[Mapping[str, Any]]) -> None:
        new = [sample for sample in samples if sample["sample"] > self._measured]
        rows = [{"step": s["sample"], "time": s["time"], **by_machine(s), SAMPLE: s["sample"]} for s in new]
        for batch in _batches(rows):
            metrics = [metric for row in batch for metric in _metrics(row)]
            for begin in range(0, len(metrics), MOST_METRICS):  # a row of many machines may be too much for one
                self._client.log_batch(self._id, metrics=metrics[begin : begin + MOST_METRICS])
            self._measured = batch[-1]["step"]

    def artifact(self, name: str, text: str) -> None:
        self._client.log_text(self._id, text, name)

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        self._client.set_terminated(self._id, status=status)
        with patient():
            self._models.publish()  # last: it may take longer than a run waits for its tracker

    def abandon(self) -> None:
        """Nothing is held here."""

    def where(self) -> str:
        return place(self._uri, self._experiment, self._id)


def place(uri: str, experiment: str, run: str) -> str:
    """Where a person looks at a run: a link, or the command that shows it."""
    shown = without_login(uri)
    if shown.startswith("http"):
        return f"{shown.replace(f'{HIDDEN}@', '')}/#/experiments/{experiment}/runs/{run}"
    return f"mlflow ui --backend-store-uri {shlex.quote(shown)}"


def _metrics(row: Mapping[str, Any]) -> list[Metric]:
    from mlflow.entities import Metric

    step, at = row["step"], round(row["time"] * 1000)
    return [Metric(key, float(value), at, step) for key, value in row.items() if key not in ("step", "time")]


def _batches(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Whole rows, as many as fit into one request: a row is sent at once or not at all."""
    batch: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        if batch and size + len(row) > MOST_METRICS:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row)
    if batch:
        yield batch
