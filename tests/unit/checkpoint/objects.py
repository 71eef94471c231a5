"""A store in memory, and a look at every operation that changes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.unit.checkpoint.samples import keeping, store_in
from trainkit.checkpoint.copier import Copier
from trainkit.checkpoint.remote import Remote
from trainkit.checkpoint.store import CheckpointStore
from trainkit.settings import Checkpoint

URL = "memory://bucket/runs/a"
ROOT = "/bucket/runs/a/"
PATIENCE_S = 60.0  # a deadline for what never happens

See = Callable[[str], None]


def content() -> dict[str, bytes]:
    """Every file of the store, by its path below URL."""
    return {path.removeprefix(ROOT): file.getvalue() for path, file in MemoryFileSystem.store.items()}


def put_back(files: dict[str, bytes]) -> None:
    """Make the store hold `files` and nothing else."""
    empty()
    for name, data in files.items():
        MemoryFileSystem().pipe_file(ROOT + name, data)


def empty() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def copied_steps() -> list[int]:
    """The steps that carry a marker."""
    return sorted(int(name.split("/")[0].removeprefix("step_")) for name in content() if name.endswith("/COMMITTED"))


def flip(name: str, bit: int = 1) -> None:
    """Flip a bit of the byte in the middle of a file in the store."""
    data = bytearray(content()[name])
    data[len(data) // 2] ^= bit
    MemoryFileSystem().pipe_file(ROOT + name, bytes(data))


def watch(monkeypatch: pytest.MonkeyPatch, see: See) -> None:
    """Call `see` before each file is put, when half of it is there, and before each deletion; `see` may raise."""
    whole = MemoryFileSystem.put_file

    def put(self: MemoryFileSystem, source: str, target: str, **options: Any) -> None:
        see(f"put {target.removeprefix(ROOT)}")
        data = Path(source).read_bytes()
        self.pipe_file(target, data[: len(data) // 2])
        see(f"half {target.removeprefix(ROOT)}")
        whole(self, source, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    for name in ("rm_file", "rmdir"):
        monkeypatch.setattr(MemoryFileSystem, name, _seen(getattr(MemoryFileSystem, name), name, see))


def blocked(go_on: Event, begun: Event | None = None) -> See:
    """Every operation waits for `go_on`; `begun`: the first one has come."""

    def see(what: str) -> None:
        if begun is not None:
            begun.set()
        if not go_on.wait(PATIENCE_S):
            raise TimeoutError("it never went on")

    return see


def _seen(whole: Callable[..., None], name: str, see: See) -> Callable[..., None]:
    def seen(self: MemoryFileSystem, path: str) -> None:
        see(f"{name} {path.removeprefix(ROOT)}")
        whole(self, path)

    return seen


class Told(list[tuple[str, dict[str, Any]]]):
    """The events that a copier writes."""

    def __call__(self, kind: str, **fields: Any) -> None:
        self.append((kind, fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self if name == kind]


def copier_of(folder: Path, told: Told, keep: Checkpoint | None = None) -> Copier:
    return Copier(Remote(URL), folder, keep or keeping(3), told)


def copy(copier: Copier, saved: int | None = None) -> None:
    """Copy what lacks, and wait for it."""
    copier.ask(saved)
    copier.finish(PATIENCE_S, lambda: None)


def elsewhere(folder: Path, said: list[str] | None = None) -> CheckpointStore:
    """A store on another machine: it has `folder`, and knows of the copies."""
    store = store_in(folder, attempt=2, said=said)
    store._copier = copier_of(folder, Told())
    return store
