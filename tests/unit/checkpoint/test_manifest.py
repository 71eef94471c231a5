"""Every kind of damage to a checkpoint folder is found and named, and none of it needs torch."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.checkpoint.samples import damage, saved, state, store_in
from trainkit.checkpoint.manifest import (
    MANIFEST,
    MARKER,
    TRAINER,
    Digest,
    commit,
    committed,
    describe,
    read_manifest,
    step_folder,
    steps,
    verify,
)
from trainkit.errors import CheckpointError

FILES = {"__0_0.distcp", ".metadata", TRAINER, MANIFEST, MARKER}


def test_a_checkpoint_is_these_files_and_says_what_is_in_them(tmp_path: Path) -> None:
    saved(tmp_path, 7)
    path = step_folder(tmp_path, 7)
    assert {file.name for file in path.iterdir()} == FILES
    assert verify(path) == []
    manifest = read_manifest(path)
    assert set(manifest["files"]) == FILES - {MANIFEST, MARKER}
    assert manifest["step"] == 7
    assert manifest["about"]["recipe"] == "mine"
    assert manifest["tensors"] == {
        "model.head.weight": ["float32", [3, 4]],
        "model.head.bias": ["float32", [3]],
        "model.seen": ["int64", []],
        "optimizer.head.weight.exp_avg": ["float32", [3, 4]],
        "optimizer.head.weight.step": ["float32", []],
    }


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_flipped_bit_anywhere_is_found_and_its_file_named(name: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    file = step_folder(tmp_path, 1) / name
    whole = file.read_bytes()
    draw = random.Random(name)
    places = {0, len(whole) - 1, *draw.sample(range(len(whole)), min(len(whole), 150))}
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        problems = verify(file.parent)
        assert any(name in problem for problem in problems), place
        assert len(problems) == 1
    file.write_bytes(whole)
    assert verify(file.parent) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FILES))
def test_every_single_flipped_bit_is_found(name: str, tmp_path: Path) -> None:
    """All of them, in all files of a small checkpoint."""
    saved(tmp_path, 1)
    file = step_folder(tmp_path, 1) / name
    whole = file.read_bytes()
    with file.open("r+b") as disk:
        for bit in range(8 * len(whole)):
            place = bit // 8
            for value in (whole[place] ^ 1 << bit % 8, whole[place]):
                disk.seek(place)
                disk.write(bytes([value]))
                disk.flush()
                assert bool(verify(file.parent)) == (value != whole[place]), bit


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("kept", [0.0, 0.5, None])
def test_a_short_or_missing_file_is_found_and_named(name: str, kept: float | None, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    file = step_folder(tmp_path, 1) / name
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    (problem,) = verify(file.parent)
    assert name in problem


@pytest.mark.parametrize("change", [-1, 1])
def test_another_size_is_told_in_bytes(change: int, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    file = step_folder(tmp_path, 1) / TRAINER
    content = file.read_bytes()
    file.write_bytes(content[:-1] if change < 0 else content + b" ")
    assert verify(file.parent) == [f"{TRAINER} has {len(content) + change} bytes instead of {len(content)}"]


def test_ranks_that_share_the_files_find_together_what_one_finds_alone(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for name in (TRAINER, ".metadata"):
        damage(tmp_path, 1, name)
    path = step_folder(tmp_path, 1)
    assert len(verify(path)) == 2
    for size in (1, 2, 3, 5):
        parts = [verify(path, slice(rank, None, size)) for rank in range(size)]
        assert sorted(problem for part in parts for problem in part) == sorted(verify(path))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / MANIFEST).unlink(),
        lambda path: (path / MARKER).unlink(),
        lambda path: damage(path.parent, 2, "__0_0.distcp"),
        lambda path: [file.unlink() for file in path.iterdir() if file.name != MARKER],
        lambda path: [file.unlink() for file in path.iterdir()],
    ],
    ids=["no manifest", "no marker", "a bit", "marker alone", "empty"],
)
def test_a_damaged_one_is_named_and_the_one_before_is_used(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    spoil(step_folder(tmp_path, 2))
    said: list[str] = []
    assert store_in(tmp_path, said=said).latest() == step_folder(tmp_path, 1)
    (line,) = said
    assert str(step_folder(tmp_path, 2)) in line
    assert any(name in line for name in FILES)


def test_if_none_is_good_nothing_starts_anew_silently(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    damage(tmp_path, 1)
    damage(tmp_path, 2)
    with pytest.raises(CheckpointError, match="can be trusted") as caught:
        store_in(tmp_path).latest()
    assert str(step_folder(tmp_path, 1)) in str(caught.value)
    assert str(step_folder(tmp_path, 2)) in str(caught.value)


def test_a_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    writing = tmp_path / "w"
    writing.mkdir()
    commit(writing, step_folder(tmp_path, 1), {MANIFEST: describe(writing, {}, {"version": 99})})
    (problem,) = verify(step_folder(tmp_path, 1))
    assert "99" in problem


def test_a_file_on_the_disk_of_another_host_is_no_checkpoint(tmp_path: Path) -> None:
    writing = tmp_path / "w"
    writing.mkdir()
    with pytest.raises(CheckpointError, match=r"checkpoint\.dir"):
        commit(writing, step_folder(tmp_path, 1), {"__1_0.distcp": Digest(10, "0")})
    assert steps(tmp_path) == []


def test_only_whole_names_count(tmp_path: Path) -> None:
    saved(tmp_path, 10, 9)
    for name in ("step_x", "step_07", "step_1.5", "step_", ".writing-step_3.1", ".damaged-step_4.1", "step_²"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER).touch()
    (tmp_path / "step_11").mkdir()
    assert steps(tmp_path) == [9, 10, 11]
    assert committed(tmp_path) == [9, 10]
    assert committed(tmp_path / "nowhere") == []


def test_the_front_reads_checkpoints_without_torch(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    program = """
import json, sys
from pathlib import Path
from trainkit.checkpoint.manifest import committed, read_manifest, read_trainer, step_folder, verify
path = step_folder(Path(sys.argv[1]), 3)
print(json.dumps([committed(path.parent), verify(path), read_trainer(path)["progress"], "torch" in sys.modules]))
"""
    out = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == [[3], [], {"step": 3}, False]


def test_an_empty_folder_is_looked_at_without_the_machinery(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from trainkit.checkpoint.store import CheckpointStore
class World: rank, size = 0, 1; gather = staticmethod(lambda value: [value])
print(CheckpointStore(Path(sys.argv[1]) / "none", World(), 1, {}, print).latest(), "torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["None", "False"]


def test_numbers_that_json_does_not_know_come_back(tmp_path: Path) -> None:
    """A diverged run has a loss of nan, and must still be able to save."""
    store = store_in(tmp_path)
    store.save(1, state(1), {"metrics": {"eval_loss": float("nan")}})
    found = store.latest()
    assert found is not None
    assert str(store.load(found, state(0))["metrics"]["eval_loss"]) == "nan"
