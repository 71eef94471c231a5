"""Two ranks meet and add numbers up, as those of a run would; over NCCL too, where there are GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainkit.cli.doctor.check import Check
from trainkit.cli.terminal import size
from trainkit.launcher import _machine

PATIENCE_S = 120.0
REMEDY = {
    "gloo": "the interface of this machine's host name, or GLOO_SOCKET_IFNAME, must exist and let connections through",
    "nccl": "NCCL_DEBUG=INFO tells more; drivers, NVLink and NCCL_SOCKET_IFNAME are the usual suspects",
}


def checks() -> Iterator[Check]:
    yield meet("gloo", 2)
    if gpus := _machine.gpus():
        yield meet("nccl", min(2, gpus))


def meet(backend: str, ranks: int) -> Check:
    """Start them, and hear what they have found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "trainkit.cli.doctor.rank", backend, str(ranks), str(Path(folder) / "meeting")]
        # As the launcher sets it: all ranks are on this machine.
        environment = {"GLOO_SOCKET_IFNAME": "lo"} | dict(os.environ)
        started = [
            subprocess.Popen(
                [*command, str(n)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for n in range(ranks)
        ]
        try:
            said = [process.communicate(timeout=PATIENCE_S) for process in started]
        except subprocess.TimeoutExpired:
            found = f"{ranks} ranks did not meet within {PATIENCE_S:.0f} s"
            return Check(backend, "fault", found, REMEDY[backend])
        finally:
            for process in started:
                process.kill()
                process.wait()
    errors = [error for process, (_, error) in zip(started, said, strict=True) if process.returncode]
    if errors:
        last = (errors[0].strip().splitlines() or ["a rank was killed"])[-1]
        return Check(backend, "fault", f"{ranks} ranks could not add numbers up: {last}", REMEDY[backend])
    told = json.loads(said[0][0])
    if not told["right"]:
        return Check(
            backend, "fault", "the sum of two ranks is wrong", "this machine computes wrongly: do not train on it"
        )
    rate = f"{size(told['bytes_per_second'])}/s"
    return Check(
        backend, "ok", f"{ranks} ranks add {size(told['bytes'])} up at {rate}, a number in {told['latency_ms']} ms"
    )
