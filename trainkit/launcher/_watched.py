"""A job that leaves a sign of life in the run folder, so that whoever sees the folder knows whether it runs."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress

from trainkit.protocols import Job
from trainkit.runfolder import RunFolder, replace_text

BEAT_S = 5.0
FRESH_S = 6 * BEAT_S  # without a sign of life for so long, nobody is at work


class Watched:
    """A job that is looked at several times a second, which is told every BEAT_S."""

    def __init__(self, job: Job, folder: RunFolder) -> None:
        self._folder, self._beat = folder, 0.0
        self._job, self.stop, self.kill = job, job.stop, job.kill

    def poll(self) -> int | None:
        code = self._job.poll()
        if code is None and time.monotonic() - self._beat > BEAT_S:
            self._beat = time.monotonic()
            told = {"time": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
            with suppress(OSError):  # a disk that is full for now ends no run
                replace_text(self._folder.heartbeat, json.dumps(told | {"job": os.environ.get("SLURM_JOB_ID")}))
        return code
