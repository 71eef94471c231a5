"""Handing a run to Slurm: the script, the job, and in the run folder who has it.

RUN/job.sbatch     what was submitted
RUN/job.json       the job that has the run, the one that waits for its end, and from where it was submitted
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.errors import ConfigError, Problem
from trainkit.launcher import _control
from trainkit.launcher._sbatch import Script
from trainkit.runfolder import RunFolder, replace_text

if TYPE_CHECKING:
    from trainkit.launcher.slurm import Slurm
    from trainkit.protocols import Cluster

NOT_PASSED_ON = ("launcher=", *(f"launcher.{key}" for key in ("submit=", "sbatch.", "setup=", "sweep=")), "run.dir=")
"""Words that have become lines of the script."""


def script(
    launcher: Slurm,
    config: Mapping[str, Any],
    words: Sequence[str],
    cluster: Cluster,
    python: str = sys.executable,
    by_hand: bool = False,
) -> Script:
    """The script of the run that `words` ask for."""
    run_dir = str(config["run"]["dir"])
    return Script(
        launcher=launcher,
        name=str(config["name"]),
        ranks=cluster.ranks // cluster.hosts,
        words=[*(word for word in words if not word.startswith(NOT_PASSED_ON)), "launcher=slurm"],
        run_dir=run_dir,
        python=python,
        members=[*to_do(launcher, Path(run_dir))],
        by_hand=by_hand,
    )


def to_do(launcher: Slurm, root: Path) -> Iterator[int]:
    """The members of the sweep that are not done."""
    for number in range(len(launcher.sweep)):
        summary = member(launcher, root, number).summary
        if not summary.exists() or json.loads(summary.read_text())["status"] != "done":
            yield number


def member(launcher: Slurm, root: Path, number: int) -> RunFolder:
    """The run folder of a member, which may name one of its own."""
    words = shlex.split(launcher.sweep[number])
    own = [word.removeprefix("run.dir=") for word in words if word.startswith("run.dir=")]
    return RunFolder(Path(own[-1]) if own else root / str(number))


def submit(launcher: Slurm, config: Mapping[str, Any], words: Sequence[str], cluster: Cluster) -> list[str]:
    """Submit it; what a person is told. Raises ConfigError where sbatch refuses it, and leaves nothing behind."""
    folder = RunFolder(Path(config["run"]["dir"]))
    made = script(launcher, config, words, cluster)
    if launcher.sweep and not made.members:
        return [f"all {len(launcher.sweep)} members of the sweep in {folder.root} are done"]
    with _laid_out(folder, str(made)):
        job = sbatch(str(folder.script))
    write(folder, job=job, submitted=time.time(), directory=str(Path.cwd()), words=[*words])
    for number in made.members:
        waiting = member(launcher, folder.root, number)
        waiting.root.mkdir(parents=True, exist_ok=True)
        write(waiting, job=f"{job}_{number}", submitted=time.time())
    members = f", members {', '.join(map(str, made.members))}" if made.members else ""
    return [
        f"job {job} is submitted{members}",
        f"    script   {folder.script}",
        f"    follow   python -m trainkit jobs logs -f {folder.root}",
        f"    status   python -m trainkit jobs status {folder.root}",
        f"    stop     python -m trainkit jobs stop {folder.root}",
    ]


@contextmanager
def _laid_out(folder: RunFolder, text: str) -> Iterator[None]:
    """With the script in the run folder, and the folder of its output, which Slurm does not make; all as it was before
    where sbatch refuses it."""
    logs = folder.root / "logs"
    new = [path for path in (logs, *logs.parents) if not path.exists()]
    before = folder.script.read_text() if folder.script.exists() else None
    logs.mkdir(parents=True, exist_ok=True)
    replace_text(folder.script, text)
    try:
        yield
    except NoAnswer:  # it may have taken the job all the same
        raise
    except ConfigError:
        if before is None:
            folder.script.unlink()
        else:
            replace_text(folder.script, before)
        with suppress(OSError):  # somebody else has put something there meanwhile
            for path in new:
                path.rmdir()
        raise


class NoAnswer(ConfigError):
    """Slurm does not answer, which may pass."""


def sbatch(*words: str, **more: str) -> str:
    """The number of the job that was made. Raises ConfigError; NoAnswer where it may be tried again."""
    said = _control.command("sbatch", "--parsable", *words, **more)
    if said is None:
        there = shutil.which("sbatch") is not None
        told = "Slurm does not answer" if there else "sbatch is not installed here"
        hint = "try it where jobs can be submitted; `trainkit slurm render` prints the script"
        raise (NoAnswer if there else ConfigError)([Problem("launcher.submit", True, told, hint)])
    if not said.ok:
        told = " ".join(said.error.split())
        hint = "change launcher.sbatch.*; `trainkit slurm check` asks sbatch and submits nothing"
        raise ConfigError([Problem("", "", f"sbatch refuses the job: {told}", hint)])
    return said.out.strip().split(";")[0]  # JOB;CLUSTER


def write(folder: RunFolder, **fields: Any) -> None:
    """Note something about the job; the rest stays."""
    replace_text(folder.job, json.dumps(read(folder) | fields, indent=1))


def read(folder: RunFolder) -> dict[str, Any]:
    """What is known of the job that has the run; empty for none."""
    try:
        found: dict[str, Any] = json.loads(folder.job.read_text())
    except FileNotFoundError:
        return {}
    return found
