"""The disk that runs would be on, by writing to it: room, speed, fsync, locks, and whether its clock is ours."""

from __future__ import annotations

import fcntl
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from trainkit.cli.doctor.check import Check, least
from trainkit.cli.terminal import size
from trainkit.launcher._watched import FRESH_S

GIB = float(2**30)
WRITTEN, PIECE, SYNCS = 64 * 2**20, 2**20, 20
SLOW, SYNC_SLOW_S = 30 * 2**20, 0.1
SKEW_S = 2.0


def checks(folder: Path) -> Iterator[Check]:
    about = os.statvfs(folder)
    free = about.f_bavail * about.f_frsize
    yield least("disk", free, (GIB / 2, 5 * GIB), f"{size(free)} free in {folder}", "free space, or another run.dir")
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".trainkit-doctor-") as place:
            path = Path(place) / "written"
            yield speed(path, min(WRITTEN, free // 4))
            yield syncs(path)
            yield locks(path)
            yield clock(path)
    except OSError as error:
        yield Check("disk", "fault", f"{folder} cannot be written: {error.strerror}", "another run.dir")


def speed(path: Path, much: int) -> Check:
    piece, begin = os.urandom(PIECE), time.perf_counter()
    with path.open("wb") as file:
        for _ in range(max(1, much // PIECE)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        rate = file.tell() / (time.perf_counter() - begin)
    remedy = "checkpoints will take long: a faster disk for checkpoint.dir, or checkpoint.every=auto"
    return least("disk speed", rate, (0, SLOW), f"{size(rate)}/s written and synced", remedy)


def syncs(path: Path) -> Check:
    """A row or an event that must be kept costs one."""
    times = []
    with path.open("ab") as file:
        for _ in range(SYNCS):
            begin = time.perf_counter()
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begin)
    usual = statistics.median(times)
    found = f"{usual * 1000:.1f} ms as a rule, {max(times) * 1000:.1f} ms at the most"
    if usual < SYNC_SLOW_S:
        return Check("fsync", "ok", found)
    return Check(
        "fsync", "warning", found, "each commit of a checkpoint waits for several: a disk of its own would help"
    )


def locks(path: Path) -> Check:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            found, remedy = f"are refused: {error.strerror}", "a run.dir on a disk that is mounted with locks"
            return Check("locks", "fault", found, remedy)
    return Check("locks", "ok", "a second command in one run folder would be refused")


def clock(path: Path) -> Check:
    """The times of files on a shared disk are its server's; whether a run lives is told by them."""
    before = time.time()
    path.write_bytes(b"")
    return skew(path.stat().st_mtime - before)


def skew(seconds: float) -> Check:
    apart = abs(seconds)
    found = f"the disk's is {apart:.1f} s {'ahead' if seconds > 0 else 'behind'}"
    if apart < SKEW_S:
        return Check("clock", "ok", "the disk's and this machine's are the same")
    return Check("clock", "fault" if apart > FRESH_S / 2 else "warning", found, "run an NTP daemon (chronyd) on both")
