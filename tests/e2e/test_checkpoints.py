"""Checkpoints seen from outside: a damaged one is named and passed over, and another number of ranks goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.command import NOT_TRACKED, TWO, curve, done, events, summary, trainkit, weights

FIRST = (
    *("recipe=image_classification", "train.steps=20", "train.device=cpu", "train.eval_every=20", "recipe.dropout=0.0"),
    *("schedule=constant", "schedule.warmup=0", "checkpoint.every=10", "run.dir=run", *NOT_TRACKED),
)
LONGER = (*FIRST, "train.steps=30")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 steps at once on one rank."""
    folder = tmp_path_factory.mktemp("straight")
    done(folder, *LONGER)
    return folder / "run"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """20 steps on one rank, and on two; with checkpoints of steps 10 and 20."""
    folders = {}
    for ranks, more in ((1, ()), (2, TWO)):
        folders[ranks] = tmp_path_factory.mktemp(f"ranks_{ranks}")
        done(folders[ranks], *FIRST, *more)
    return folders


def copied(made: Path, to: Path) -> Path:
    """A folder of one's own to go on in. The paths in config.yaml are those of the first; nothing may rely on them."""
    shutil.copytree(made / "run", to / "run")
    return to / "run"


def damage(file: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    made: dict[int, Path], straight: Path, tmp_path: Path
) -> None:
    run = copied(made[1], tmp_path)
    damage(run / "checkpoints/step_20/__0_0.distcp")
    text = done(tmp_path, *LONGER)
    told = f"checkpoint {run}/checkpoints/step_20 is damaged: __0_0.distcp has changed: its checksum is wrong; "
    assert told + "looking at the one before it" in text.splitlines()
    assert [event["step"] for event in events(run, "start")] == [0, 10]
    assert curve(run)[-1] == curve(straight)[-1]
    assert weights(run) == weights(straight)


def test_where_all_are_damaged_nothing_is_begun_anew(made: dict[int, Path], tmp_path: Path) -> None:
    run = copied(made[1], tmp_path)
    for step in (10, 20):
        (run / f"checkpoints/step_{step}/trainer.json").unlink()
    rows = curve(run)
    process = trainkit(tmp_path, *LONGER)
    assert process.returncode == 1
    assert "can be trusted" in process.stdout
    assert "restore one from a backup" in process.stdout
    assert "Traceback" not in process.stdout + process.stderr
    assert [event["exit_code"] for event in events(run, "failure")] == [1]
    assert curve(run) == rows


@pytest.mark.parametrize("before", [1, 2])
def test_another_number_of_ranks_goes_on(made: dict[int, Path], straight: Path, tmp_path: Path, before: int) -> None:
    run = copied(made[before], tmp_path)
    done(tmp_path, *LONGER, *(TWO if before == 1 else ()))
    assert [(event["step"], event["ranks"]) for event in events(run, "start")] == [(0, before), (20, 3 - before)]
    for mine, other in zip(curve(run)[-10:], curve(straight)[-10:], strict=True):
        assert mine == pytest.approx(other, abs=1e-5)


def test_a_checkpoint_of_another_model_is_refused_by_its_tensors(made: dict[int, Path], tmp_path: Path) -> None:
    """Where the keys do not tell, because the recipe's code has changed since."""
    run = copied(made[1], tmp_path)
    for manifest in run.glob("checkpoints/*/MANIFEST.json"):
        assert json.loads(manifest.read_text())["about"]["fixed"]["recipe.width"] == 16
    source = Path(__file__).parents[2] / "recipes/image_classification.py"
    (tmp_path / "recipes").mkdir()
    text = source.read_text().replace("w = self.width", "w = 2 * self.width")
    (tmp_path / "recipes/image_classification.py").write_text(text)
    process = trainkit(tmp_path, *LONGER)
    assert process.returncode == 2
    assert "this checkpoint is of another model" in process.stdout
    assert "0.weight (float32 [16, 1, 3, 3] there, float32 [32, 1, 3, 3] in the model)" in process.stdout
    assert "Traceback" not in process.stdout + process.stderr
    assert summary(run)["status"] == "refused"
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step_10", "step_20"]
