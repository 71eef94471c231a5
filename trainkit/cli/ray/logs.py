"""ray logs: what the command of a run's job has said, as Ray has kept it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainkit.cli.jobs.state import one
from trainkit.errors import EXIT_DONE
from trainkit.launcher import _ray_jobs
from trainkit.runfolder import RunFolder


def main(words: Sequence[str]) -> int:
    follows = "-f" in words
    job, address = _ray_jobs.known(RunFolder(one([word for word in words if word != "-f"], "logs")))
    if follows:
        _ray_jobs.follow(address, job)
    else:
        _ray_jobs.told(address, job)
        sys.stdout.write(_ray_jobs.client(address).get_job_logs(job))
    return EXIT_DONE
