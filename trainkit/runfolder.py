"""The run folder: its layout, and the two append-only journals in it.

    RUN/config.yaml                resolved configuration
    RUN/metrics.jsonl              one row per logged step
    RUN/events.jsonl               launch, start, sample, save, save_failed, save_waits, copy, copy_failed, cadence,
                                   snapshot, snapshot_failed, snapshot_used, snapshot_moved,
                                   bad_step, rollback, asked, stop, failure, restart, give_up, waiting, end
    RUN/checkpoints/step_N/        committed checkpoints
    RUN/ledger/attempt_A/rank_R.jsonl
    RUN/logs/attempt_A/rank_R.log
    RUN/logs/ranks.json            where every rank is, now and then
    RUN/model/                     the exported model
    RUN/summary.json

The folder is the truth about a run: whoever can read it can follow it, no process needs to be asked.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trainkit.errors import Fenced


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run folder."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def model(self) -> Path:
        return self.root / "model"

    def checkpoints(self, configured: str | None) -> Path:
        """Where checkpoints are written; `configured` is checkpoint.dir. To a URL they are copied from here."""
        return Path(configured) if configured and not is_url(configured) else self.root / "checkpoints"

    def logs(self, attempt: int) -> Path:
        return self.root / "logs" / f"attempt_{attempt}"

    @property
    def profile(self) -> Path:
        """What a profile is to record, and what its ranks have recorded (trainkit/profile/order.py)."""
        return self.root / "profile"

    @property
    def stop(self) -> Path:
        """A file that asks the run to save and leave; whoever does it takes the file away."""
        return self.root / "STOP"

    @property
    def job(self) -> Path:
        """Which job of a scheduler has the run."""
        return self.root / "job.json"

    @property
    def script(self) -> Path:
        return self.root / "job.sbatch"

    @property
    def sweep(self) -> Path:
        """What a sweep was asked for, where this is the folder of one (trainkit/sweep/record.py)."""
        return self.root / "sweep.json"

    @property
    def owner(self) -> Path:
        """Which job may write here, where that is a scheduler's: see `guard`."""
        return self.root / "logs" / "owner"

    @property
    def invitation(self) -> Path:
        """Where the agent waits for those that come by themselves (launcher/_invitation.py)."""
        return self.root / "logs" / "invitation.json"

    @property
    def heartbeat(self) -> Path:
        """When a scheduler's job was last at work here."""
        return self.root / "logs" / "heartbeat.json"

    @property
    def said(self) -> Path:
        """What the run's command says, where that is a task of Ray."""
        return self.root / "logs" / "ray.out"

    @property
    def command_lock(self) -> Path:
        return self.root / "logs" / "command.lock"

    @property
    def ranks_lock(self) -> Path:
        return self.root / "logs" / "ranks.lock"

    @property
    def ranks(self) -> Path:
        """Where every rank is, as the agent last wrote it (board.py)."""
        return self.root / "logs" / "ranks.json"

    @property
    def system(self) -> Path:
        """How busy the run's machines were (system.py)."""
        return self.root / "logs" / "system.jsonl"

    @property
    def memory(self) -> Path:
        """What the place of the run's snapshots is named by (checkpoint/memory.py)."""
        return self.root / "logs" / "memory"

    def modules(self, attempt: int) -> Path:
        """What a rank of `attempt` has imported, a name per line."""
        return self.logs(attempt) / "modules.txt"

    def ledger(self, attempt: int, rank: int) -> Path:
        return self.root / "ledger" / f"attempt_{attempt}" / f"rank_{rank}.jsonl"

    def next_attempt(self) -> int:
        """1 for a new run, else one more than the highest attempt that left logs."""
        names = [p.name.removeprefix("attempt_") for p in (self.root / "logs").glob("attempt_*")]
        return 1 + max((int(n) for n in names if n.isdigit()), default=0)

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event with the time (seconds since the epoch). One write call: lines of several
        processes do not mix (POSIX O_APPEND)."""
        guard()
        append_line(self.events, {"event": kind, "time": time.time(), **fields})


OWNER, OWNER_FILE = "TRAINKIT_OWNER", "TRAINKIT_OWNER_FILE"


def own(folder: RunFolder, job: str) -> None:
    """Let `job`, which this process belongs to, be the one that may write to `folder`."""
    folder.owner.parent.mkdir(parents=True, exist_ok=True)
    replace_text(folder.owner, job)
    os.environ |= {OWNER: job, OWNER_FILE: str(folder.owner)}


def own_here(folder: RunFolder, attempt: int) -> None:
    """The same for this process, from its `attempt` on: where no scheduler has a name for it."""
    own(folder, f"{socket.gethostname()}-{os.getpid()}.{attempt}")


def ownership() -> dict[str, str]:
    """The variables that make another process one of the same job."""
    return {name: os.environ[name] for name in (OWNER, OWNER_FILE) if name in os.environ}


def guarded() -> bool:
    """Whether this process belongs to such a job."""
    return OWNER in os.environ


def guard() -> None:
    """Raise Fenced if the job that this process belongs to has lost its run folder to a later one.

    A node that is cut off goes on with what it did while its job is already started again elsewhere. No lock tells it
    so on a disk without locks between machines; the folder does, as soon as it would write to it.
    """
    mine = os.environ.get(OWNER)
    if mine is None:
        return
    try:
        owner = Path(os.environ[OWNER_FILE]).read_text()
    except FileNotFoundError:  # the folder is gone, and so is what could be spoiled
        return
    if owner != mine:
        raise Fenced(f"the run was taken over by job {owner}; job {mine} writes no more")


def is_url(place: str) -> bool:
    """Whether checkpoint.dir names a store by a URL, such as s3://bucket/runs/a, and no folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line in one write call."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        append(fd, json.dumps(row, separators=(",", ":")))
    finally:
        os.close(fd)


def append(fd: int, text: str) -> None:
    """Append a line to a file that is open for appending. A disk that fills up takes the beginning of it without an
    error: that is taken back, or the next line would be appended to half of one."""
    line = f"{text}\n".encode()
    written = os.write(fd, line)
    if written == len(line):
        return
    end = os.lseek(fd, 0, os.SEEK_CUR)
    if os.fstat(fd).st_size == end:  # or another process has appended to it
        os.ftruncate(fd, end - written)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a journal. A last line that a crash cut off is left out."""
    if not path.exists():
        return
    with path.open("rb") as f:
        for line in f:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)


def last_line(path: Path) -> dict[str, Any] | None:
    """The newest complete row of a journal; None where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as f:
        *whole, _ = _ending(f, 2).split(b"\n")
    return dict(json.loads(whole[-1])) if whole else None


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a crash or a full disk left without its end: the next row would be appended to it."""
    if path.exists():
        with path.open("rb+") as f:
            torn = len(_ending(f, 1).rpartition(b"\n")[2])
            f.truncate(f.seek(0, os.SEEK_END) - torn)


def _ending(f: BinaryIO, ends: int) -> bytes:
    """The end of a journal in which so many lines end, or all of it: it may be large, and its rows too."""
    data, end = b"", f.seek(0, os.SEEK_END)
    begin = end
    while begin > 0 and data.count(b"\n") < ends:
        begin = max(0, 2 * begin - end - 4096)
        f.seek(begin)
        data = f.read(end - begin)
    return data


def truncate_after(path: Path, step: int) -> None:
    """Drop the rows past `step` (those of a lost attempt) and a torn last line, atomically."""
    if not path.exists():
        return
    rows = [row for row in read_lines(path) if row["step"] <= step]
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    if text != path.read_text():
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Write `path` so that a reader or a crash sees the old or the new text, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half of it may be what fills the disk
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that a rename in it survives a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
