"""The batch scripts in slurm/ are what `trainkit slurm render` prints; no cluster is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trainkit.cli.slurm.render import rendered

FOLDER = Path(__file__).parents[2] / "slurm"
BY_HAND = {"train"}
RENDERED = {
    "one_node": [
        *("recipe=llm_finetune", "strategy=ddp", "launcher.gpus=2", "launcher.ranks=2", "launcher.cpus=8"),
        *("launcher.sbatch.account=abc", "launcher.sbatch.time=04:00:00", "checkpoint.every=auto"),
    ],
    "two_nodes": [
        *("recipe=llm_pretrain", "strategy=fsdp", "launcher.nodes=2", "launcher.ranks=8", "launcher.cpus=4"),
        *("launcher.sbatch.gres=gpu:a100:8", "launcher.sbatch.partition=gpu", "launcher.sbatch.qos=long"),
        *("launcher.sbatch.constraint='a100&nvlink'", "launcher.setup=['module load cuda']"),
    ],
    "fewer_nodes": ["recipe=llm_pretrain", "strategy=ddp", "launcher.nodes=2:4", "launcher.ranks=8", "launcher.cpus=4"],
    "task_per_rank": [
        *("recipe=llm_pretrain", "strategy=horovod", "launcher.nodes=2", "launcher.ranks=4", "launcher.style=rank"),
        *("launcher.cpus=4", "launcher.sbatch.container_image=nvcr.io#nvidia/pytorch", "launcher.restart=no"),
    ],
    "sweep": [
        *("recipe=image_classification", "launcher.sbatch.throttle=2"),
        "launcher.sweep=['train.seed=1','train.seed=2','train.seed=3 optimizer.lr=1e-3']",
    ],
}


@pytest.mark.parametrize("name", RENDERED)
def test_the_script_is_the_committed_one(
    name: str, write_golden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the shipped files alone, whatever the working directory has
    monkeypatch.setenv("PATH", "")  # nor any program
    text = str(rendered([*RENDERED[name], f"run.dir={tmp_path}/{name}"], "python", by_hand=True)).replace(
        str(tmp_path), "/shared/runs"
    )
    golden = FOLDER / f"{name}.sbatch"
    if write_golden:
        golden.write_text(text)
    assert text == golden.read_text(), f"if {golden} is to change: make golden, and commit the difference"


def test_no_file_is_left_of_a_script_that_is_gone() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*RENDERED} | BY_HAND


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.stem)
def test_bash_reads_it(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
