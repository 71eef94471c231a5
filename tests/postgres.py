"""A real PostgreSQL server on a port of its own, which can go down and come back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.mlflow_server import free_port

PATIENCE_S = 60.0
DEBIAN = Path("/usr/lib/postgresql")  # its packages put nothing of a server on the PATH
USER = "postgres" if os.getuid() == 0 else None  # it refuses to run as root


def program(name: str) -> str | None:
    """Where a program of PostgreSQL's is; None where it is not installed."""
    return shutil.which(name) or next((str(path) for path in sorted(DEBIAN.glob(f"*/bin/{name}"))), None)


class Postgres:
    """One cluster with an empty database, in a temporary folder that whoever runs the server may enter."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="trainkit-postgres-"))
        if USER is not None:
            shutil.chown(self._folder, USER)
        self._port = free_port()
        self.uri = f"postgresql+psycopg2://mlflow@127.0.0.1:{self._port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None
        words = [str(program("initdb")), "-D", str(self._folder / "data"), "-U", "mlflow", "--auth=trust"]
        subprocess.run(words, check=True, user=USER, cwd=self._folder, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        words = [str(program("postgres")), "-D", str(self._folder / "data"), "-p", str(self._port), "-k", ""]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, user=USER, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, with every connection cut; what was committed is there when it starts again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except ConnectionRefusedError:
            return False
        return True
