"""What a person may get wrong: one clear message each, with the key, the value, what is allowed and the nearest right
word; exit code 2; the directory stays as it was."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from tests.e2e.command import NOT_TRACKED, TRAINKIT, done, environment, summary, trainkit
from trainkit.cli.main import COMMANDS

RECIPES = ("image_classification", "llm_finetune", "llm_pretrain")
IMAGES = "recipe=image_classification"
FINETUNE = "recipe=llm_finetune"
FILES = {
    "good.jsonl": '{"prompt": "a", "completion": "b"}\n',
    "malformed.jsonl": '{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n',
    "other.jsonl": '{"prompt": "a", "completion": "b"}\n{"text": "a"}\n',
    "empty.jsonl": "",
}


def refused(folder: Path, *words: str, **more: str) -> list[str]:
    """The lines that `words` are answered with; they are refused, and `folder` stays as it is."""
    before = tree(folder)
    process = trainkit(folder, *words, **more)
    assert process.returncode == 2, process.stdout + process.stderr
    assert process.stdout == ""
    assert "Traceback" not in process.stderr
    assert tree(folder) == before
    return process.stderr.splitlines()


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in [folder, *folder.rglob("*")]}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_no_words_and_no_recipe_list_the_recipes(tmp_path: Path) -> None:
    for words in ((), ("train.steps=3",)):
        text = refused(tmp_path, *words)
        assert any("choose one with recipe=NAME" in line for line in text)
        for name in RECIPES:
            assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in text)


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        (
            ["vlidate"],
            f"there is no command vlidate; there are {', '.join(COMMANDS)}",
            "did you mean validate?",
        ),
        (
            ["recipe=llm_finetun"],
            f"recipe=llm_finetun: there is no such recipe; there are {', '.join(RECIPES)}",
            "did you mean llm_finetune?",
        ),
        ([IMAGES, "strategy=dpp"], "strategy=dpp: there is no such strategy; there are ", "did you mean ddp?"),
        ([IMAGES, "train.stesp=3"], "train.stesp=3: there is no such key", "did you mean train.steps?"),
        ([IMAGES, "+train.stesp=3"], "train.stesp=3: there is no such key", "did you mean train.steps?"),
        ([IMAGES, "train.lr=0.1"], "train.lr=0.1: there is no such key", "did you mean optimizer.lr?"),
        ([IMAGES, "train.steps=many"], "train.steps=many: should be an integer", ""),
        ([IMAGES, "train.precision=fp8"], "train.precision=fp8: should be 'fp32' or 'bf16'", ""),
        ([IMAGES, "optimizer.lr=-1"], "optimizer.lr=-1: should be greater than", ""),
        ([IMAGES, "train.steps"], "cannot use 'train.steps': there is no = in it", "write key=value"),
        (
            [FINETUNE, "recipe.data=missing.jsonl"],
            "recipe.data=missing.jsonl: there is no such file",
            '{"prompt": ..., "completion": ...}',
        ),
        (
            [FINETUNE, "recipe.data=empty.jsonl"],
            "recipe.data=empty.jsonl: the data set is empty",
            "at least one to train on",
        ),
        ([FINETUNE, "recipe.data=malformed.jsonl"], "recipe.data=malformed.jsonl:2: is not JSON", ""),
        ([FINETUNE, "recipe.data=other.jsonl"], "recipe.data=other.jsonl:2: needs", ""),
        (
            [IMAGES, "strategy=ddp", "launcher.ranks=3"],
            "train.global_batch=64: does not divide by the 3 data-parallel ranks",
            "set it to 63 or 66",
        ),
        (
            [IMAGES, "train.micro_batch=24"],
            "train.micro_batch=24: does not divide the 64 samples",
            "set it to 16 or 32",
        ),
        ([IMAGES, "train.epochs=1"], "train.steps=200: exactly one of train.steps and train.epochs", "set one of them"),
        (
            [IMAGES, "optimizer._target_=os.system"],
            "optimizer._target_=os.system: must be trainkit.optimizer.MODULE.CLASS",
            "choose with optimizer=NAME",
        ),
        (
            [IMAGES, "recipe._target_=os.system"],
            "recipe._target_=os.system: must be trainkit.recipe.MODULE.CLASS or recipes.",
            "choose with recipe=NAME",
        ),
        ([IMAGES, "resume=must", "run.dir=new"], "resume=must: there is no checkpoint in ", "set resume=auto"),
        ([IMAGES, "run.dir=good.jsonl"], "good.jsonl is a file, not a folder", "choose another run.dir"),
        ([IMAGES, "run.dir=/proc/run"], "run.dir=/proc/run: /proc cannot be written to", "choose another run.dir"),
        (
            [IMAGES, "tracker.uri=htp://host"],
            "tracker.uri=htp://host: must begin with one of http, https, sqlite",
            "for example http://HOST:5000",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_message_says_what_where_and_what_instead(files: Path, words: list[str], problem: str, hint: str) -> None:
    count, *text = refused(files, *words)
    assert count == "1 problem; nothing was started"
    assert problem in text[0]
    assert hint in "".join(text[1:])


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    text = refused(tmp_path, IMAGES, "train.device=cuda", CUDA_VISIBLE_DEVICES="")
    assert text[1] == "  train.device=cuda: no GPU that the installed torch can use was found"


def test_all_problems_of_all_kinds_are_told_at_once(files: Path) -> None:
    wrong = (
        "strategy=dpp",
        "tracker=neptune",
        "train.stesp=1",
        "optimizer.lr=fast",
        "train.seed=x",
        "+foo.bar=1",
        "oops",
    )
    count, *text = refused(files, IMAGES, *wrong)
    assert count == "7 problems; nothing was started"
    for word in wrong:
        assert len([line for line in text if word.removeprefix("+") in line]) == 1, word
    count, *text = refused(files, IMAGES, "train.epochs=1", "train.micro_batch=24", "resume=must", "run.dir=good.jsonl")
    assert count == "3 problems; nothing was started"  # of a file there is no saying whether it has checkpoints


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of one recipe in `run`."""
    folder = tmp_path_factory.mktemp("images")
    done(folder, IMAGES, "train.steps=2", "train.device=cpu", "run.dir=run", *NOT_TRACKED)
    return folder


def test_a_run_folder_of_another_recipe(images: Path) -> None:
    count, problem, hint = refused(images, "recipe=llm_pretrain", "run.dir=run")
    assert count == "1 problem; nothing was started"
    assert f"run.dir={images}/run: this folder holds a run of image_classification" in problem
    assert "choose another run.dir" in hint


def test_a_checkpoint_of_another_model(images: Path) -> None:
    count, problem, hint = refused(images, IMAGES, "train.steps=4", "recipe.width=8", "run.dir=run")
    assert count == "1 problem; nothing was started"
    assert "recipe.width=8: the checkpoint" in problem
    assert "was written with 16" in problem
    assert "set recipe.width=16 to go on" in hint


def test_a_disk_that_fills_up_during_the_run_loses_nothing(tmp_path: Path) -> None:
    """The kernel stands in for the disk: no file may grow past 64 KiB, which the first checkpoint needs to. What was
    there before stays, and the same command goes on once there is room."""
    words = (IMAGES, "train.steps=20", "train.device=cpu", "checkpoint.every=5", "run.dir=run", *NOT_TRACKED)
    full = subprocess.run(
        [*TRAINKIT, *words],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY)),
    )
    assert full.returncode == 1
    assert full.stderr == ""
    assert "Traceback" not in full.stdout
    assert f"cannot write the checkpoint of step 10 to {tmp_path}/run/checkpoints" in full.stdout
    assert "then give the same command again to go on" in full.stdout
    assert list((tmp_path / "run/checkpoints").iterdir()) == []
    done(tmp_path, *words)
    assert summary(tmp_path / "run")["status"] == "done"
