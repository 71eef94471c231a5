"""Whether the store behind checkpoint.dir can be used, and what it holds, before anything is started. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Thread

from trainkit.checkpoint.agree import reason
from trainkit.checkpoint.manifest import MANIFEST
from trainkit.checkpoint.remote import Remote, whole
from trainkit.errors import ConfigError, Problem

KEY = "checkpoint.dir"
ANSWER_S = 20.0  # a store that takes longer is taken for one that cannot be reached


@dataclass(frozen=True, slots=True)
class Copy:
    """The newest copy in a store: its step, where it is, and its manifest as text."""

    step: int
    where: str
    manifest: str


def newest(url: str, seconds: float = ANSWER_S) -> Copy | None:
    """The newest copy in the store; None if there is none yet. Its files are not verified.

    Raises ConfigError if no library can use `url`, there is no such bucket, or it does not answer in so many seconds.
    """
    remote = Remote(url)
    try:
        remote.connect()
    except Exception as error:  # each library refuses in its own way
        raise _refused(remote, _unusable(error), _missing(error)) from error
    found: list[Copy | None] = []
    faults: list[Exception] = []

    def ask() -> None:
        try:
            found.append(_ask(remote))
        except Exception as error:
            faults.append(error)

    thread = Thread(target=ask, name="reach", daemon=True)  # nothing else ends a call that waits for the network
    thread.start()
    thread.join(seconds)
    if faults:
        gone = isinstance(faults[0], FileNotFoundError)
        told = f"there is no bucket {remote.bucket}" if gone else f"cannot be reached: {reason(faults[0])}"
        raise _refused(remote, told, "make it first" if gone else "see that the network and the credentials are right")
    if not found:
        raise _refused(remote, f"does not answer in {seconds:g} s", "see that the network is right")
    return found[0]


def _ask(remote: Remote) -> Copy | None:
    found = remote.found()
    if not found:
        remote.look()
    steps = whole(found)
    return Copy(steps[-1], remote.where(steps[-1]), remote.text(steps[-1], MANIFEST)) if steps else None


def _refused(remote: Remote, message: str, hint: str) -> ConfigError:
    return ConfigError([Problem(KEY, remote.url, message, hint)])


def _unusable(error: Exception) -> str:
    """fsspec's words; some libraries write a page."""
    return f"cannot be used: {(str(error) or type(error).__name__).splitlines()[0]}"


def _missing(error: Exception) -> str:
    """How to get the library that is missing, if that is the cause."""
    cause = error.__cause__ or error
    if isinstance(cause, ModuleNotFoundError) and cause.name is not None:
        return f"pip install {cause.name.partition('.')[0]}"
    return "a folder, or a URL that fsspec knows, such as s3://bucket/runs/a"
