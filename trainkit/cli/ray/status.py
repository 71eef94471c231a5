"""ray status: what Ray says of the job that has a run; `jobs status` tells of the run itself."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.cli.jobs.state import one
from trainkit.cli.ray import usage
from trainkit.cli.terminal import say, show_rows
from trainkit.errors import EXIT_DONE
from trainkit.launcher import _ray_jobs
from trainkit.runfolder import RunFolder


def main(words: Sequence[str]) -> int:
    folder = RunFolder(one(words, usage("status")))
    job, address = _ray_jobs.known(folder)
    info = _ray_jobs.told(address, job)
    say(str(folder.root))
    rows = [("job", job), ("state", str(info.status.value)), ("Ray", address)]
    rows += [("said", " ".join(info.message.split()))] if info.message else []
    rows += [("exit code", str(info.driver_exit_code))] if info.driver_exit_code is not None else []
    show_rows(rows)
    return EXIT_DONE
