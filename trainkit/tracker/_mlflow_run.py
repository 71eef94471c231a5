"""Which run of MLflow belongs to a run folder: made once, whatever the server did in between, and continued."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trainkit.protocols import RunInfo
from trainkit.runfolder import replace_text
from trainkit.secrets import without_login

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
NOTE = "mlflow.json"  # in the folder: which run is its own, and where
KEY = "trainkit.key"  # a tag by which a run is found again whose making was not answered
MOST, LONGEST_PARAM = 100, 6000  # params or tags of one log_batch


def open_run(client: MlflowClient, experiment: str, info: RunInfo, uri: str) -> Run:
    """The run of this folder; a new one where there is none, with what a tracker is told about it.

    Of what was set differently by an earlier attempt, tags tell: MLflow refuses to change a param. What a run lacks,
    because the server went down in between, is made up for.
    """
    note = info.folder / NOTE
    run = _found(client, experiment, note, uri) or _made(client, experiment, note, uri, info.name)
    known, attempt = run.data.params, info.tags["trainkit.attempt"]
    changed = {k: v for k, v in _params(info.params).items() if known.get(k, v) != v}
    _describe(client, run, {k: v for k, v in info.params.items() if k not in known})
    resumed = {f"resume.{attempt}.{key}": value for key, value in changed.items()}
    _tag(client, run, dict(info.tags) | resumed | _below(client, experiment, info, uri))
    if run.info.status != "RUNNING":
        client.update_run(run.info.run_id, status="RUNNING")
    return run


def noted(folder: Path) -> dict[str, str]:
    """What the folder remembers: uri and key, and the run_id once it is known."""
    note = folder / NOTE
    return dict(json.loads(note.read_text())) if note.exists() else {}


def _found(client: MlflowClient, experiment: str, note: Path, uri: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    known = noted(note.parent)
    if known.get("uri") != without_login(uri):
        return None
    if "run_id" not in known:
        found = client.search_runs([experiment], f"tags.`{KEY}` = '{known['key']}'")
        for double in found[1:]:  # it was asked for twice, and not answered the first time
            client.delete_run(double.info.run_id)
        if found:
            _remember(note, known | {"run_id": found[0].info.run_id})
        return found[0] if found else None
    try:
        return client.get_run(known["run_id"])
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _made(client: MlflowClient, experiment: str, note: Path, uri: str, name: str) -> Run:
    known = {"uri": without_login(uri), "key": uuid.uuid4().hex}
    _remember(note, known)
    run = client.create_run(experiment, run_name=name, tags={KEY: known["key"]})
    _remember(note, known | {"run_id": run.info.run_id})
    return run


def _remember(note: Path, known: Mapping[str, str]) -> None:
    replace_text(note, json.dumps(known))


def _below(client: MlflowClient, experiment: str, info: RunInfo, uri: str) -> dict[str, str]:
    """The tag by which MLflow shows the run below that of its sweep, which the first of the members makes."""
    from filelock import FileLock

    if info.parent is None:
        return {}
    note = info.parent / NOTE
    with FileLock(f"{note}.lock"):  # members may start at the same time
        run = _found(client, experiment, note, uri) or _made(client, experiment, note, uri, info.parent.name)
    return {"mlflow.parentRunId": run.info.run_id}


def _describe(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    for some in _batches([Param(key, value) for key, value in _params(params).items()]):
        client.log_batch(run.info.run_id, params=some)


def _tag(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    for some in _batches([RunTag(key, value) for key, value in tags.items()]):
        client.log_batch(run.info.run_id, tags=some)


def _batches(entities: list[T]) -> Iterator[list[T]]:
    """As many as a request takes."""
    return (entities[i : i + MOST] for i in range(0, len(entities), MOST))


def _params(params: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:LONGEST_PARAM] for key, value in params.items()}
