"""top [RUN]: where every rank of a run is, as it trains, from its folder alone. Once and plain where stdout is no
terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console as Rich
from rich.live import Live

from trainkit.cli.jobs.state import runs, standings
from trainkit.cli.place import run_folders
from trainkit.console.board import view
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.runfolder import RunFolder

LOOK_S, ASK_S = 0.5, 5.0


def main(words: Sequence[str]) -> int:
    if len(words) > 1:
        raise ConfigError([Problem("", "", "the command is: top [RUN]", "without RUN: the newest in runs/")])
    (folder,) = run_folders(words or [str(newest(Path("runs")))])
    rich = Rich(highlight=False)
    if not (rich.is_terminal and sys.stdin.isatty()):
        rich.print(view(folder, standings([folder.root])[0].state, rich.height))
        return EXIT_DONE
    with keys() as pressed:
        follow(folder, rich, pressed)
    return EXIT_DONE


def newest(folder: Path) -> Path:
    """The run in `folder` that was written to last."""
    found = [*runs(folder.absolute())] if folder.is_dir() else []
    if not found:
        raise ConfigError([Problem("", "", f"there is no run in {folder}", "name one: top RUN")])
    return found[-1]


def follow(folder: RunFolder, rich: Rich, pressed: int) -> None:
    """Until the run has ended, or q is typed. The last picture stays on the screen."""
    asked, state, goes_on = 0.0, "", True
    with Live(console=rich, auto_refresh=False) as live:
        while goes_on:
            if time.monotonic() - asked > ASK_S:  # not more often: Slurm may have to be asked
                asked, standing = time.monotonic(), standings([folder.root])[0]
                state, goes_on = standing.state, standing.goes_on
            live.update(view(folder, state, rich.height), refresh=True)
            if goes_on and _typed(pressed, LOOK_S) in (b"q", b"Q", b"\x03", b"\x04"):
                return


def _typed(fd: int, seconds: float) -> bytes:
    """The next key, if one is pressed within so many seconds."""
    if not select.select([fd], [], [], seconds)[0]:
        return b""
    return os.read(fd, 1)


@contextmanager
def keys() -> Iterator[int]:
    """Keys are read as they are pressed, and not shown. The terminal is as it was afterwards."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
