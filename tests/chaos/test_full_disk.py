"""A disk that is full in the middle of a run: a real one (tmpfs, 96 MiB), which needs the right to mount."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from tests.chaos.project import WORDS, made
from tests.e2e.command import Running, curve, done, events, trained, until, weights
from tests.e2e.conftest import nothing_outlives_its_test

__all__ = ["nothing_outlives_its_test"]
pytestmark = pytest.mark.slow
SIZE = 96 << 20  # a run is refused where less than 64 MiB are free
BLOCK = 1 << 20
STEPS, EVERY = 60, 6
KEPT = "checkpoint.keep=50"
COMMAND = (*WORDS, "watchdog.timeout=60", f"train.steps={STEPS}", f"checkpoint.every={EVERY}")


class Disk:
    """A small file system at `path`, and a file that fills it."""

    def __init__(self, path: Path) -> None:
        self.path, self._ballast = path, path / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Until nothing fits any more, then give `leave` bytes back."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (BLOCK, 4096):
                with suppress(OSError):  # it is full
                    while file.write(bytes(size)) == size:
                        pass
            if not leave:
                with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                    (self.path / "more").write_bytes(bytes(8192))
                (self.path / "more").unlink(missing_ok=True)
            file.truncate(file.tell() - leave)

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    tried = subprocess.run(mount, capture_output=True, text=True)
    if tried.returncode:
        pytest.fail(f"this test needs the right to mount (root, CAP_SYS_ADMIN): {tried.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)  # lazy: a test that failed may have left a run


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def run(strategy: str) -> Path:
        folder = made(tmp_path_factory.mktemp(strategy))
        done(folder, *COMMAND, f"strategy={strategy}")
        return folder / "run"

    return run


def slowly(folder: Path) -> Path:
    """The project, with steps that leave the test time between two saves, and wait while there is a file `hold`."""
    recipe = made(folder) / "recipes/chaos.py"
    wait = 'time.sleep(0.1)\n        while os.path.exists("hold"):\n            time.sleep(0.02)'
    recipe.write_text(recipe.read_text().replace("time.sleep(0.01)", wait))
    return folder


def told(running: Running, kind: str, count: int) -> None:
    until(lambda: len(events(running.run, kind)) >= count, lambda: running.front.poll() is None)


def filled(running: Running, disk: Disk, leave: int = 0) -> None:
    """Fill the disk up to `leave` bytes, after the run has saved something, and before it makes another step."""
    running.reach(1)
    told(running, "save", 1)
    hold = running.run.parent / "hold"
    hold.touch()
    disk.fill(leave)
    hold.unlink()


def good(folder: Path, checkpoints: Path) -> list[str]:
    """The checkpoints, of which every file is what was written, by name."""
    lines = done(folder, "checkpoint", "verify", str(checkpoints)).splitlines()
    assert all(": OK (" in line for line in lines), lines
    return [Path(line.split(":")[0]).name for line in lines]


def as_undisturbed(running: Running, whole: Path) -> None:
    assert weights(running.run) == weights(whole)
    assert trained(running.run) == trained(whole)
    assert curve(running.run) == curve(whole)
    audit = done(running.run.parent, "audit", str(running.run))
    assert audit.count("ok: ") == 4, audit


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.drill)])
def test_the_run_goes_on_and_saves_again_when_there_is_room(
    strategy: str, disk: Disk, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoints = disk.path / "checkpoints"
    words = (*COMMAND, f"strategy={strategy}", f"checkpoint.dir={checkpoints}", "checkpoint.max_failures=9", KEPT)
    running = Running(slowly(tmp_path), *words)
    goes_on(running, disk, 0, checkpoints)
    as_undisturbed(running, whole(strategy))


@pytest.mark.drill
def test_so_it_does_where_the_run_folder_is_on_that_disk_and_small_things_fit(
    disk: Disk, whole: Callable[[str], Path]
) -> None:
    running = Running(slowly(disk.path), *COMMAND, "strategy=fsdp", "checkpoint.max_failures=9", KEPT)
    goes_on(running, disk, BLOCK, running.run / "checkpoints")
    as_undisturbed(running, whole("fsdp"))


def goes_on(running: Running, disk: Disk, leave: int, checkpoints: Path) -> None:
    """Fill the disk up to `leave` bytes, and free it again after a save has failed."""
    filled(running, disk, leave)
    told(running, "save_failed", 1)
    disk.free()
    (failed, *_) = events(running.run, "save_failed")
    before = failed["step"] - EVERY
    assert f"cannot write the checkpoint of step {failed['step']} to {checkpoints}" in failed["message"]
    assert "the disk is full" in failed["message"]
    assert f"the checkpoint of step {before} is intact" in failed["message"]
    assert running.wait() == 0, running.said.read_text()
    assert "the disk is full" in running.said.read_text()
    assert events(running.run, "failure") == []
    good_ones, bad_ones = ([event["step"] for event in events(running.run, kind)] for kind in ("save", "save_failed"))
    assert sorted([*good_ones, *bad_ones]) == [*range(EVERY, STEPS + 1, EVERY)]
    assert bad_ones == [*range(failed["step"], bad_ones[-1] + 1, EVERY)]  # none after there was room
    there = good(running.run.parent, checkpoints)
    assert f"step_{before}" in there
    assert f"step_{STEPS}" in there
    assert [*checkpoints.glob(".*")] == []


@pytest.mark.drill
def test_failures_in_a_row_end_the_run_which_goes_on_when_there_is_room(
    disk: Disk, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoints = disk.path / "checkpoints"
    words = (*COMMAND, "strategy=fsdp", f"checkpoint.dir={checkpoints}")
    running = Running(slowly(tmp_path), *words)
    filled(running, disk)
    assert running.wait() == 1
    before, failed = events(running.run, "save")[-1]["step"], events(running.run, "save_failed")
    assert [(event["step"], event["in_a_row"]) for event in failed] == [(before + EVERY, 1), (before + 2 * EVERY, 2)]
    (failure,) = events(running.run, "failure")
    for said in (failure["message"], running.said.read_text()):
        assert f"cannot write the checkpoint of step {failed[1]['step']} to {checkpoints}" in said
        assert "the disk is full" in said
        assert f"the checkpoint of step {before} is intact" in said
    assert good(tmp_path, checkpoints)[-1] == f"step_{before}"
    disk.free()
    again = Running(tmp_path, *words)
    assert again.wait() == 0, again.said.read_text()
    assert events(again.run, "start")[-1]["step"] == before
    as_undisturbed(again, whole("fsdp"))


@pytest.mark.drill
def test_a_run_folder_in_which_nothing_fits_ends_the_run_and_spoils_nothing(
    disk: Disk, whole: Callable[[str], Path]
) -> None:
    """Not a row can be written any more. Whoever reads what is said is told why."""
    words = (*COMMAND, "strategy=fsdp", "recovery.raised=2")
    running = Running(slowly(disk.path), *words)
    filled(running, disk)
    assert running.wait() == 1
    said = running.said.read_text()
    assert "disk is full" in said or "No space left on device" in said
    assert "Traceback" not in said
    disk.free()
    again = Running(disk.path, *words)
    assert again.wait() == 0, again.said.read_text()
    assert events(again.run, "start")[-1]["step"] in range(EVERY, STEPS)
    as_undisturbed(again, whole("fsdp"))
    assert [path.name for path in again.run.iterdir() if path.name.startswith(".")] == []
