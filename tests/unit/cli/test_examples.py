"""Every command's --help shows examples, and each of them does what it says."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from tests.unit.audit.conftest import made
from trainkit.cli.examples import EXAMPLES
from trainkit.cli.help import details
from trainkit.cli.main import COMMANDS, main
from trainkit.cli.run import prepare
from trainkit.cli.subcommand import WITH
from trainkit.runfolder import RunFolder

__all__ = ["made"]

Capture = pytest.CaptureFixture[str]
STARTS_RANKS = {"verify", "doctor", "profile", "plan", "sweep"}
NEEDS_A_STORE = {"promote"}  # of MLflow: tests/unit/cli/test_promote.py gives the same words
SHOWN = {
    "audit runs/a": "goodput ",
    "diff runs/a runs/b": "first differs at step 3",
    "report runs/a": "runs/a/report.html",
    "runs compare runs/a runs/b": "optimizer.lr",
    "runs ls runs": "runs/b",
    "runs rm runs/b --yes": "runs/b: deleted",
    "runs show runs/a": "goodput",
    "mlflow sync runs/a": "nothing to do",
    "jobs stop runs/a": "it does not run",
    "plan --calibrate": "gloo",
}


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With runs/a, and runs/b that learns otherwise from step 3 on; both have ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINKIT_CACHE", str(tmp_path / "cache"))
    for name, lr in (("a", 0.003), ("b", 0.001)):
        run = shutil.copytree(made, tmp_path / "runs" / name)
        keys = ["recipe=image_classification", "tracker=none", "train.seed=7", "train.global_batch=4"]
        config, _, _ = prepare([*keys, f"optimizer.lr={lr}", f"run.dir={tmp_path}/{name}"])
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "summary.json").write_text(json.dumps({"status": "done"}))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"loss": row["loss"] + 0.25} if row["step"] >= 3 and "loss" in row else row for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_every_command_has_an_example_and_help_shows_it(capsys: Capture) -> None:
    assert list(EXAMPLES) == list(COMMANDS)
    for name, examples in EXAMPLES.items():
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert [words for words in examples if f"  {words} " not in out] == []
        assert "llm_finetune" not in out  # this command's, not those of everything


def test_the_commands_with_subcommands_are_known_without_importing_the_others() -> None:
    assert {name for name in COMMANDS if details(name).get("subcommands")} == {*WITH}


@pytest.mark.parametrize("name", WITH)
def test_help_lists_subcommands_as_they_are_called(name: str, capsys: Capture) -> None:
    """Those that are called as they are told, or what is not known is told with all that there are."""
    assert main([name, "--help"]) == 0
    listed = [line.split()[:2] for line in capsys.readouterr().out.partition("subcommands\n")[2].splitlines()]
    assert main([name, "nothing"]) == 2
    told = capsys.readouterr().err
    assert listed and [words for words in listed if words[1] not in told] == []


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, marks=[pytest.mark.slow] if name in STARTS_RANKS else [])
        for name, examples in EXAMPLES.items()
        if name not in NEEDS_A_STORE
        for words in examples
    ],
)
def test_an_example_does_what_it_says(words: str, folder: Path, capsys: Capture) -> None:
    assert shlex.split(words)[0] in COMMANDS
    assert main(shlex.split(words)) == 0, capsys.readouterr().err
    assert SHOWN.get(words, "") in capsys.readouterr().out


def test_a_run_that_is_at_work_or_was_not_meant_is_not_deleted(folder: Path, capsys: Capture) -> None:
    run = RunFolder(folder / "runs/a")
    assert main(["runs", "rm", "runs/a", "runs/b"]) == 2
    assert "would delete, for ever:" in capsys.readouterr().err
    run.summary.unlink()
    run.event("launch", attempt=3)
    assert main(["runs", "rm", "runs/b", "runs/a", "--yes"]) == 2
    assert f"{run.root} is running" in capsys.readouterr().err
    assert (folder / "runs/b").is_dir() and run.config.is_file()
    assert main(["runs", "rm", "runs", "--yes"]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_runs_that_learn_the_same_are_told_so(folder: Path, capsys: Capture) -> None:
    assert main(["diff", "runs/a", "runs/a"]) == 0
    out = capsys.readouterr().out
    assert "the same to the bit in all 23 steps" in out and "nothing: the same keys" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["runs"], "the commands are"),
        (["runs", "sow"], "did you mean show"),
        (["runs", "compare", "runs/a"], "the command is: runs compare RUN RUN"),
        (["runs", "rm"], "the command is: runs rm"),
        (["diff", "runs/a"], "the command is: diff RUN RUN"),
        (["diff", "runs/a", "nowhere"], "nowhere is no run folder"),
    ],
)
def test_what_is_typed_wrong(words: list[str], told: str, folder: Path, capsys: Capture) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err
