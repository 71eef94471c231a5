"""MLflow: one run per run folder, continued by every attempt; the server is the truth about what it holds."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from trainkit.errors import Problem
from trainkit.protocols import RunInfo, TrackerSession
from trainkit.runfolder import replace_text
from trainkit.secrets import without_login

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

MOST_METRICS, MOST_PARAMS, LONGEST_PARAM = 1000, 100, 6000  # of one log_batch
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


@dataclass(frozen=True, kw_only=True)
class Mlflow:
    """`uri` null: MLFLOW_TRACKING_URI, else a sqlite file in the working directory, which plain `mlflow ui` shows."""

    uri: str | None
    experiment: str

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
            client = _client(uri)
            experiment = self._experiment(client, uri)
            run = _continue(client, info, uri) or _create(client, experiment, info, uri)
        return MlflowSession(client, run, uri)

    def held(self, folder: Path) -> Sequence[int] | None:
        note = folder / "mlflow.json"
        if not note.exists():
            return []
        known = json.loads(note.read_text())
        return [metric.step for metric in _client(known["uri"]).get_metric_history(known["run_id"], "samples")]

    def _experiment(self, client: MlflowClient, uri: str) -> str:
        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        local = (Path.cwd() / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
        return str(client.create_experiment(self.experiment, artifact_location=local))


def _client(uri: str) -> MlflowClient:
    """A client that is quiet, and says soon that its server is down."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    level = os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    logging.getLogger("alembic").setLevel(logging.ERROR)

    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(level.upper())  # somebody else may have imported it before the variable
    return MlflowClient(tracking_uri=uri)


def _lock(uri: str) -> Any:
    from contextlib import nullcontext

    from filelock import FileLock

    return FileLock(uri.removeprefix("sqlite:///") + ".lock") if uri.startswith("sqlite:///") else nullcontext()


def _continue(client: MlflowClient, info: RunInfo, uri: str) -> Run | None:
    """The run that an earlier attempt made. What was set differently this time becomes tags: MLflow refuses to change
    a param. What it lacks, because the server went down in between, is made up for."""
    from mlflow.exceptions import MlflowException

    note = info.folder / "mlflow.json"
    if not note.exists():
        return None
    known = json.loads(note.read_text())
    if known["uri"] != uri:
        return None
    try:
        run = client.get_run(known["run_id"])
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    known_params, attempt = run.data.params, info.tags["trainkit.attempt"]
    changed = {k: v for k, v in _params(info.params).items() if known_params.get(k, v) != v}
    _describe(client, run, {k: v for k, v in info.params.items() if k not in known_params})
    _tag(client, run, dict(info.tags) | {f"resume.{attempt}.{key}": value for key, value in changed.items()})
    client.update_run(run.info.run_id, status="RUNNING")
    return run


def _create(client: MlflowClient, experiment: str, info: RunInfo, uri: str) -> Run:
    run = client.create_run(experiment, run_name=info.name)
    replace_text(info.folder / "mlflow.json", json.dumps({"run_id": run.info.run_id, "uri": uri}))
    _describe(client, run, info.params)
    _tag(client, run, dict(info.tags) | _below(client, experiment, info, uri))
    return run


def _below(client: MlflowClient, experiment: str, info: RunInfo, uri: str) -> dict[str, str]:
    """The tag by which MLflow shows the run below that of its sweep, which the first of the members makes."""
    from filelock import FileLock

    if info.parent is None:
        return {}
    note = info.parent / "mlflow.json"
    with FileLock(f"{note}.lock"):  # members may start at the same time
        known = json.loads(note.read_text()) if note.exists() else {}
        if known.get("uri") != uri:
            run = client.create_run(experiment, run_name=info.parent.name)
            known = {"run_id": run.info.run_id, "uri": uri}
            replace_text(note, json.dumps(known))
    return {"mlflow.parentRunId": known["run_id"]}


def _describe(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    entities = [Param(key, value) for key, value in _params(params).items()]
    for i in range(0, len(entities), MOST_PARAMS):
        client.log_batch(run.info.run_id, params=entities[i : i + MOST_PARAMS])


def _tag(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    entities = [RunTag(key, value) for key, value in tags.items()]
    for i in range(0, len(entities), MOST_PARAMS):
        client.log_batch(run.info.run_id, tags=entities[i : i + MOST_PARAMS])


def _params(params: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:LONGEST_PARAM] for key, value in params.items()}


class MlflowSession:
    """One open run."""

    def __init__(self, client: MlflowClient, run: Run, uri: str) -> None:
        self._client, self._uri = client, uri
        self._id, self._experiment = run.info.run_id, run.info.experiment_id
        # Every row carries `samples`, which only grows: what the server holds of it says which rows it has.
        self._samples = run.data.metrics.get("samples", -1.0)

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        new = [row for row in rows if row["samples"] > self._samples]
        for batch in _batches(new):
            self._client.log_batch(self._id, metrics=[metric for row in batch for metric in _metrics(row)])
            self._samples = batch[-1]["samples"]

    def artifact(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        self._client.set_terminated(self._id, status=status)

    def where(self) -> str:
        uri = without_login(self._uri)
        if uri.startswith("http"):
            return f"{uri}/#/experiments/{self._experiment}/runs/{self._id}"
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


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
