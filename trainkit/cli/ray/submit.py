"""ray submit: hand the run to a Ray cluster as a job, say where to look, and exit; or follow it, and submit it again
where the job failed: the run goes on from its newest checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trainkit.checkpoint.manifest import committed
from trainkit.cli.run import prepare
from trainkit.cli.terminal import say
from trainkit.cli.under import under
from trainkit.cli.words import parse, whole
from trainkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from trainkit.launcher import _ray_jobs
from trainkit.runfolder import RunFolder

DASHBOARD = "http://127.0.0.1:8265"
CODES = {"SUCCEEDED": EXIT_DONE, "STOPPED": EXIT_STOPPED}


def main(words: Sequence[str]) -> int:
    plain, given = parse(words, {"--address": None, "--retries": None}, ["--follow"])
    address = given.get("--address", os.environ.get("RAY_API_SERVER_ADDRESS", DASHBOARD))
    retries = whole(given, "--retries", 0) or 0
    run = under("ray", plain)
    config, settings, _ = prepare(run)
    folder = RunFolder(Path(settings.run.dir).absolute())
    checkpoints = folder.checkpoints(settings.checkpoint.dir)
    job = _ray_jobs.submit(address, run, config)
    show(job, folder)
    if not retries and "--follow" not in given:
        return EXIT_DONE
    failed, saved = 0, max(committed(checkpoints), default=-1)
    while (state := _ray_jobs.follow(address, job)) == "FAILED":
        before, saved = saved, max(committed(checkpoints), default=-1)
        failed = 1 if saved > before else failed + 1
        if failed > retries or _ray_jobs.told(address, job).driver_exit_code == EXIT_CONFIG:
            return EXIT_FAILED
        job = _ray_jobs.submit(address, run, config)
        say(f"retry {failed} of {retries}: job {job} goes on from step {max(saved, 0)}")
    return CODES[state]


def show(job: str, folder: RunFolder) -> None:
    say(f"job {job} is submitted")
    say(f"    follow   python -m trainkit ray logs -f {folder.root}")
    say(f"    status   python -m trainkit ray status {folder.root}")
    say(f"    stop     python -m trainkit ray stop {folder.root}")
