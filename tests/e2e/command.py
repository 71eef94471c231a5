"""The real command as a process, and what it leaves behind. Nothing here imports trainkit: a test looks at a run as
any other program would."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
TRAINKIT = (sys.executable, "-m", "trainkit")
PATIENCE_S = 120.0  # a deadline for what never happens; nothing waits this long for luck
EPOCHS, STEPS = 20, 460  # of WORDS: 1437 images in batches of 64, the last of each epoch short
WORDS = (
    "recipe=image_classification",
    "train.steps=null",
    f"train.epochs={EPOCHS}",
    "train.eval_every=300",
    "train.device=cpu",
    "checkpoint.every=100",
    "data.ledger=true",
    "run.dir=run",
)
"""A run that is long enough to be caught in the middle."""

TWO = ("strategy=ddp", "launcher.ranks=2")
NOT_TRACKED = ("tracker=none",)


def environment(**more: str) -> dict[str, str]:
    """This checkout, one thread per process, and nothing of the tester's own MLflow or terminal."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_") and k not in ("COLUMNS", "LINES")}
    return mine | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"} | more


def trainkit(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainkit WORDS` in `folder`, its output on pipes."""
    return subprocess.run([*TRAINKIT, *words], cwd=folder, env=environment(**more), capture_output=True, text=True)


def done(folder: Path, *words: str, **more: str) -> str:
    """What a run that must succeed prints."""
    process = trainkit(folder, *words, **more)
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stderr == ""
    return process.stdout


class Running:
    """A command that is still running, its output in the file `said`."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.run, self.said = folder / "run", folder / "said"
        with self.said.open("w") as out:
            self.front = subprocess.Popen(
                [*TRAINKIT, *words], cwd=folder, env=environment(), stdout=out, stderr=subprocess.STDOUT
            )
        self._seen: set[psutil.Process] = set()

    def reach(self, step: int) -> None:
        """Wait until the step is in metrics.jsonl."""
        until(lambda: last_step(self.run) >= step, lambda: self.front.poll() is None)

    def processes(self) -> tuple[psutil.Process, list[psutil.Process]]:
        """The agent, and the ranks that it has forked, by rank. Not the child in which it tries imports out, which
        gives way to everybody."""
        (agent,) = psutil.Process(self.front.pid).children()
        ranks = sorted((p for p in agent.children() if p.nice() == 0), key=lambda process: process.pid)
        self._seen |= {agent, *ranks}
        return agent, ranks

    def wait(self) -> int:
        return self.front.wait(PATIENCE_S)

    def left_behind(self) -> list[psutil.Process]:
        """What `processes` has named and still runs. A zombie has ended: whoever adopts orphans here has not looked."""
        return [p for p in self._seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


class Terminal:
    """A command on a terminal of its own: 80 columns, and ^C is typed."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.run, self._text = folder / "run", b""
        self._code: int | None = None
        self.front, self._fd = pty.fork()
        if self.front == 0:
            os.chdir(folder)
            os.execve(sys.executable, [*TRAINKIT, *words], environment())
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def reach(self, step: int) -> None:
        until(lambda: last_step(self.run) >= step, self._read)

    def see(self, text: str) -> None:
        """Wait until `text` is on the screen."""
        until(lambda: text in self.text, self._read)

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def close(self) -> None:
        """Close the terminal's window: the kernel sends SIGHUP."""
        os.close(self._fd)

    def wait(self, shown: bool = True) -> int:
        """The exit code, once the process has ended. With `shown` all that it writes is taken first."""
        deadline = time.monotonic() + PATIENCE_S
        while shown and self._read():
            assert time.monotonic() < deadline, "it never ended"
            time.sleep(0.002)
        until(lambda: self._ended() is not None, lambda: True)
        code = self._ended()
        assert code is not None
        return code

    @property
    def text(self) -> str:
        return self._text.decode()

    def _ended(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.front, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def _read(self) -> bool:
        """Take what is on the screen, or the process could not go on. False once nobody writes any more."""
        if not select.select([self._fd], [], [], 0.0)[0]:
            return self._code is None
        try:
            self._text += os.read(self._fd, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        return True


def until(condition: Callable[[], bool], alive: Callable[[], bool]) -> None:
    """Look until `condition` holds; fail when `alive` does not, or after a long time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if not alive():
            assert condition(), "the command ended before"
            return
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


# ------------------------------------------------------------------------------------- the run folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_step(run: Path) -> int:
    """The last whole row's step; -1 if there is none yet."""
    try:
        whole = (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return -1
    return int(json.loads(whole[-1])["step"]) if whole else -1


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in lines(run / "events.jsonl") if event["event"] == kind]


def summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


MEASURED = ("time", "tokens_per_second", "data_wait", "memory_mb", "evaluation_seconds")


def curve(run: Path) -> list[dict[str, Any]]:
    """The rows without what a clock says."""
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in lines(run / "metrics.jsonl")]


def weights(run: Path) -> bytes:
    """The exported model, bit by bit."""
    return (run / "model/model.safetensors").read_bytes()


def saved(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))


def trained(run: Path) -> dict[int, Counter[int]]:
    """The ledgers of all attempts and ranks together: how often each step trained each sample id."""
    steps: dict[int, Counter[int]] = {}
    for ledger in run.glob("ledger/*/*.jsonl"):
        for row in lines(ledger):
            steps.setdefault(row["step"], Counter()).update(row["ids"])
    return steps
