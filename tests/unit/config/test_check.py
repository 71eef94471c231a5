"""Problems that show only when the parts are seen together, and what the run folder holds."""

from __future__ import annotations

import os
from collections import namedtuple
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.settings import CHECKPOINT, make
from trainkit.checkpoint.manifest import MANIFEST, commit, describe, step_folder
from trainkit.config import check
from trainkit.config.check import existing
from trainkit.errors import Problem
from trainkit.protocols import Cluster
from trainkit.settings import Checkpoint, Integrity, Settings, fixed_keys

TARGET = "tests.conformance.decoder.DecoderTask"


def cluster(ranks: int = 1, gpus: int = 0) -> Cluster:
    return Cluster(hosts=1, ranks=ranks, gpus=gpus, cores=2)


def found(settings: Settings, ranks: int = 1, gpus: int = 0) -> list[tuple[str, object]]:
    return [(problem.key, problem.value) for problem in check(settings, cluster(ranks, gpus))]


def only(settings: Settings, ranks: int = 1, gpus: int = 0) -> Problem:
    (problem,) = check(settings, cluster(ranks, gpus))
    return problem


def test_a_good_run_has_no_problems_and_nothing_is_written(tmp_path: Path) -> None:
    assert found(make(str(tmp_path / "run"))) == []
    assert list(tmp_path.iterdir()) == []


def test_exactly_one_of_steps_and_epochs(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert found(make(folder, steps=None, epochs=1.0)) == []
    assert "neither" in only(make(folder, steps=None)).message
    assert "both are set (train.epochs=2.0)" in only(make(folder, epochs=2.0)).message


@pytest.mark.parametrize("strategy", ["fsdp", "tensor", "pipeline", "zero1", "zero3"])
def test_what_is_divided_has_no_copies_to_compare(tmp_path: Path, strategy: str) -> None:
    settings = make(str(tmp_path), strategy, 2)
    assert found(settings, 2) == []
    settings = replace(settings, integrity=Integrity(every=10))
    assert found(settings, 2) == [("integrity.every", 10)]
    assert only(settings, 2).hint == "set integrity.every=null, or set strategy=ddp"


@pytest.mark.parametrize(("batch", "ranks", "hint"), [(10, 4, "8 or 12"), (3, 4, "set it to 4")])
def test_the_global_batch_divides_by_the_ranks(tmp_path: Path, batch: int, ranks: int, hint: str) -> None:
    problem = only(make(str(tmp_path), "ddp", ranks, global_batch=batch, micro_batch=None), ranks)
    assert (problem.key, problem.value) == ("train.global_batch", batch)
    assert problem.hint.endswith(hint)


@pytest.mark.parametrize(
    ("share", "micro", "hint"),
    [
        (12, 5, "set it to 4 or 6"),
        (12, 13, "set it to 12"),
        (10**12, 7, "set it to 5 or 8"),
        (7, 2, "set it to 1 or 7"),
    ],
)
def test_the_micro_batch_divides_the_share(tmp_path: Path, share: int, micro: int, hint: str) -> None:
    problem = only(make(str(tmp_path), "ddp", 2, global_batch=2 * share, micro_batch=micro), ranks=2)
    assert (problem.key, problem.value, problem.hint) == ("train.micro_batch", micro, hint)


def test_patience_and_the_best_checkpoint_need_evaluations(tmp_path: Path) -> None:
    settings = make(str(tmp_path), checkpoint={"metric": "eval_loss"}, patience=3)
    assert found(settings) == [("train.patience", 3), ("checkpoint.metric", "eval_loss")]
    assert found(make(str(tmp_path), checkpoint={"metric": "eval_loss"}, patience=3, eval_every=2)) == []


def test_the_best_checkpoint_goes_by_a_held_out_metric(tmp_path: Path) -> None:
    settings = make(str(tmp_path), checkpoint={"metric": "loss"}, eval_every=2)
    assert found(settings) == [("checkpoint.metric", "loss")]


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings = make(str(tmp_path), device="cuda")
    assert found(settings) == [("train.device", "cuda")]
    assert found(settings, gpus=1) == []


def test_every_part_is_asked(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Objects:
        name: str

        def problems(self, *args: Any) -> list[Problem]:
            return [Problem(self.name, "", "objects")]

        def dp_size(self, ranks: int) -> int:
            return ranks

    groups = ("strategy", "launcher", "schedule", "tracker", "recipe")
    settings = replace(make(str(tmp_path)), **{group: Objects(name=group) for group in groups})  # type: ignore[arg-type]
    assert [key for key, _ in found(settings)] == list(groups)


# ------------------------------------------------------------------------------------------ the folder


def wrote(folder: Path, settings: Settings, step: int | None = None, target: str = TARGET) -> None:
    """A run folder as a run of `settings` leaves it, with a checkpoint at `step`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": settings.name, "recipe": {"_target_": target}}))
    if step is not None:
        writing = folder / "checkpoints" / "writing"
        writing.mkdir(parents=True)
        manifest = describe(writing, {}, {"about": {"fixed": fixed_keys(settings)}})
        commit(writing, step_folder(folder / "checkpoints", step), {MANIFEST: manifest})


def test_a_run_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    settings = make(str(tmp_path))
    wrote(tmp_path, settings, step=5)
    assert found(settings) == []
    assert found(replace(settings, resume="must")) == []
    assert found(make(str(tmp_path), steps=40)) == []


def test_another_recipe_is_kept_out_of_the_folder(tmp_path: Path) -> None:
    settings = make(str(tmp_path))
    wrote(tmp_path, settings, target="recipes.other.Other")
    problem = only(settings)
    assert problem.key == "run.dir"
    assert "recipes.other.Other" in problem.message


@pytest.mark.parametrize("text", ["", "a: 1", "- 1", "{", "recipe: 5\nname: x", "\x00", b"\xff\xfe\xff"])
def test_a_config_of_something_else_is_a_problem_and_not_a_crash(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "was not written by trainkit" in only(make(str(tmp_path))).message


def test_must_needs_a_checkpoint_and_never_refuses_one(tmp_path: Path) -> None:
    assert found(make(str(tmp_path), resume="must")) == [("resume", "must")]
    settings = make(str(tmp_path), resume="never")
    wrote(tmp_path, settings)
    assert found(settings) == []
    wrote(tmp_path, settings, step=5)
    assert "up to step 5" in only(settings).message


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_what_the_checkpoint_depends_on_must_stay(tmp_path: Path, resume: Any) -> None:
    wrote(tmp_path, make(str(tmp_path)), step=5)
    changed = make(str(tmp_path), resume=resume, seed=8, global_batch=24)
    assert found(changed) == [("train.seed", 8), ("train.global_batch", 24)]
    assert "set train.seed=7 to go on" in check(changed, cluster())[0].hint


def test_a_damaged_manifest_is_left_to_the_ranks(tmp_path: Path) -> None:
    settings = make(str(tmp_path))
    wrote(tmp_path, settings, step=5)
    (step_folder(tmp_path / "checkpoints", 5) / "MANIFEST.json").write_text("{")
    assert found(settings) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"{tmp_path / 'file'} is a file" in only(make(str(folder))).message


def test_a_name_that_the_system_refuses(tmp_path: Path) -> None:
    assert "cannot be used: File name too long" in only(make(str(tmp_path / ("x" * 300)))).message


def test_the_checkpoints_folder_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = replace(make(str(tmp_path)), checkpoint=_at(str(tmp_path / "file")))
    assert [key for key, _ in found(settings)] == ["checkpoint.dir"]


def _at(folder: str) -> Checkpoint:
    return Checkpoint(**(CHECKPOINT | {"dir": folder}))


def test_a_cadence_that_makes_no_sense_is_refused_with_examples(tmp_path: Path) -> None:
    problem = only(make(str(tmp_path), checkpoint={"every": "5 days"}))
    assert (problem.key, problem.value) == ("checkpoint.every", "5 days")
    assert "there are steps, samples, tokens, seconds, minutes, hours" in problem.message
    assert '"10 minutes" or auto' in str(problem.hint)
    assert found(make(str(tmp_path), checkpoint={"every": "5 minutes"})) == []


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 10**12 - 2**20, 2**20))
    assert "its disk is full: 1 MiB free" in only(make(str(tmp_path))).message


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)  # root may write everywhere
    assert "cannot be written to" in only(make(str(tmp_path / "run"))).message


def test_a_read_only_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = namedtuple("status", "f_flag")
    monkeypatch.setattr("os.statvfs", lambda path: status(os.ST_RDONLY | os.ST_NOSUID))
    assert "cannot be written to" in only(make(str(tmp_path))).message


def test_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert existing(tmp_path) == tmp_path


def test_weights_are_rounded_on_their_way_only_where_they_are_computed_with_in_bf16(tmp_path: Path) -> None:
    assert found(make(str(tmp_path), "fsdp-bf16", 2, precision="bf16"), 2) == []
    problem = only(make(str(tmp_path), "fsdp-bf16", 2), 2)
    assert (problem.key, problem.value) == ("train.precision", "fp32")
    assert problem.hint == "set train.precision=bf16, or set strategy.gather_dtype=fp32"


def test_a_model_that_a_strategy_cannot_divide_is_refused_before_launch(tmp_path: Path) -> None:
    """The decoder has 4 heads; a task that knows no shape is asked again when it is built."""
    assert found(make(str(tmp_path), "tensor", 4), 4) == []
    problem = only(make(str(tmp_path), "tensor", 3), 3)
    assert (problem.key, problem.value, problem.hint) == ("strategy", "tensor 3", "sizes that fit: 1, 2, 4")
    assert found(make(str(tmp_path), "fsdp", 3), 3) == []
