"""A reader that goes away takes nothing with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from trainkit.console import screen
rich = screen()
rich.print("first")
sys.stdin.readline()
for _ in range(3):
    rich.print("more")
print("a recipe's own", flush=True)
sys.stderr.write("reached the end")
"""


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"], autouse=True)
def where_a_write_fails(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, or when the buffer is flushed."""
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


def test_a_closed_pipe_does_not_end_the_front() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise TypeError(process)
    assert process.stdout.readline() == "first\n"
    process.stdout.close()  # as `| head -1` does
    process.stdin.write("go on\n")
    process.stdin.close()
    assert process.stderr.read() == "reached the end"
    process.stderr.close()
    assert process.wait() == 0


def test_a_full_disk_behind_the_log_does_not_end_the_front() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123  # a device: every write to it fails for lack of space
        done = subprocess.run([sys.executable, "-c", CODE], input="\n", stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "reached the end")
