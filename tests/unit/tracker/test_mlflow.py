"""One MLflow run per run folder, whatever happens to the attempts, with every row in it once. Against sqlite."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.tracker.conftest import info, losses, measured, rows, seen
from trainkit.protocols import TrackerSession
from trainkit.tracker.mlflow import MOST_METRICS, Mlflow, _batches, _metrics, place

if TYPE_CHECKING:
    from mlflow.entities import Metric


def opened(uri: str, root: Path, attempt: int = 1, **params: str) -> TrackerSession:
    session = Mlflow(uri=uri, experiment="unit").open(info(root, attempt, **params))
    assert session is not None
    return session


def test_attempts_share_a_run_and_the_changed_keys_are_told(database: str, tmp_path: Path) -> None:
    root = tmp_path / "attempts"
    many = {f"key{i}": "x" for i in range(150)}  # more than MLflow takes at once
    first = opened(database, root, lr="0.1", prompt="long " * 2000, **many)
    first.log(rows(0, 1, 2))
    first.close("KILLED")
    assert seen(database, root).status == "KILLED"
    second = opened(database, root, 2, lr="0.2", prompt="long " * 2000, new="n", **many)
    assert seen(database, root).status == "RUNNING"
    second.log(rows(0, 1, 2, 3))  # the journal from its beginning
    second.close("FINISHED")
    found = seen(database, root)
    assert found.history == losses(0, 1, 2, 3)
    assert found.status == "FINISHED"
    assert (found.params["lr"], found.params["new"], len(found.params)) == ("0.1", "n", 153)
    assert {k: v for k, v in found.tags.items() if not k.startswith(("mlflow.", "trainkit.key"))} == {
        "trainkit.attempt": "2",
        "resume.2.lr": "0.2",
    }


def test_rows_that_came_through_without_an_answer_are_not_doubled(database: str, tmp_path: Path) -> None:
    """The first session's answer is lost, so a second sends the same rows again."""
    root = tmp_path / "answer"
    lost, again = opened(database, root), opened(database, root)
    lost.log(rows(1, 2, 3))
    again.log(rows(1, 2, 3, 4))
    assert seen(database, root).history == losses(1, 2, 3, 4)


def test_a_row_is_sent_whole_in_a_request_that_mlflow_takes(database: str, tmp_path: Path) -> None:
    """MLflow's own client would cut 2495 numbers after every thousandth, in the middle of a row."""
    wide = [row | {f"eval_{i}": 0.5 for i in range(3)} for row in rows(*range(1, 500))]
    requests = [[_metrics(row) for row in batch] for batch in _batches(wide)]
    assert [len(batch) for batch in requests] == [142, 142, 142, 73]  # a row of 5 counts 7 with its step and time
    assert max(sum(map(len, batch)) for batch in requests) <= MOST_METRICS
    opened(database, tmp_path / "many").log(wide)
    assert seen(database, tmp_path / "many").history == losses(*range(1, 500))


def test_what_a_failed_start_left_out_is_made_up_for(database: str, tmp_path: Path) -> None:
    """The server went down after it had made the run and before it had the params."""
    from mlflow import MlflowClient

    root = tmp_path / "half"
    info(root)
    client = MlflowClient(database)
    experiment = client.get_experiment_by_name("unit")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id, run_name="half")
    (root / "mlflow.json").write_text(json.dumps({"run_id": run.info.run_id, "uri": database}))
    opened(database, root, lr="0.1")
    found = seen(database, root)
    assert found.params == {"lr": "0.1"}
    assert not any(tag.startswith("resume.") for tag in found.tags)


def test_a_run_whose_making_was_not_answered_is_found_again(database: str, tmp_path: Path) -> None:
    """And what was asked for twice is one run in the end."""
    from mlflow import MlflowClient

    root = tmp_path / "unanswered"
    opened(database, root)
    note = json.loads((root / "mlflow.json").read_text())
    client = MlflowClient(database)
    made = client.get_run(note.pop("run_id"))
    client.create_run(made.info.experiment_id, run_name="unanswered", tags={"trainkit.key": note["key"]})
    (root / "mlflow.json").write_text(json.dumps(note))
    opened(database, root).log(rows(1, 2))
    assert seen(database, root).history == losses(1, 2)  # of the one run that there is


def test_another_store_gets_a_run_of_its_own(database: str, tmp_path: Path) -> None:
    root = tmp_path / "moved"
    info(root)
    (root / "mlflow.json").write_text(json.dumps({"run_id": "of-another-server", "uri": "http://elsewhere"}))
    opened(database, root).log(rows(1))
    (root / "mlflow.json").write_text(json.dumps({"run_id": "0" * 32, "uri": database}))  # its database was made anew
    opened(database, tmp_path / "moved").log(rows(1))
    assert json.loads((root / "mlflow.json").read_text())["run_id"] not in ("of-another-server", "0" * 32)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("sqlite:////a place/x.db", ["mlflow", "ui", "--backend-store-uri", "sqlite:////a place/x.db"]),
        ("http://h:5000", ["http://h:5000/#/experiments/3/runs/abc"]),
        ("http://me:pass@h:5000", ["http://h:5000/#/experiments/3/runs/abc"]),
        ("postgresql://me:pass@h/db", ["mlflow", "ui", "--backend-store-uri", "postgresql://(not shown)@h/db"]),
    ],
)
def test_the_way_to_look_can_be_pasted_into_a_shell_and_holds_no_password(uri: str, told: list[str]) -> None:
    assert shlex.split(place(uri, "3", "abc")) == told


@pytest.mark.parametrize(
    ("uri", "fine"),
    [
        *[(uri, True) for uri in ("http://h:5000", "sqlite:////tmp/x.db", "postgresql+psycopg2://h/db", "databricks")],
        *[(uri, False) for uri in ("localhost:5000", "mlruns", "htp://h", "file:///tmp/mlruns")],
    ],
)
def test_a_uri_that_mlflow_cannot_use_is_refused_before_the_start(uri: str, fine: bool) -> None:
    problems = Mlflow(uri=uri, experiment="x").problems()
    assert [problem.key for problem in problems] == ([] if fine else ["tracker.uri"])


def test_the_environment_says_where_unless_the_configuration_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    assert Mlflow(uri=None, experiment="x").resolved_uri() == "http://env"
    assert Mlflow(uri="http://own", experiment="x").resolved_uri() == "http://own"


def test_a_member_is_shown_below_its_sweep_whoever_comes_first(database: str, tmp_path: Path) -> None:
    """Both the members and the sweep itself may be the first to reach the tracker."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    for name in ("a", "b"):
        root = sweep / name
        session = Mlflow(uri=database, experiment="unit").open(replace(info(root), parent=sweep))
        assert session is not None
        session.close("FINISHED")
    opened(database, sweep).close("FINISHED")
    parent = json.loads((sweep / "mlflow.json").read_text())["run_id"]
    tags = [seen(database, root).tags for root in (sweep / "a", sweep / "b", sweep)]
    assert [tag.get("mlflow.parentRunId") for tag in tags] == [parent, parent, None]
    assert seen(database, sweep).status == "FINISHED"


def loads(uri: str, root: Path, host: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    run_id = json.loads((root / "mlflow.json").read_text())["run_id"]
    found = MlflowClient(uri).get_metric_history(run_id, f"system/{host}/cpu_utilization_percentage")
    return [(metric.step, metric.value) for metric in found]


def test_how_busy_machines_were_is_sent_once(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted here: a store in SQL would drop what comes again."""
    from mlflow import MlflowClient

    root, whole, sent = tmp_path / "busy", MlflowClient.log_batch, Counter[int]()

    def counted(client: MlflowClient, run_id: str, metrics: Sequence[Metric] = (), **more: Any) -> None:
        whole(client, run_id, metrics, **more)
        sent.update(m.step for m in metrics if m.key == "system/n1/cpu_utilization_percentage")

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    first = opened(database, root)
    first.measure(measured(root, 1, 2))
    first.measure(measured(root, 3))
    opened(database, root, 2).measure(measured(root, 4))
    assert sent == Counter([1, 2, 3, 4])
    assert loads(database, root, "n1") == [(1, 11.0), (2, 21.0), (3, 31.0), (4, 41.0)]


def test_a_wide_sample_of_which_a_part_came_through_is_sent_again(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    root, whole, calls = tmp_path / "part", MlflowClient.log_batch, list[int]()

    def interrupted(client: MlflowClient, run_id: str, metrics: Sequence[Metric] = (), **more: Any) -> None:
        calls.extend([len(metrics)] if metrics else [])
        if metrics and len(calls) == 2:
            raise ConnectionError
        whole(client, run_id, metrics, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", interrupted)
    with pytest.raises(ConnectionError):
        opened(database, root).measure(measured(root, 1, machines=1500))
    opened(database, root).measure(measured(root))
    assert loads(database, root, "n1499") == [(1, 1509.0)]


def test_more_machines_than_mlflow_takes_at_once(database: str, tmp_path: Path) -> None:
    root = tmp_path / "wide"
    opened(database, root).measure(measured(root, 1, 2, machines=1500))
    assert loads(database, root, "n0") == [(1, 10.0), (2, 20.0)]
    assert loads(database, root, "n1499") == [(1, 1509.0), (2, 1519.0)]
