"""`checkpoint export`: plain files that other programs read, whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.checkpoint.samples import damage, saved, state, store_in, trainer
from tests.unit.cli.test_main import said
from trainkit.checkpoint import plain

Capture = pytest.CaptureFixture[str]


def averaged(step: int) -> dict[str, Any]:
    """A state with averaged weights, and a tensor of every type that safetensors knows."""
    made = state(step)
    made["ema"] = {name: made["model"][name] / 2 for name in ("head.weight", "head.bias")}
    made["model"] |= {f"of.{name}": torch.ones(3, 2).to(getattr(torch, name)) for name in plain.TYPES}
    made["model"]["empty"] = torch.zeros(0, 4)
    return made


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    store_in(tmp_path / "checkpoints").save(3, averaged(3), trainer(3))
    return tmp_path


def export(capsys: Capture, root: Path, *words: str, code: int = 0) -> str:
    return said(capsys, "checkpoint", "export", str(root), str(root / "out"), *words, code=code)


def read(root: Path) -> dict[str, torch.Tensor]:
    (file,) = (root / "out").iterdir()
    tensors: dict[str, torch.Tensor] = load_file(file) if file.suffix == ".safetensors" else torch.load(file)
    return tensors


@pytest.mark.parametrize("part", [1, 40, 1 << 30])
def test_safetensors_own_library_reads_what_is_written_part_by_part(
    part: int, checkpoints: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "PART", part)
    assert "model.safetensors" in export(capsys, checkpoints, "--weights", "model")
    found, expected = read(checkpoints), averaged(3)["model"]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].double(), tensor.double()), name
    assert found["head.weight"].data_ptr() % 4 == 0


def test_torch_reads_the_other_one_without_unpickling_anything_else(checkpoints: Path, capsys: Capture) -> None:
    export(capsys, checkpoints, "--format=torch", "--weights=model")
    assert read(checkpoints).keys() == averaged(3)["model"].keys()
    assert torch.equal(read(checkpoints)["head.weight"], state(3)["model"]["head.weight"])


def test_averaged_weights_are_taken_where_there_are_some(checkpoints: Path, capsys: Capture) -> None:
    assert "averaged weights of" in export(capsys, checkpoints)
    found = read(checkpoints)
    assert torch.equal(found["head.weight"], state(3)["model"]["head.weight"] / 2)
    assert found["seen"].item() == 3  # a buffer is not averaged


def test_averaged_weights_are_refused_where_there_are_none(tmp_path: Path, capsys: Capture) -> None:
    saved(tmp_path / "checkpoints", 1)
    assert "holds no averaged weights" in export(capsys, tmp_path, "--weights", "ema", code=2)
    assert not (tmp_path / "out").exists()


def test_of_a_run_the_newest_good_one_is_taken(tmp_path: Path, capsys: Capture) -> None:
    saved(tmp_path / "checkpoints", 1, 2)
    damage(tmp_path / "checkpoints", 2)
    assert "step_2 is damaged" in export(capsys, tmp_path)
    assert read(tmp_path)["seen"].item() == 1


def test_a_damaged_one_that_was_named_is_not_read(tmp_path: Path, capsys: Capture) -> None:
    saved(tmp_path / "checkpoints", 2)
    damage(tmp_path / "checkpoints", 2, "__0_0.distcp")
    words = ("checkpoint", "export", str(tmp_path / "checkpoints/step_2"), str(tmp_path / "out"))
    assert "__0_0.distcp has changed" in said(capsys, *words, code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_nothing_is_overwritten(checkpoints: Path, capsys: Capture) -> None:
    (checkpoints / "out").mkdir()
    (checkpoints / "out/mine").write_text("mine")
    assert "exists already" in export(capsys, checkpoints, code=2)
    assert [path.name for path in (checkpoints / "out").iterdir()] == ["mine"]


def test_a_full_disk_leaves_nothing_behind(checkpoints: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(checkpoint: Path, layout: Any, names: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plain, "_read", full)
    assert "the disk is full" in export(capsys, checkpoints, code=1)
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoints"]


def test_hf_needs_to_know_the_recipe(checkpoints: Path, capsys: Capture) -> None:
    assert "the recipe is not known" in export(capsys, checkpoints, "--format", "hf", code=2)
    assert "should be safetensors | hf | torch" in export(capsys, checkpoints, "--format", "hff", code=2)
    assert not (checkpoints / "out").exists()
