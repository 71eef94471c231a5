"""A disk that all nodes share and that can stand still, as a network disk does whose server is away: a folder seen
through FUSE. As root."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from tests.slurm.cluster import Cluster

PACKAGE = "bindfs"


def missing() -> bool:
    """Whether there can be none here."""
    return shutil.which("bindfs") is None or not Path("/dev/fuse").exists()


class Disk:
    """`folder` shows what is in `behind`, for as long as a `with` lasts. Nodes that are on see it from then on."""

    def __init__(self, cluster: Cluster, behind: Path, folder: Path) -> None:
        self._cluster, self._behind, self.folder = cluster, behind, folder

    def __enter__(self) -> Disk:
        for path in (self._behind, self.folder):
            path.mkdir()
        words = ["setpriv", "--pdeathsig", "KILL", "bindfs", "-f", str(self._behind), str(self.folder)]
        self._server = subprocess.Popen(words)
        self._cluster.until(self.folder.is_mount, "the disk is there")
        for name in self._cluster.names:  # a node has the mounts of the time when it was switched on
            self._cluster.off(name)
            self._cluster.on(name)
        self._cluster.until_usable(self._cluster.names)
        return self

    def __exit__(self, *exception: object) -> None:
        self.goes_on()
        self._cluster.cancel_all()
        self._server.kill()
        self._server.wait()
        subprocess.run(["fusermount", "-u", "-z", str(self.folder)], check=True)

    def stands_still(self) -> None:
        """Whoever reads or writes waits."""
        self._server.send_signal(signal.SIGSTOP)

    def goes_on(self) -> None:
        self._server.send_signal(signal.SIGCONT)
