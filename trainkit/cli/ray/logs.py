"""ray logs: what the command of a run's job has said, as Ray has kept it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainkit.cli.jobs.state import one
from trainkit.cli.ray import usage
from trainkit.cli.words import split
from trainkit.errors import EXIT_DONE
from trainkit.launcher import _ray_jobs
from trainkit.runfolder import RunFolder


def main(words: Sequence[str]) -> int:
    plain, given, wrong = split(words, {}, ["-f"])
    if wrong:
        raise usage("logs")
    job, address = _ray_jobs.known(RunFolder(one(plain, usage("logs"))))
    if "-f" in given:
        _ray_jobs.follow(address, job)
    else:
        _ray_jobs.told(address, job)
        sys.stdout.write(_ray_jobs.client(address).get_job_logs(job))
    return EXIT_DONE
