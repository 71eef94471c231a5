"""Who may write into a run folder: whoever holds its lock, and the processes that were forked while it was held.

The kernel keeps the lock (flock) until the last of them is gone, however that ended. So a rank that outlives its
command still keeps a second command out, and a file that is left on the disk locks nobody.

    RUN/logs/command.lock   held by the command itself
    RUN/logs/ranks.lock     held by the process that starts the ranks, and by every rank
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from trainkit.errors import ConfigError, Problem

GHOST_S = 120.0


class RunLock:
    """An exclusive lock on the file `path`, taken by the constructor and given up at the end of a `with`.

    Raises ConfigError, with the holder's process and host, if another has it.
    """

    def __init__(self, path: Path, root: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 4096, 0)
            os.close(self._fd)
            raise ConfigError([_taken(root, holder)]) from None
        except OSError as error:  # a network disk that is mounted without locks
            os.close(self._fd)
            problem = Problem("run.dir", root, f"cannot be locked: {error.strerror}", "choose another run.dir")
            raise ConfigError([problem]) from error
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(me).encode(), 0)

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Give it up; forked processes that are still there keep it."""
        os.close(self._fd)


def until_free(root: Path, *locks: Path) -> None:
    """Wait until nobody holds any of `locks`: processes that have lost their command, or the run, are on their way out.
    Raises ConfigError if they take too long."""
    until = time.monotonic() + GHOST_S
    while True:
        try:
            for lock in locks:
                RunLock(lock, root).release()
            return
        except ConfigError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _taken(root: Path, holder: bytes) -> Problem:
    try:
        told = json.loads(holder)
        who = f"process {told['pid']} on {told['host']}, since {told['since']}"
    except ValueError:  # it has the lock, and has not signed yet
        who = "a process that started just now"
    hint = "wait until it has ended, or choose another run.dir; kill PID makes it save and leave"
    return Problem("run.dir", root, f"another command is at work in this folder: {who}", hint)
