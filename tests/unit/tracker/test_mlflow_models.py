"""Data, checkpoints and the exported model of a run in MLflow, once each whatever comes again; promotion. On sqlite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.mlflow_server import Server
from tests.unit.tracker.conftest import info, rows
from trainkit.errors import TrainkitError
from trainkit.protocols import TrackerSession
from trainkit.runfolder import RunFolder, append_line
from trainkit.tracker._mlflow_registry import Rule, back, promote, read_rule, versions_of
from trainkit.tracker.follower import sync
from trainkit.tracker.mlflow import Mlflow

DATA = {"train_samples": 100, "train_digest": "aa11", "heldout_samples": 20, "heldout_digest": "bb22"}


def looked(step: int, loss: float) -> dict[str, Any]:
    """The row of a step that was evaluated."""
    return rows(step)[0] | {"eval_loss": loss}


def start(step: int, attempt: int = 1) -> dict[str, Any]:
    return {"event": "start", "attempt": attempt, "step": step, **DATA}


def save(root: Path, step: int) -> dict[str, Any]:
    """A checkpoint that is there."""
    path = root / f"checkpoints/step_{step}"
    path.mkdir(parents=True, exist_ok=True)
    return {"event": "save", "step": step, "path": str(path)}


def done(root: Path, step: int) -> dict[str, Any]:
    (root / "model").mkdir(exist_ok=True)
    return {"event": "end", "step": step, "status": "done"}


def opened(uri: str, root: Path, attempt: int = 1, registry: str | None = None, upload: bool = False) -> TrackerSession:
    session = Mlflow(uri=uri, experiment="models", registry=registry, upload=upload).open(about(root, attempt))
    assert session is not None
    return session


def about(root: Path, attempt: int = 1) -> Any:
    known = info(root, attempt)
    return replace(known, tags={**known.tags, "recipe": "digits"})


def models(uri: str, root: Path) -> Mapping[str, Any]:
    """Those of a run folder by name, as MLflow has them."""
    from mlflow import MlflowClient

    client, run_id = MlflowClient(uri), json.loads((root / "mlflow.json").read_text())["run_id"]
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    assert len({model.name for model in found}) == len(found)
    return {model.name: model for model in found}


def run_of(uri: str, root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri).get_run(json.loads((root / "mlflow.json").read_text())["run_id"])


def test_data_are_inputs_with_their_number_and_digest(database: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for attempt in (1, 2):
        opened(database, root, attempt).tell([start(0, attempt)])
    found = {i.dataset.name: i for i in run_of(database, root).inputs.dataset_inputs}
    assert {name: (i.dataset.digest, json.loads(i.dataset.profile)) for name, i in found.items()} == {
        "digits train": ("aa11", {"num_rows": 100}),
        "digits heldout": ("bb22", {"num_rows": 20}),
    }
    assert [tag.value for tag in found["digits train"].tags] == ["training"]


def test_a_checkpoint_is_a_model_that_says_where_it_is_and_how_good(database: str, tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    session = opened(database, root)
    events = [start(0), save(root, 2), save(root, 3)]
    session.log([*rows(1), looked(2, 0.5), *rows(3)])
    session.tell(events)
    found = models(database, root)
    assert {name: {m.key: m.value for m in model.metrics or []} for name, model in found.items()} == {
        "step_2": {"eval_loss": 0.5},
        "step_3": {},  # not evaluated at that step
    }
    step = found["step_2"]
    assert step.tags["trainkit.uri"] == (root / "checkpoints/step_2").as_uri()
    assert (step.status, step.model_type, step.metrics[0].dataset_name) == ("READY", "checkpoint", "digits heldout")
    outputs = run_of(database, root).outputs.model_outputs
    assert {(output.model_id, output.step) for output in outputs} == {
        (m.model_id, int(m.name[5:])) for m in found.values()
    }


def test_what_comes_again_or_late_is_there_once(database: str, tmp_path: Path) -> None:
    """The row of the evaluation may come after the save; after a fault all comes again, to another session."""
    root = tmp_path / "again"
    first = opened(database, root)
    first.tell([start(0), save(root, 2)])
    first.log([looked(2, 0.25)])
    for attempt in (1, 2):
        again = opened(database, root, attempt)
        again.log([looked(2, 0.25)])
        again.tell([start(0), save(root, 2)])
    (model,) = models(database, root).values()
    assert [(m.key, m.value) for m in model.metrics] == [("eval_loss", 0.25)]
    assert len(run_of(database, root).outputs.model_outputs) == 1


def test_a_deleted_checkpoint_is_no_model_unless_a_copy_stands(database: str, tmp_path: Path) -> None:
    root = tmp_path / "deleted"
    session = opened(database, root)
    session.tell([start(0), save(root, 1), save(root, 2), {"event": "copy", "step": 2, "path": "s3://b/step_2"}])
    for step in (1, 2):
        (root / f"checkpoints/step_{step}").rmdir()
    session.tell([save(root, 3)])
    found = models(database, root)
    assert sorted(found) == ["step_2", "step_3"]
    assert found["step_2"].tags["trainkit.copy"] == "s3://b/step_2"


def test_an_attempt_is_linked_to_the_checkpoint_from_which_it_goes_on(database: str, tmp_path: Path) -> None:
    root = tmp_path / "attempts"
    opened(database, root).tell([start(0), save(root, 2)])
    opened(database, root, 2).tell([start(0), save(root, 2), start(2, attempt=2), save(root, 4)])
    found, run = models(database, root), run_of(database, root)
    assert [i.model_id for i in run.inputs.model_inputs] == [found["step_2"].model_id]
    assert run.data.tags["attempt.2.from"] == f"step_2 of attempt 1 (models:/{found['step_2'].model_id})"
    assert [found[name].tags["trainkit.attempt"] for name in ("step_2", "step_4")] == ["1", "2"]


# ------------------------------------------------------------------------------------------- the registry


def trained(database: str, root: Path, loss: float, registry: str) -> Any:
    """A run that is done and has registered its model; the version."""
    from mlflow import MlflowClient

    session = opened(database, root, registry=registry)
    session.log([looked(5, loss)])
    session.tell([start(0), save(root, 5), done(root, 5)])
    session.close("FINISHED")
    (version,) = versions_of(MlflowClient(database), registry, json.loads((root / "mlflow.json").read_text())["run_id"])
    return version


def test_the_exported_model_is_registered_once_as_the_candidate(database: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(database)
    first = trained(database, tmp_path / "first", 0.5, "once")
    assert client.get_model_version_by_alias("once", "candidate").version == first.version
    model = models(database, tmp_path / "first")["model_5"]
    assert (model.model_id, model.model_type) == (first.tags["trainkit.model_id"], "model")
    assert {m.key: m.value for m in model.metrics} == {"eval_loss": 0.5}
    assert model.tags["trainkit.uri"] == (tmp_path / "first/model").as_uri()
    second = trained(database, tmp_path / "second", 0.4, "once")
    assert trained(database, tmp_path / "first", 0.5, "once").version == first.version  # told again
    assert client.get_model_version_by_alias("once", "candidate").version == second.version


def test_the_files_of_the_model_are_sent_once_if_asked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a real server, from which whoever asks for the alias gets them; an end in the middle leaves the rest for the
    next time."""
    import mlflow
    from mlflow import MlflowClient

    server.start()
    root, sent = tmp_path / "my files", []
    whole = MlflowClient.log_model_artifacts

    def counted(client: MlflowClient, model: str, folder: str) -> None:
        sent.append(model)
        if len(sent) == 1:
            client.log_model_artifact(model, f"{folder}/config.json")
            raise ConnectionError
        whole(client, model, folder)

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", counted)
    (root / "model/sub").mkdir(parents=True)
    files = {"config.json": "{}", "sub/weights.bin": "w" * 1000}
    for name, text in files.items():
        (root / "model" / name).write_text(text)
    for attempt in (1, 2, 3):
        session = opened(server.uri, root, attempt, registry="files", upload=True)
        session.tell([start(0), save(root, 5), save(root, 6), done(root, 5)])
        with nullcontext() if attempt > 1 else pytest.raises(ConnectionError):
            session.close("FINISHED")
        if attempt == 1:  # nobody is sent to a model that is not there
            assert MlflowClient(server.uri).search_registered_models("name = 'files'") == []
    assert len(sent) == 2
    known = models(server.uri, root)
    assert known["model_5"].tags["trainkit.uploaded"] == "true"
    assert "trainkit.uploaded" not in known["step_5"].tags and "step_6" in known
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    got = Path(mlflow.artifacts.download_artifacts("models:/files@candidate"))
    assert {name: (got / name).read_text() for name in files} == files


def test_nothing_is_registered_unless_asked_for(database: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    opened(database, tmp_path / "plain").tell([start(0), done(tmp_path / "plain", 5)])
    assert "model_5" in models(database, tmp_path / "plain")
    run_id = json.loads((tmp_path / "plain/mlflow.json").read_text())["run_id"]
    assert MlflowClient(database).search_model_versions(f"run_id = '{run_id}'") == []


def test_an_alias_moves_only_to_what_is_better_and_back(database: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client, rule = MlflowClient(database), read_rule("eval_loss<=champion")
    one, worse, better = (
        trained(database, tmp_path / name, loss, "moves")
        for name, loss in (("one", 0.5), ("worse", 0.6), ("better", 0.4))
    )

    def champion() -> str:
        return str(client.get_model_version_by_alias("moves", "champion").version)

    assert promote(client, one, "champion", rule) == (
        True,
        "version 1 of moves is champion now: no version is champion yet",
    )
    done, told = promote(client, worse, "champion", rule)
    assert (done, champion()) == (False, "1")
    assert "eval_loss 0.6 <= 0.5 of champion (version 1) does not hold; champion stays version 1" in told
    done, told = promote(client, better, "champion", rule)
    assert (done, champion()) == (True, "3")
    assert told.endswith("(before: version 1)")
    assert promote(client, better, "champion", rule)[0]
    assert promote(client, worse, "champion", None)[0]
    assert champion() == "2"
    assert "version 3 of moves is champion again (before: version 2)" in back(client, "moves", "champion")
    assert champion() == "3"
    client.delete_model_version("moves", "1")
    with pytest.raises(TrainkitError, match="no version of moves was champion before version 3"):
        back(client, "moves", "champion")
    assert champion() == "3"


def test_a_rule_may_have_a_number_and_a_metric_that_is_not_there_is_told(database: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client, version = MlflowClient(database), trained(database, tmp_path / "number", 0.5, "numbers")
    assert not promote(client, version, "champion", read_rule("eval_loss < 0.5"))[0]
    assert promote(client, version, "champion", read_rule("eval_loss<=5e-1"))[0]
    with pytest.raises(TrainkitError, match="has no eval_accuracy; its metrics: eval_loss"):
        promote(client, version, "staging", read_rule("eval_accuracy>0.9"))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("eval_loss<=champion", Rule("eval_loss", "<=", "champion")),
        (" eval_loss >= 1e-3 ", Rule("eval_loss", ">=", "1e-3")),
        ("eval_loss<0.5", Rule("eval_loss", "<", "0.5")),
        *[(text, None) for text in ("eval_loss", "eval_loss=champion", "<champion", "eval_loss<", "a<b<c", "")],
    ],
)
def test_rules(text: str, rule: Rule | None) -> None:
    assert read_rule(text) == rule


def test_a_sync_makes_the_models_too(database: str, tmp_path: Path) -> None:
    root = tmp_path / "sync"
    known = about(root)
    events: Sequence[dict[str, Any]] = [start(0), save(root, 2), done(root, 2)]
    for event in events:
        append_line(RunFolder(root).events, event)
    append_line(RunFolder(root).metrics, looked(2, 0.5))
    for _ in range(2):
        sync(Mlflow(uri=database, experiment="models"), known, "FINISHED")
    assert sorted(models(database, root)) == ["model_2", "step_2"]
