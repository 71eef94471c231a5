"""Runs as jobs of a Ray cluster, through its dashboard. In the run folder job.json says which job has the run."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.errors import ConfigError, Problem, TrainkitError
from trainkit.launcher import _submit
from trainkit.runfolder import RunFolder

STOP_S = 60
"""So long Ray lets a job save after it was asked to stop, before it is killed."""
OWN = ("conf", "recipes")
EXCLUDES = (".git", ".venv", "runs", "mlruns", "mlflow.db")
NOT_PASSED_ON = ("launcher.address=", "launcher.runtime_env", "run.dir=")
LOOK_S = 0.5
ENDS = ("SUCCEEDED", "STOPPED", "FAILED")


def entrypoint(words: Sequence[str], run_dir: str) -> str:
    """The command of the job."""
    passed = [word for word in words if not word.startswith(NOT_PASSED_ON)]
    return shlex.join(["python", "-m", "trainkit", *passed, f"run.dir={run_dir}"])


def environment(given: Mapping[str, Any]) -> dict[str, Any]:
    """The runtime environment of the job: what is given, the working directory if it has something of one's own, and
    time to save."""
    own = any(Path(name).is_dir() for name in OWN)
    brought = {"working_dir": ".", "excludes": [*EXCLUDES]} if own else {}
    return {**brought, **given, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), **given.get("env_vars", {})}}


def client(address: str) -> Any:
    """Raises ConfigError where no dashboard answers."""
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # of many types: nobody is there, no dashboard, another version of Ray
        said = " ".join(str(error).split())
        hint = "the dashboard of the head: http://HEAD:8265 (`ray start --head`, with pip install 'ray[default]')"
        raise ConfigError([Problem("--address", address, f"no Ray dashboard answers there: {said}", hint)]) from error


def submit(address: str, words: Sequence[str], config: Mapping[str, Any]) -> str:
    """The job that was made."""
    folder = RunFolder(Path(config["run"]["dir"]).absolute())
    job: str = client(address).submit_job(
        entrypoint=entrypoint(words, str(folder.root)),
        runtime_env=environment(config["launcher"]["runtime_env"]),
    )
    folder.root.mkdir(parents=True, exist_ok=True)
    _submit.write(folder, job=job, ray=address, submitted=time.time(), directory=str(Path.cwd()), words=[*words])
    return job


def known(folder: RunFolder) -> tuple[str, str]:
    """The job that has the run, and the dashboard that knows it. Raises ConfigError."""
    found = _submit.read(folder)
    if "ray" not in found:
        hint = "`trainkit jobs status` needs the run folder only"
        raise ConfigError([Problem("", "", f"{folder.root} was not submitted by `trainkit ray submit`", hint)])
    return str(found["job"]), str(found["ray"])


def told(address: str, job: str) -> Any:
    """What Ray knows of a job. Raises TrainkitError where it knows none."""
    try:
        return client(address).get_job_info(job)
    except RuntimeError as error:
        raise TrainkitError(f"Ray does not know job {job}: {' '.join(str(error).split())}") from error


def follow(address: str, job: str) -> str:
    """Print what a job says until it ends; its last state."""

    async def show() -> None:
        async for lines in client(address).tail_job_logs(job):
            sys.stdout.write(lines)
            sys.stdout.flush()

    asyncio.run(show())
    while (state := str(told(address, job).status.value)) not in ENDS:
        time.sleep(LOOK_S)
    return state
