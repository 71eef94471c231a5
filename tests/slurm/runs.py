"""Runs as jobs of the cluster: submitted as a person would, and looked at through the run folder."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.command import last_step, trainkit
from tests.slurm.cluster import Cluster

STEPS = 460
WORDS = (
    "recipe=image_classification",
    "train.steps=null",
    "train.epochs=20",
    "train.device=cpu",
    "checkpoint.every=100",
    "data.ledger=true",
    "tracker=none",
    "strategy=ddp",
    "run.dir=run",
)
"""460 steps, in which a run can be caught."""

SLURM = ("launcher=slurm", "launcher.submit=true", "launcher.sbatch.time=20")
TWO = (*SLURM, "launcher.nodes=2", "launcher.ranks=1")


class Submitted:
    """`python -m trainkit WORDS` with launcher.submit=true in `folder`, and the job that this made."""

    def __init__(self, cluster: Cluster, folder: Path, *words: str) -> None:
        self.cluster, self.folder, self.run = cluster, folder, folder / "run"
        done = trainkit(folder, *words, **around(cluster))
        assert done.returncode == 0, done.stdout + done.stderr
        self.said = done.stdout
        self.job = re.findall(r"job (\d+) is submitted", self.said)[0]

    def reach(self, step: int) -> None:
        """Wait until the step is in metrics.jsonl."""
        self.cluster.until(lambda: last_step(self.run) >= step, f"step {step}: {self.output()}", 120)

    def state(self) -> str:
        return self.cluster.job(self.job).get("JobState", "")

    def wait(self, seconds: float = 120.0) -> str:
        """The exit code of its end, as Slurm writes it; however often it is requeued before."""
        return self.cluster.ended(self.job, seconds)["ExitCode"]

    def output(self) -> str:
        return "".join(path.read_text() for path in sorted(self.run.glob("logs/slurm-*.out")))


def around(cluster: Cluster) -> dict[str, str]:
    """Variables that point a command at the cluster."""
    return {name: cluster.environment[name] for name in ("PATH", "SLURM_CONF")}


def asked(cluster: Cluster, folder: Path, *words: str) -> str:
    """What a command that must succeed prints."""
    done = trainkit(folder, *words, **around(cluster))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
