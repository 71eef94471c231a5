"""One process: what is saved comes back, and what does not fit is refused with its names."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.checkpoint.samples import ABOUT, damage, equal, saved, state, store_in, trainer
from trainkit.checkpoint.manifest import read_manifest, step_folder
from trainkit.errors import CheckpointError, ConfigError


def test_what_is_loaded_is_what_was_saved_bit_for_bit(tmp_path: Path) -> None:
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool, torch.uint8]
    generator = torch.Generator().manual_seed(1)
    bits = {str(k): torch.randint(0, 2, (5, 3), generator=generator).to(k) for k in kinds}
    bits |= {"nan": torch.tensor([float("nan"), -0.0, float("inf")]), "none": torch.zeros(0, 4), "one": torch.tensor(3)}
    bits |= {"view": torch.arange(12.0).reshape(3, 4).T, "part": torch.arange(100.0)[10:20]}
    store = store_in(tmp_path)
    done = store.save(4, {"model": bits}, trainer(4))
    into = {"model": {name: torch.zeros_like(value) for name, value in bits.items()}}
    targets = dict(into["model"])
    assert store.load(done.path, into) == trainer(4)
    for name, value in bits.items():
        assert bits_of(targets[name]).equal(bits_of(value)), name


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def test_a_save_says_what_it_cost(tmp_path: Path) -> None:
    begin = time.perf_counter()
    done = store_in(tmp_path).save(4, state(4), trainer(4))
    assert (done.step, done.path) == (4, tmp_path / "step_4")
    assert 0 < done.seconds < time.perf_counter() - begin
    files = [done.path / name for name in read_manifest(done.path)["files"]]
    assert done.bytes == sum(file.stat().st_size for file in files)


def test_a_good_checkpoint_is_never_written_again(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)
    before = [(file, file.stat().st_ino, file.stat().st_mtime_ns) for file in sorted((tmp_path / "step_1").iterdir())]
    again = store_in(tmp_path, attempt=2).save(1, state(99), trainer(99))
    assert (again.path, again.bytes) == (tmp_path / "step_1", 0)
    after = [(file, file.stat().st_ino, file.stat().st_mtime_ns) for file in sorted((tmp_path / "step_1").iterdir())]
    assert after == before
    assert store.latest() == tmp_path / "step_1"


def test_a_damaged_checkpoint_is_replaced(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    damage(tmp_path, 2)
    store = store_in(tmp_path, attempt=2)
    store.save(2, state(2), trainer(2))
    into = state(0)
    found = store.latest()
    assert found == tmp_path / "step_2"
    store.load(found, into)
    assert equal(into, state(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1", "step_2"]


def test_a_damaged_checkpoint_stays_for_a_look_until_it_is_replaced(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    damaged = damage(tmp_path, 2).read_bytes()
    with pytest.raises(CheckpointError, match="no checkpoint is saved yet"):
        store_in(tmp_path, attempt=2).save(2, state(2), {"progress": object()})
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith(".damaged-step_2.")
    assert (aside / "trainer.json").read_bytes() == damaged


def test_a_failed_save_frees_its_space_and_keeps_what_there_was(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"TypeError.*JSON") as caught:
        store.save(2, state(2), {"progress": object()})
    assert "the checkpoint of step 1 is intact" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_state_that_is_no_tensor_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.rate in the engine's state is float, not a tensor"):
        store_in(tmp_path).save(1, {"model": {"rate": 0.1}}, trainer(1))


def test_a_folder_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="Not a directory") as caught:
        store_in(tmp_path / "file" / "checkpoints").save(1, state(1), trainer(1))
    assert "no checkpoint is saved yet" in str(caught.value)


# ------------------------------------------------------------------------------------- another model


def refused(tmp_path: Path, wanted: dict[str, Any], about: dict[str, Any] = ABOUT) -> str:
    store = store_in(tmp_path, about=about)
    path = saved(tmp_path, 1).latest()
    assert path is not None
    before = {name: value.clone() for name, value in wanted["model"].items()}
    with pytest.raises(ConfigError) as caught:
        store.load(path, wanted)
    assert all(value.equal(wanted["model"][name]) for name, value in before.items())
    (problem,) = caught.value.problems
    assert problem.key == "run.dir"
    assert str(path) in str(problem)
    return str(problem)


def test_other_shapes_are_named_with_both(tmp_path: Path) -> None:
    text = refused(tmp_path, state(0, width=5))
    assert "model.head.weight (float32 [3, 4] there, float32 [3, 5] in the model)" in text
    assert "head.bias" not in text


def test_another_type_is_not_cast_silently(tmp_path: Path) -> None:
    wanted = state(0)
    wanted["model"]["head.bias"] = wanted["model"]["head.bias"].bfloat16()
    assert "model.head.bias (float32 [3] there, bfloat16 [3] in the model)" in refused(tmp_path, wanted)


def test_missing_and_superfluous_names_are_told_the_first_few(tmp_path: Path) -> None:
    wanted = state(0)
    del wanted["model"]["head.bias"]
    wanted["model"] |= {f"extra.{i}": torch.zeros(2) for i in range(5)}
    text = refused(tmp_path, wanted)
    assert "it lacks model.extra.0, model.extra.1, model.extra.2 and 2 more" in text
    assert "it also holds model.head.bias" in text


def test_what_the_checkpoint_was_written_with_is_told(tmp_path: Path) -> None:
    other = ABOUT | {"recipe": "yours", "fixed": {"recipe.width": 5}, "versions": {"torch": "3"}}
    text = refused(tmp_path, state(0, width=5), other)
    assert "it was written with recipe=mine, recipe.width=4; set the same again" in text
    assert "strategy" not in text
    assert "versions" not in text


def test_a_part_can_be_read_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, 3).latest()
    assert path is not None
    part = {"model": {"head.bias": torch.zeros(3)}}
    store_in(tmp_path).load(path, part, partial=True)
    assert part["model"]["head.bias"].tolist() == [3.0, 3.0, 3.0]
    with pytest.raises(ConfigError, match=r"it lacks model\.foot"):
        store_in(tmp_path).load(path, {"model": {"foot": torch.zeros(3)}}, partial=True)


def test_a_checkpoint_that_vanishes_is_told_in_words(tmp_path: Path) -> None:
    path = saved(tmp_path, 1).latest()
    assert path is not None
    (path / "__0_0.distcp").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*step_1: .*No such file"):
        store_in(tmp_path).load(path, state(0))


def test_the_global_setting_for_checksums_of_torch_is_left_as_it_was(tmp_path: Path) -> None:
    from torch.utils.serialization import config

    saved(tmp_path, 1)
    assert config.save.compute_crc32 is True


def open_files() -> list[Path]:
    return sorted(path.readlink() for path in Path("/proc/self/fd").iterdir() if path.exists())


def test_no_file_stays_open(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    before = open_files()
    store = saved(tmp_path, 2, 3)
    store.load(step_folder(tmp_path, 3), state(0))
    with pytest.raises(CheckpointError):
        store.save(4, {"model": {"a": 1}}, trainer(4))
    assert open_files() == before
