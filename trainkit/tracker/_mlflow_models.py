"""What a run read and what came out of it: data as inputs, checkpoints and the exported model as models that say where
they are and how good. They hold no weights, unless those of the exported model are asked for.

All of it is made from events and rows that may come again, so each is looked up before it is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from trainkit.protocols import RunInfo
from trainkit.tracker._mlflow_registry import register

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

STEP, URI, COPY, ATTEMPT = "trainkit.step", "trainkit.uri", "trainkit.copy", "trainkit.attempt"
REPLACED, SENT = "trainkit.replaced", "trainkit.uploaded"
MODEL = "model"  # the folder of the exported one
CONTEXT = {"train": "training", "heldout": "evaluation"}


class Models:
    """Those of one run. `registry`: under which name the exported model is registered; None: not at all. `sends`: its
    files too."""

    def __init__(self, client: MlflowClient, run: Run, info: RunInfo, registry: str | None, sends: bool) -> None:
        self._client, self._run, self._info, self._registry = client, run, info, registry
        self._sends = sends
        self._final: LoggedModel | None = None  # the exported one, once there is one
        self._id, self._experiment = run.info.run_id, run.info.experiment_id
        self._looks: dict[int, Mapping[str, Any]] = {}  # the rows that have held-out metrics, by step
        self._data: dict[str, str] = {}  # of the held-out data, as a metric names it
        self._attempt, self._known = 0, self._listed()

    def look(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows of metrics.jsonl. One may come later than the save of its step."""
        for row in rows:
            if "eval_loss" in row:
                self._looks[row["step"]] = row
                for model in [model for model in self._known.values() if model.tags.get(STEP) == str(row["step"])]:
                    self._judge(model)

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Events of events.jsonl. A checkpoint that is deleted already is not told."""
        for event in events:
            if event["event"] == "start":
                self._started(event)
            elif event["event"] == "save" and Path(event["path"]).exists():
                self._checkpoint(event)
            elif event["event"] == "copy" and (model := self._known.get(f"step_{event['step']}")) is not None:
                self._client.set_logged_model_tags(model.model_id, {COPY: event["path"]})
                model.tags[COPY] = event["path"]
            elif event is events[-1] and event["event"] == "end" and event["status"] == "done":
                self._exported(event["step"])  # of a run that went on from there, the model is another one by now

    def _started(self, event: Mapping[str, Any]) -> None:
        """The data it reads, and the checkpoint from which it goes on."""
        from mlflow.entities import LoggedModelInput

        self._attempt = event["attempt"]
        read = {kind: self._dataset(kind, event) for kind in CONTEXT if f"{kind}_digest" in event}
        self._client.log_inputs(self._id, [*read.values()])
        if "heldout" in read:
            name, digest = read["heldout"].dataset.name, read["heldout"].dataset.digest
            self._data = {"dataset_name": name, "dataset_digest": digest}
        before = self._known.get(f"step_{event['step']}")
        inputs = self._run.inputs.model_inputs or [] if self._run.inputs else []
        if before is not None and event["step"] > 0 and before.model_id not in [i.model_id for i in inputs]:
            self._client.log_inputs(self._id, models=[LoggedModelInput(before.model_id)])
            source = f"{before.name} of attempt {before.tags.get(ATTEMPT, '?')} (models:/{before.model_id})"
            self._client.set_tag(self._id, f"attempt.{self._attempt}.from", source)

    def _dataset(self, kind: str, event: Mapping[str, Any]) -> Any:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=f"{self._info.tags.get('recipe', self._info.name)} {kind}",
            digest=event[f"{kind}_digest"],
            source_type="trainkit",
            source=json.dumps({"recipe": self._info.params.get("recipe._target_", "")}),
            profile=json.dumps({"num_rows": event[f"{kind}_samples"]}),
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", CONTEXT[kind])])

    def _checkpoint(self, event: Mapping[str, Any]) -> None:
        name = f"step_{event['step']}"
        if name not in self._known:
            self._make(name, "checkpoint", event["step"], Path(event["path"]))
        kept = [m for m in self._known.values() if m.model_type == "checkpoint" and COPY not in m.tags]
        for gone in [m.name for m in kept if not Path(_path(m)).exists()]:
            self._client.delete_logged_model(self._known.pop(gone).model_id)

    def _exported(self, step: int) -> None:
        folder = self._info.folder / MODEL
        if not folder.exists():
            return
        name = f"model_{step}"
        model = self._known.get(name) or self._make(name, "model", step, folder)
        for old in [m for m in self._known.values() if m.model_type == "model" and m.name != name]:
            self._client.set_logged_model_tags(old.model_id, {REPLACED: name})
        self._final = model

    def publish(self) -> None:
        """Send the files of the exported model, once (after an end in the middle of it, all of them again), and
        register it: whoever asks for the candidate finds them there."""
        model = self._final
        if model is None:
            return
        if self._sends and SENT not in model.tags:
            self._client.log_model_artifacts(model.model_id, str(self._info.folder / MODEL))
            self._client.set_logged_model_tags(model.model_id, {SENT: "true"})
            model.tags[SENT] = "true"
        if self._registry is not None:
            register(self._client, self._registry, self._id, model)

    def _make(self, name: str, kind: str, step: int, path: Path) -> LoggedModel:
        """The client's own create_logged_model, not mlflow.create_external_model: that would write to whatever store
        this process thinks of as the current one."""
        from mlflow.entities import LoggedModelOutput

        tags = {STEP: str(step), URI: path.absolute().as_uri(), ATTEMPT: str(self._attempt)}
        external = "false" if kind == "model" and self._sends else "true"
        tags |= {"mlflow.model.isExternal": external, "trainkit.run_dir": str(self._info.folder)}
        model = self._client.create_logged_model(self._experiment, name, self._id, tags, model_type=kind)
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(self._id, [LoggedModelOutput(model.model_id, step)])
        self._known[name] = model
        self._judge(model)
        return model

    def _judge(self, model: LoggedModel) -> None:
        """Tell how good a model is, where its very step was evaluated."""
        from mlflow.entities import Metric

        step = int(model.tags[STEP])
        row = self._looks.get(step)
        if row is None or model.metrics:
            return
        about: dict[str, Any] = {"model_id": model.model_id, "run_id": self._id, **self._data}
        at = round(row["time"] * 1000)
        found = [Metric(k, float(v), at, step, **about) for k, v in row.items() if k.startswith("eval_")]
        self._client.log_batch(self._id, metrics=found)
        model.metrics = found

    def _listed(self) -> dict[str, LoggedModel]:
        """What the run has already, by name."""
        found: dict[str, LoggedModel] = {}
        token: str | None = None
        while True:
            page = self._client.search_logged_models(
                [self._experiment], f"source_run_id = '{self._id}'", page_token=token
            )
            found |= {model.name: model for model in page}
            if not (token := page.token):
                return found


def _path(model: LoggedModel) -> str:
    return unquote(urlsplit(model.tags.get(URI, "")).path)
