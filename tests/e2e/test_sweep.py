"""Sweeps as a person gives them: what ends early goes on, and nothing runs twice."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import PATIENCE_S, TRAINKIT, environment, events, last_step, summary, trainkit, until
from tests.e2e.own import recipe_of_ones_own

SHORT = (
    *("sweep", "recipe=image_classification", "train.device=cpu", "train.steps=20", "checkpoint.every=5"),
    *("recovery.raised=0", "run.dir=swept"),
)
GRID = ("recipe.width=8,12", "train.seed=1,2")
NOT_TRACKED = ("tracker=none",)


def started(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    out = (folder / "said").open("ab")
    return subprocess.Popen([*TRAINKIT, *words], cwd=folder, env=environment(), stdout=out, stderr=out)


def table(folder: Path) -> dict[str, dict[str, str]]:
    return {row["member"]: row for row in csv.DictReader((folder / "swept/table.csv").open())}


def members(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "swept").glob("*/events.jsonl"))


def test_a_word_that_is_wrong_starts_nothing(tmp_path: Path) -> None:
    said = trainkit(tmp_path, *SHORT, "optimizer.lr=1e-3,-1", "train.seed=1,x", "train.stepz=3")
    assert said.returncode == 2
    assert said.stderr.count("train.stepz") == 1
    assert "train.seed=x: in members lr=0.001_seed=x, lr=-1_seed=x: should be an integer" in said.stderr
    assert "optimizer.lr=-1: in members lr=-1_seed=1, lr=-1_seed=x: should be greater than 0" in said.stderr
    assert "3 problems" in said.stderr
    interval = trainkit(tmp_path, *SHORT, "optimizer.lr=interval(1e-3,1)")
    assert interval.returncode == 2
    assert "add --sampler tpe --trials N" in interval.stderr
    option = trainkit(tmp_path, *SHORT, "train.seed=1,2", "--pruner", "median")
    assert "did you mean --prune?" in option.stderr
    assert [*tmp_path.iterdir()] == []


def test_its_help_has_an_example_that_is_no_error(tmp_path: Path) -> None:
    said = trainkit(tmp_path, "sweep", "--help").stdout
    assert "sweep recipe=image_classification train.seed=1,2 train.steps=2 " in said
    assert "--sampler grid " in said and "--trials N " in said
    assert "tag(log,interval(1e-5,1e-3))" in said
    assert "several runs that differ in some keys" in trainkit(tmp_path, "--help").stdout


@pytest.mark.slow
def test_a_grid_with_a_member_that_fails_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """The narrow model fails once."""
    recipe_of_ones_own(tmp_path, fails="self.width == 8")
    words = ("sweep", "recipe=mine", *SHORT[2:], "recipe.width=8,12")
    (tmp_path / "broken").touch()
    first = trainkit(tmp_path, *words)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "swept: 1 failed, 1 done" in first.stdout
    assert "broken in a step (step 11)" in first.stdout.replace("\n", " ")
    assert f"python -m trainkit {' '.join(w for w in words if w[:4] != 'run.')}" in first.stdout
    assert [table(tmp_path)[name]["status"] for name in ("width=8", "width=12")] == ["failed", "done"]
    before = (tmp_path / "swept/width=12/events.jsonl").read_bytes()

    again = trainkit(tmp_path, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "swept/width=12/events.jsonl").read_bytes() == before
    assert [event["step"] for event in events(tmp_path / "swept/width=8", "start")] == [0, 11]  # a rescue saved it
    best = min(table(tmp_path).values(), key=lambda row: float(row["eval_loss"]))
    rows = again.stdout[again.stdout.index("swept: 2 done") :].splitlines()
    assert rows[1].split() == ["eval_loss", "recipe.width", "run", "folder"]
    assert rows[2].split() == [f"{float(best['eval_loss']):.6g}", best["recipe.width"], best["member"]]
    family(tmp_path)

    other = trainkit(tmp_path, *words, "optimizer.weight_decay=0.5")
    assert other.returncode == 2
    assert "this folder holds another sweep" in other.stderr


def family(folder: Path) -> None:
    """One parent, and every member once below it, as MLflow tells it."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.params["recipe.width"] for run in below) == ["12", "8"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.params["recipe.width"] == "8,12"
    assert float(parent.data.tags["sweep.best.eval_loss"]) == min(run.data.metrics["eval_loss"] for run in below)


@pytest.mark.slow
def test_ctrl_c_saves_the_running_member_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = (*SHORT, *NOT_TRACKED, "recipe.width=12,8", "train.steps=600")
    sweep, run = started(tmp_path, *words), tmp_path / "swept/width=12"
    until(lambda: last_step(run) >= 20, lambda: sweep.poll() is None)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(PATIENCE_S) == 75
    assert summary(run)["status"] == "stopped"
    assert members(tmp_path) == [run]  # the next one was not begun
    said = (tmp_path / "said").read_text()
    assert "stopping: saving a checkpoint (once more" in said
    assert "swept: 1 stopped, 1 waiting" in said
    command = said.splitlines()[-1].split()
    assert command[:3] == ["python", "-m", "trainkit"]
    stopped = summary(run)["step"]
    done = trainkit(tmp_path, *command[3:])
    assert done.returncode == 0, done.stdout + done.stderr
    assert [event["step"] for event in events(run, "start")] == [0, stopped]
    assert {row["status"] for row in table(tmp_path).values()} == {"done"}


@pytest.mark.slow
def test_tpe_that_is_killed_loses_and_doubles_no_trial(tmp_path: Path) -> None:
    words = (
        *(*SHORT, *NOT_TRACKED, "optimizer.lr=tag(log,interval(1e-4,1e-1))", "recipe.width=8,12"),
        *("--sampler", "tpe", "--trials", "4", "train.steps=100"),
    )
    for begun in (1, 2):
        sweep = started(tmp_path, *words)
        running = lambda begun=begun: len(members(tmp_path)) == begun and last_step(members(tmp_path)[-1]) >= 5  # noqa: E731
        until(running, lambda sweep=sweep: sweep.poll() is None)  # type: ignore[misc]
        ranks = psutil.Process(sweep.pid).children(recursive=True)
        sweep.kill()
        sweep.wait()
        until(lambda ranks=ranks: not any(alive(process) for process in ranks), lambda: True)  # type: ignore[misc]
    done = trainkit(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "swept: 4 done" in done.stdout
    assert [path.name.split("_")[0] for path in members(tmp_path)] == ["0", "1", "2", "3"]
    assert all(summary(run)["step"] == 100 for run in members(tmp_path))
    assert Counter(len(events(run, "end")) for run in members(tmp_path))[1] >= 2
    numbers = [row["eval_loss"] for row in table(tmp_path).values()]
    assert sorted(trials(tmp_path)) == sorted(float(number) for number in numbers)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def trials(folder: Path) -> list[float | None]:
    """Values of the trials, as Optuna tells them."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(folder / "swept/optuna.journal")))
    return [trial.value for trial in optuna.load_study(study_name="sweep", storage=storage).trials]


@pytest.mark.slow
@pytest.mark.drill
def test_what_falls_behind_is_asked_to_leave(tmp_path: Path) -> None:
    """The first five learn; then nothing is left for them to draw but what learns too slowly."""
    words = (
        *(*SHORT, *NOT_TRACKED, "train.eval_every=10", "checkpoint.every=null", "--sampler=random"),
        *("--prune=median", "train.steps=120"),
    )
    good = trainkit(tmp_path, *words, "optimizer.lr=interval(1e-2,2e-2)", "--trials=5")
    assert good.returncode == 0, good.stdout + good.stderr
    plan = json.loads((tmp_path / "swept/sweep.json").read_text())
    slow = {**plan["spaces"][0], "low": 1e-6, "high": 2e-6}
    (tmp_path / "swept/sweep.json").write_text(json.dumps(plan | {"spaces": [slow]}))
    bad = trainkit(tmp_path, *words, "optimizer.lr=interval(1e-6,2e-6)", "--trials=6")
    assert bad.returncode == 0, bad.stdout + bad.stderr
    assert "swept: 5 done, 1 pruned" in bad.stdout
    (pruned,) = [run for run in members(tmp_path) if run.name.startswith("5_")]
    assert (summary(pruned)["status"], summary(pruned)["step"] < 120) == ("stopped", True)
    again = trainkit(tmp_path, *words, "optimizer.lr=interval(1e-6,2e-6)", "--trials=6")
    assert (again.returncode, len(events(pruned, "start"))) == (0, 1)


@pytest.mark.slow
@pytest.mark.drill
def test_a_member_that_is_killed_ends_no_sweep_and_has_failed(tmp_path: Path) -> None:
    words = (*SHORT, *NOT_TRACKED, "recipe.width=12,8", "train.steps=600")
    sweep, run = started(tmp_path, *words), tmp_path / "swept/width=12"
    until(lambda: last_step(run) >= 20, lambda: sweep.poll() is None)
    (front,) = psutil.Process(sweep.pid).children()
    front.kill()
    assert sweep.wait(PATIENCE_S) == 1
    assert "swept: 1 killed, 1 done" in (tmp_path / "said").read_text()
    assert "its command ended with exit code -9" in table(tmp_path)["width=12"]["message"]
    assert summary(tmp_path / "swept/width=8")["status"] == "done"
    assert trainkit(tmp_path, *words).returncode == 0
    assert events(run, "start")[1]["step"] >= 20
