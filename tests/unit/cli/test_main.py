"""The words of the command line, and what is said of wrong ones. `main` is called as the console script calls it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import yaml

from tests.unit.conftest import write
from trainkit.cli import main as cli
from trainkit.cli.main import COMMANDS, main

Capture = pytest.CaptureFixture[str]


def said(capsys: Capture, *words: str, code: int = 0) -> str:
    """What `words` print, on the stream where it belongs: answers on stdout, complaints on stderr."""
    assert main(words) == code
    out, err = capsys.readouterr()
    assert (out if code else err) == ""
    return err if code else out


def test_no_words_say_how_to_begin(project: Path, capsys: Capture) -> None:
    text = said(capsys, code=2)
    assert text.startswith("usage: python -m trainkit recipe=NAME")
    assert "Mine, in one line." in text


def test_a_full_disk_is_told_in_words(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(words: list[str]) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/summary.json")

    monkeypatch.setattr(cli, "dispatch", full)
    text = said(capsys, "recipe=mine", code=1)
    assert text == (
        "error: No space left on device (runs/a/summary.json); free space, then give the same command again\n"
    )


def test_help_shows_examples_commands_choices_and_every_key(capsys: Capture) -> None:
    text = said(capsys, "--help")
    assert "recipe=llm_finetune" in text.split("commands")[0]
    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []
    assert "constant | cosine | linear | wsd" in text
    keys = [
        line.split()[0]
        for line in text.splitlines()
        if line.startswith(("  train.", "  checkpoint.", "  data.", "  anomaly."))
    ]
    config = yaml.safe_load((Path(__file__).parents[3] / "conf/config.yaml").read_text())
    assert [key.split("=")[0] for key in keys] == [
        f"{s}.{k}" for s in ("train", "checkpoint", "data", "anomaly") for k in config[s]
    ]
    assert "train.clip_norm=1.0" in keys
    assert "  75 " in text


@pytest.mark.parametrize("words", [["-h"], ["nothing", "--help"], ["recipe=mine", "--help"]])
def test_help_is_given_wherever_it_is_asked_for(words: list[str], capsys: Capture) -> None:
    assert "examples" in said(capsys, *words)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_after_a_command_is_about_it(command: str, capsys: Capture) -> None:
    text = said(capsys, command, "--help")
    assert text.startswith(f"python -m trainkit {command}: ") and "usage:" not in text


def test_version(capsys: Capture) -> None:
    assert said(capsys, "--version") == "0.1.0\n"


def test_an_unknown_command_is_named_with_the_nearest(capsys: Capture) -> None:
    text = said(capsys, "vlidate", "recipe=mine", code=2)
    assert "there is no command vlidate; there are ls, validate" in text
    assert "did you mean validate?" in text


def test_a_recipe_without_its_key_is_explained(capsys: Capture) -> None:
    assert "a run is started with recipe=NAME" in said(capsys, "llm_finetune", code=2)


def test_an_unknown_option_is_named(capsys: Capture) -> None:
    assert "there is no option --foo" in said(capsys, "--foo", code=2)


def test_ls_marks_what_is_ones_own(project: Path, capsys: Capture) -> None:
    lines = said(capsys, "ls").splitlines()
    assert [line for line in lines if line.endswith("=")] == [
        *("recipe=", "strategy=", "launcher=", "tracker=", "optimizer=", "schedule="),
    ]
    (mine,) = [line for line in lines if line.split()[:1] == ["mine"]]
    assert mine.split(maxsplit=1)[1].strip() == "Mine, in one line.  (yours)"
    assert len([line for line in lines if "(yours)" in line]) == 1


def test_ls_of_one_group(capsys: Capture) -> None:
    text = said(capsys, "ls", "schedule")
    assert "wsd" in text
    assert "strategy=\n" not in text
    assert "ls foo: there are recipe" in said(capsys, "ls", "foo", code=2)


def test_env_answers_and_takes_no_words(project: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "sesame")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:sesame@host")
    text = said(capsys, "env")
    assert "eth7" in text and "sesame" not in text
    for name in ("python", "torch", "GPUs", "cores", "memory", "mlflow", "deepspeed", str(project / "recipes")):
        assert name in text
    assert "'x'" in said(capsys, "env", "x", code=2)


@pytest.mark.parametrize("words", [["config"], ["--cfg", "job"], ["--cfg", "job", "--resolve"]])
def test_config_prints_yaml_that_can_be_read_again(project: Path, words: list[str], capsys: Capture) -> None:
    config = yaml.safe_load(said(capsys, *words, "recipe=mine", "run.dir=here"))
    assert config["run"]["dir"] == str(project / "here")
    assert config["train"]["steps"] == 3


# ------------------------------------------------------------------------------------------- validate


def test_validate_says_what_would_run_and_writes_nothing(project: Path, capsys: Capture) -> None:
    before = sorted(project.rglob("*"))
    words = ["recipe=mine", "strategy=ddp", "launcher.ranks=2", "train.micro_batch=4", "run.dir=a b"]
    text = said(capsys, "validate", *words)
    rows = {line[:14].strip(): line[14:].strip() for line in text.splitlines() if line.startswith("  ")}
    assert text.startswith("mine: OK\n")
    assert rows["recipe"] == 'mine (width=4, lora={"r": 8})'
    assert rows["batch"] == "32 samples per step = 2 rank(s) x 4 micro-batch(es) of 4"
    assert rows["length"] == "3 steps"
    assert rows["run folder"] == f"{project}/a b, new"
    assert text.endswith(
        "python -m trainkit recipe=mine strategy=ddp launcher.ranks=2 train.micro_batch=4 'run.dir=a b'\n"
    )
    assert [path for path in sorted(project.rglob("*")) if "__pycache__" not in path.parts] == before


def test_validate_tells_every_problem_of_every_stage(project: Path, capsys: Capture) -> None:
    write(project / "full/file", "")
    text = said(capsys, "validate", "recipe=mine", "train.stesp=1", "train.epochs=1", "run.dir=full/file", code=2)
    assert text.startswith("3 problems; nothing was started\n")
    assert "train.stesp=1: there is no such key\n      did you mean train.steps?" in text
    assert "train.steps=3: exactly one of train.steps and train.epochs" in text
    assert "is a file, not a folder" in text


def test_a_run_with_a_problem_writes_nothing(project: Path, capsys: Capture) -> None:
    text = said(capsys, "recipe=mine", "train.seed=x", "run.dir=here", code=2)
    assert text == "1 problem; nothing was started\n  train.seed=x: should be an integer\n"
    assert not (project / "here").exists()


def test_markup_in_a_value_is_shown_as_it_is(project: Path, capsys: Capture) -> None:
    assert "train.seed=[bold]x: should" in said(capsys, "validate", "recipe=mine", "train.seed='[bold]x'", code=2)


# --------------------------------------------------------------------------------------------- mlflow


@pytest.mark.parametrize("words", [[], ["sync"], ["snyc", "x"]])
def test_mlflow_explains_its_words(words: list[str], capsys: Capture) -> None:
    assert "mlflow sync RUN" in said(capsys, "mlflow", *words, code=2)


def test_sync_wants_run_folders(tmp_path: Path, capsys: Capture) -> None:
    text = said(capsys, "mlflow", "sync", str(tmp_path), str(tmp_path / "no"), code=2)
    assert f"{tmp_path} is no run folder" in text
    assert f"{tmp_path / 'no'} is no run folder" in text
