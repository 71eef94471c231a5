"""ray stop: Ray asks the command of a run's job to end; it saves and leaves."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.cli.jobs.state import one
from trainkit.cli.ray import usage
from trainkit.cli.terminal import say
from trainkit.errors import EXIT_DONE
from trainkit.launcher import _ray_jobs
from trainkit.runfolder import RunFolder


def main(words: Sequence[str]) -> int:
    folder = RunFolder(one(words, usage("stop")))
    job, address = _ray_jobs.known(folder)
    info = _ray_jobs.told(address, job)
    if str(info.status.value) in _ray_jobs.ENDS:
        say(f"{folder.root}: job {job} does not run ({info.status.value})")
        return EXIT_DONE
    _ray_jobs.client(address).stop_job(job)
    say(f"{folder.root}: job {job} is asked to save and leave")
    return EXIT_DONE
