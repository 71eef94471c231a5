"""A Prefect flow that trains a recipe and follows it to its end.

    python launch/prefect_flow.py /shared/runs/a recipe=llm_finetune

With launcher=slurm among the words the run is submitted, and followed by its folder. Prefect needs no trainkit in its
own environment: TRAINKIT_PYTHON names the interpreter that has it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task

REFUSED = 2


class Refused(RuntimeError):
    """Another try would be refused, too."""


def worth_a_retry(task: Any, run: Any, state: Any) -> bool:
    return not isinstance(state.result(raise_on_failure=False), Refused)


@task(retries=3, retry_delay_seconds=5, retry_condition_fn=worth_a_retry)
def train(words: list[str], run_dir: str) -> str:
    """Ends with the run. A retry goes on from the newest checkpoint, or follows a run that its task has lost. A task
    that is cancelled lets it save, and leave."""
    followed = Path(run_dir, "config.yaml").exists() or Path(run_dir, "job.json").exists()
    try:
        if followed and trainkit("jobs", "wait", run_dir) == 0:
            return run_dir
        submit = ["launcher.submit=true"] if "launcher=slurm" in words else []
        code = trainkit(*words, *submit, f"run.dir={run_dir}")
        if code == 0:
            code = trainkit("jobs", "wait", run_dir)
    except BaseException:
        trainkit("jobs", "stop", run_dir)
        trainkit("jobs", "wait", run_dir)
        raise
    if code == REFUSED:
        raise Refused("the run was refused: the log says why")
    if code != 0:
        raise RuntimeError(f"the run ended with exit code {code}; the next try goes on from its checkpoint")
    return run_dir


def trainkit(*words: str) -> int:
    """A command, with its lines in the log of the task. Its session is its own: it is told once to stop, by `train`."""
    command = [os.environ.get("TRAINKIT_PYTHON", "python"), "-m", "trainkit", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    for line in process.stdout or ():
        get_run_logger().info(line.rstrip())
    return process.wait()


@flow(name="trainkit")
def run(words: list[str], run_dir: str) -> str:
    return train(words, run_dir)


if __name__ == "__main__":
    run(sys.argv[2:], sys.argv[1])
