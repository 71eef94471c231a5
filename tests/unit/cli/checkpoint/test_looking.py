"""`checkpoint inspect` and `checkpoint verify`: what they say of whole and of damaged checkpoints, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.checkpoint.samples import damage, saved
from tests.unit.cli.test_main import said
from trainkit.checkpoint.manifest import MANIFEST, step_folder
from trainkit.cli.main import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two checkpoints, of which the first has the lower loss."""
    root = tmp_path / "run"
    saved(root / "checkpoints", 5, eval_loss=0.25)
    saved(root / "checkpoints", 10, eval_loss=0.5)
    (root / "config.yaml").write_text("checkpoint: {dir: null, metric: eval_loss, mode: min}\n")
    return root


def rows(text: str) -> dict[str, str]:
    return {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.startswith("  ")}


def test_a_run_is_a_table_of_its_checkpoints(run: Path, capsys: Capture) -> None:
    found = rows(said(capsys, "checkpoint", "inspect", str(run)))
    assert list(found) == ["step", "5", "10"]
    assert found["5"].endswith("local, 1 rank(s) best by eval_loss")
    assert "eval_loss 0.2500" in found["5"]
    assert found["10"].endswith("local, 1 rank(s) latest")


def test_what_is_damaged_is_neither_latest_nor_best(run: Path, capsys: Capture) -> None:
    (run / "checkpoints/step_10/trainer.json").write_text("{")
    (run / "checkpoints/.damaged-step_3.1").mkdir()
    (run / "checkpoints/.writing-step_15.1").mkdir()
    found = rows(said(capsys, "checkpoint", "inspect", str(run)))
    assert found["10"].startswith("damaged: trainer.json has 1 bytes instead of ")
    assert found["5"].endswith("latest, best by eval_loss")
    assert found[".damaged-step_3.1"] == "damaged, moved aside"
    assert found[".writing-step_15.1"] == "a save that has not ended"


def test_a_checkpoint_tells_its_writer_and_its_tensors_by_kind(run: Path, capsys: Capture) -> None:
    text = said(capsys, "checkpoint", "inspect", str(run / "checkpoints/step_10"))
    found = rows(text)
    assert found["step"] == "10"
    assert found["metrics"] == "eval_loss 0.5000"
    assert found["written"].startswith("by local, 1 rank(s)")
    assert found["model"] == "3 16 68 B"  # [3, 4] and [3] float32, one int64
    assert found["together"] == "5 29 120 B"
    assert "  optimizer exp_avg  1        12        48 B" in text
    assert found["model.head.weight"] == "[3, 4] float32 48 B"


def test_tensors_lists_all_of_them(tmp_path: Path, capsys: Capture) -> None:
    saved(tmp_path, 1)
    found = rows(said(capsys, "checkpoint", "inspect", "--tensors", str(tmp_path / "step_1")))
    assert [name for name in found if "." in name] == [
        *("model.head.weight", "model.head.bias", "model.seen"),
        *("optimizer.head.weight.exp_avg", "optimizer.head.weight.step"),
    ]


def test_checkpoints_that_lie_elsewhere_are_found(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "config.yaml").write_text(f"checkpoint: {{dir: {tmp_path / 'elsewhere'}, metric: null, mode: min}}\n")
    assert list(rows(said(capsys, "checkpoint", "inspect", str(run)))) == ["step", "5", "10"]
    assert "step_10: OK" in said(capsys, "checkpoint", "verify", str(tmp_path / "elsewhere"))


def test_verify_reads_everything(run: Path, capsys: Capture) -> None:
    lines = said(capsys, "checkpoint", "verify", str(run)).splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"{run}/checkpoints/step_{step}: OK" for step in (5, 10)]


def test_verify_names_every_wrong_file_and_fails(run: Path, capsys: Capture) -> None:
    damage(run / "checkpoints", 10)
    damage(run / "checkpoints", 10, "__0_0.distcp")
    (run / "checkpoints/step_10/.metadata").unlink()
    assert main(["checkpoint", "verify", str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{run}/checkpoints/step_5: OK")
    assert lines[1] == f"{run}/checkpoints/step_10: DAMAGED"
    assert sorted(lines[2:]) == [
        "    .metadata: No such file or directory",
        "    __0_0.distcp has changed: its checksum is wrong",
        "    trainer.json has changed: its checksum is wrong",
    ]


def test_a_flipped_bit_is_verifys_business(run: Path, capsys: Capture) -> None:
    damage(run / "checkpoints", 10, "__0_0.distcp")
    assert "`checkpoint verify` reads every file" in said(capsys, "checkpoint", "inspect", str(run))
    assert main(["checkpoint", "verify", str(run / "checkpoints/step_10")]) == 1


def test_an_unreadable_manifest_is_told(run: Path, capsys: Capture) -> None:
    (step_folder(run / "checkpoints", 10) / MANIFEST).unlink()
    text = said(capsys, "checkpoint", "inspect", str(run / "checkpoints/step_10"), code=1)
    assert "MANIFEST.json: No such file" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "checkpoint inspect RUN|CHECKPOINT"),
        (["verfy", "x"], "did you mean verify?"),
        (["inspect"], "1 word is wanted, there are none"),
        (["inspect", "a", "b"], "there are 2 (a b)"),
        (["verify", "x", "--tensors"], "there is no option --tensors here"),
        (["inspect", "nowhere"], "nowhere: there is no such folder"),
        (["verify", "."], "is neither a run folder nor a checkpoint: none of config.yaml, checkpoints/"),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in said(capsys, "checkpoint", *words, code=2)


def test_a_run_without_checkpoints_is_told(run: Path, capsys: Capture) -> None:
    for step in (5, 10):
        step_folder(run / "checkpoints", step).rename(run / str(step))
    assert "there is no checkpoint in" in said(capsys, "checkpoint", "verify", str(run), code=2)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_neither_loads_torch(command: str, run: Path) -> None:
    code = f"import sys; from trainkit.cli.main import main; main({['checkpoint', command, str(run)]!r})"
    code += "; print({'torch', 'numpy', 'hydra'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
