"""MLflow cannot be reached: training does not notice, and the rows arrive later."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.command import done, lines, summary, trainkit
from tests.e2e.test_interruption import mlflow_runs

NOWHERE = "http://127.0.0.1:1"  # a port that nothing listens on
WORDS = ("recipe=image_classification", "train.steps=20", "train.device=cpu", "run.dir=run", f"tracker.uri={NOWHERE}")


def test_training_completes_and_the_rows_are_sent_later(tmp_path: Path) -> None:
    text = done(tmp_path, *WORDS)
    run = tmp_path / "run"
    rows = lines(run / "metrics.jsonl")
    told = summary(run)
    assert (told["status"], told["step"]) == ("done", 20)
    assert told["unsent_rows"] == len(rows) == 21
    assert "ConnectionRefusedError" in told["tracker_trouble"]
    sync = f"python -m trainkit mlflow sync {run}"
    assert sync in [line.strip() for line in text.splitlines()]

    still_down = trainkit(tmp_path, *sync.split()[3:])
    assert still_down.returncode == 1
    assert still_down.stderr.startswith("error: the tracker did not take it: ConnectionRefusedError")
    assert len(still_down.stderr.splitlines()) == 1

    elsewhere = f"tracker.uri=sqlite:///{tmp_path}/mlflow.db"
    for _ in range(2):  # the second time there is nothing left to send
        assert "mlflow ui" in done(tmp_path, *sync.split()[3:], elsewhere)
    ((status, steps),) = mlflow_runs(tmp_path).values()
    assert (status, steps) == ("FINISHED", list(range(1, 21)))
