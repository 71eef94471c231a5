"""What other tools rely on: the files of a run folder, their keys, the exit code, and what is printed."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.e2e.command import (
    EPOCHS,
    NOT_TRACKED,
    STEPS,
    TRAINKIT,
    TWO,
    Terminal,
    curve,
    done,
    environment,
    events,
    lines,
    summary,
    trained,
)

SHORT = ("recipe=image_classification", "train.steps=20", "train.eval_every=10", "run.dir=run", "train.device=cpu")
IMAGES = 1437


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A short run that MLflow follows, and what it printed into a pipe."""
    folder = tmp_path_factory.mktemp("finished")
    return folder / "run", done(folder, *SHORT)


def test_the_files_are_those_of_the_contract(finished: tuple[Path, str]) -> None:
    run, _ = finished
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "metrics.jsonl", "events.jsonl", "summary.json", "mlflow.json"),
        *("checkpoints", "logs", "model"),
    }
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_20"]
    assert (run / "logs/attempt_1/rank_0.log").is_file()
    assert (run / "model/model.safetensors").is_file()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["name"], config["train"]["steps"]) == ("image_classification", 20)
    assert config["run"]["dir"] == str(run)  # resolved: no reference is left in it
    assert "${" not in (run / "config.yaml").read_text()


def test_every_step_has_a_row_with_all_keys(finished: tuple[Path, str]) -> None:
    first, *rows = lines(finished[0] / "metrics.jsonl")
    evaluated = {"eval_loss", "eval_accuracy", "evaluation_seconds"}
    assert set(first) == {"step", "samples", "time", *evaluated}
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["samples"] for row in rows] == list(range(64, 21 * 64, 64))
    always = {"step", "samples", "loss", "lr", "grad_norm", "tokens_per_second", "data_wait", "memory_mb", "time"}
    assert [set(row) - always for row in rows] == [evaluated if row["step"] in (10, 20) else set() for row in rows]
    assert rows[-1]["eval_loss"] < first["eval_loss"]


def test_the_events_tell_the_run_in_order(finished: tuple[Path, str]) -> None:
    happened = lines(finished[0] / "events.jsonl")
    assert [event["event"] for event in happened] == ["launch", "start", "save", "end"]
    assert [event["time"] for event in happened] == sorted(event["time"] for event in happened)
    _, start, save, end = happened
    assert (start["step"], start["total_steps"], start["ranks"], start["strategy"]) == (0, 20, 1, "local")
    assert (save["step"], save["path"]) == (20, str(finished[0] / "checkpoints/step_20"))
    assert (end["step"], end["status"], end["exit_code"]) == (20, "done", 0)


def test_the_summary_is_the_rows_in_short(finished: tuple[Path, str]) -> None:
    run, _ = finished
    told, rows = summary(run), lines(run / "metrics.jsonl")
    assert (told["status"], told["step"], told["total_steps"], told["samples"]) == ("done", 20, 20, 1280)
    assert told["loss"] == rows[-1]["loss"]
    for name, row in (("eval_before", rows[0]), ("eval_after", rows[-1])):
        assert told[name] == {key: row[key] for key in ("eval_loss", "eval_accuracy")}
    assert told["checkpoints"] == [str(run / "checkpoints/step_20")]
    assert (told["model"], told["unsent_rows"], told["attempts"]) == (str(run / "model"), 0, 1)


def test_a_pipe_gets_plain_lines_and_commands_that_can_be_copied(finished: tuple[Path, str]) -> None:
    run, text = finished
    assert "\x1b" not in text
    assert "\r" not in text
    said = text.splitlines()
    assert any(re.fullmatch(r"step 20/20  loss \d\.\d{4}  lr \S+  \S+ tok/s  \S+ GiB", line) for line in said)
    order = [next(i for i, line in enumerate(said) if line.startswith(b)) for b in ("training", "step 20/20", "saved")]
    assert order == sorted(order)
    assert f"tracker     mlflow ui --backend-store-uri sqlite:///{run.parent}/mlflow.db" in said
    assert said[-2:] == ["next: look at the model", f"ls -l {run}/model"]
    assert len(f"tracker     mlflow ui --backend-store-uri sqlite:///{run.parent}/mlflow.db") > 80  # and yet one line


def test_a_terminal_gets_a_bar_and_unwrapped_commands(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, *SHORT, *NOT_TRACKED)
    assert terminal.wait() == 0
    assert "━" in terminal.text  # rich's bar
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.text)
    assert re.search(r"\d+/20 \d:\d\d:\d\d loss \d", shown), shown
    assert "\nstep 20/20" not in shown  # that is the bar's to say
    assert shown.splitlines()[-1] == f"ls -l {tmp_path}/run/model"


def test_the_same_command_again_has_nothing_to_do(finished: tuple[Path, str]) -> None:
    run, _ = finished

    def files() -> dict[Path, int]:  # a lock says who was here last
        return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.suffix != ".lock"}

    before = files()
    assert "this run is done" in done(run.parent, *SHORT)
    assert files() == before


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path: Path) -> None:
    front = subprocess.Popen([*TRAINKIT, *SHORT, *NOT_TRACKED], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE)
    assert front.stdout is not None
    assert front.stdout.readline().startswith(b"training")
    front.stdout.close()  # as `| head -1` does
    assert front.wait(120) == 0
    assert summary(tmp_path / "run")["status"] == "done"


# ------------------------------------------------------------------------- the same run on more ranks


@pytest.mark.slow
def test_two_ranks_train_the_same_curve_as_one(tmp_path: Path) -> None:
    """Without dropout, which every rank draws for itself."""
    for ranks, more in ((1, ()), (2, TWO)):
        (tmp_path / str(ranks)).mkdir()
        done(tmp_path / str(ranks), *SHORT, "recipe.dropout=0.0", *NOT_TRACKED, *more)
    one, two = (curve(tmp_path / str(ranks) / "run") for ranks in (1, 2))
    assert [row["step"] for row in two] == list(range(21))
    for mine, other in zip(one, two, strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
    assert events(tmp_path / "2/run", "start")[0]["ranks"] == 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_ledger_has_every_sample_once_per_epoch(undisturbed: Callable[[int], Path], ranks: int) -> None:
    steps = trained(undisturbed(ranks))
    assert sorted(steps) == list(range(1, STEPS + 1))
    per_epoch = STEPS // EPOCHS
    for epoch in range(EPOCHS):
        ids = sum((steps[step + 1] for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)), Counter[int]())
        assert ids == Counter(range(IMAGES)), f"epoch {epoch}"


def test_two_ranks_read_the_same_samples_as_one(undisturbed: Callable[[int], Path]) -> None:
    assert trained(undisturbed(2)) == trained(undisturbed(1))
