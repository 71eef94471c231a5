"""Starts a keeper on each of several machines through ssh, and ends when all of them have.

    python -m trainkit.launcher._ssh JSON COMMAND ...      JSON: {"hosts": [...], "ssh": [...], "export": [...]}

The secret of the run goes through ssh's stdin, which no list of processes shows. When this is ended the connections
are; the keepers end by themselves, because nobody answers them any more. It imports no torch.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainkit.errors import EXIT_DONE, EXIT_FAILED
from trainkit.launcher._order import TOKEN
from trainkit.launcher._seat import HOST, NUMBER

LOOK_S = 0.1
NOT_REACHED, EARLY_S = 255, 30.0
"""What ssh ends with when it fails itself. Before the run has begun nobody has to wait for the others."""


def main(words: Sequence[str]) -> int:
    plan, *command = words
    told = json.loads(plan)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_FAILED))
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, host in enumerate(told["hosts"]):
            line = remote(command, told["export"], {NUMBER: str(number), HOST: host})
            started.append(begin([*told["ssh"], host, line]))
        early = time.monotonic() + EARLY_S
        while None in (codes := [each.poll() for each in started]):
            if time.monotonic() < early and NOT_REACHED in codes:
                break
            time.sleep(LOOK_S)
    finally:
        for each in started:
            each.terminate()
    return EXIT_DONE if all(each.returncode == 0 for each in started) else EXIT_FAILED


def begin(words: Sequence[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(words, stdin=subprocess.PIPE)
    if process.stdin is not None:
        with process.stdin as stdin:
            stdin.write(f"{os.environ[TOKEN]}\n".encode())
    return process


def remote(command: Sequence[str], export: Sequence[str], seat: dict[str, str]) -> str:
    """What the other machine's shell is to do: the same folder, the same Python, the variables that `export` names."""
    passed = {name: value for name, value in os.environ.items() if any(fnmatch.fnmatch(name, each) for each in export)}
    passed.pop(TOKEN, None)
    around = " ".join(f"{name}={shlex.quote(value)}" for name, value in (passed | seat).items())
    return (
        f"read -r {TOKEN}; export {TOKEN}; cd {shlex.quote(str(Path.cwd()))} && exec env {around} {shlex.join(command)}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
