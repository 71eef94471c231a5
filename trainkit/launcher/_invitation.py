"""Where the agent of a run waits for guests (trainkit/guest.py), as a file in the run folder. Who can read it may join:
that is who started the run, on machines that share the folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from trainkit import __version__

SECRET = "TRAINKIT_TOKEN"
"""The variable with which a person gives the secret, where a file cannot keep it."""


def versions() -> dict[str, str]:
    """What has to be the same on all hosts, as far as it is known without torch; the ranks compare the rest."""
    return {"trainkit": __version__, "Python": platform.python_version()}


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """`places`: of each keeper; `lease_s`, `owner`: see Order; `token`: None where a person has given it."""

    addresses: Sequence[str]
    port: int
    token: str | None
    places: int
    lease_s: float
    owner: Mapping[str, str]
    versions: Mapping[str, str]

    def write(self, path: Path) -> None:
        """In one go; for nobody else to read, if there is a secret in it."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 if self.token is None else 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(json.dumps(asdict(self)))
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Invitation | None:
        """None if there is none (yet)."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
