"""Checkpoints in a store that fsspec reaches by a URL: an object store, or another disk. Imports no torch, and fsspec
where it is used only.

    URL/step_N/...   the files of RUN/checkpoints/step_N, under the same names

An object store has no rename. So a copy is whole if its marker is there: COMMITTED is written last and deleted first,
and what has none is half a copy, to be written again or deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from trainkit.checkpoint.manifest import MANIFEST, MARKER, STEP, read_manifest
from trainkit.secrets import without_login

Found = Mapping[int, Mapping[str, int]]
"""Of each step that has files in the store, oldest first: the size in bytes of each by its name."""


class Remote:
    """The copies below `url`. Whatever is wrong with the store is raised as its library raises it; what is not there is
    FileNotFoundError. Nothing is reached before the first call."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.url = without_login(url.rstrip("/"))  # as it may be told

    def where(self, step: int) -> str:
        """The URL of a step, as it may be told."""
        return f"{self.url}/step_{step}"

    @cached_property
    def _reached(self) -> tuple[Any, str]:
        """fsspec's filesystem and the path in it."""
        from fsspec.core import url_to_fs

        store, root = url_to_fs(self._url)
        return store, root.rstrip("/")

    def connect(self) -> None:
        """Find the library that knows the URL. Raises ValueError for a scheme that none knows, ImportError where that
        library is missing; nothing is asked over the network."""
        _ = self._reached

    @property
    def bucket(self) -> str | None:
        """What has to be there before anything can be written; None where folders are made as they are needed."""
        _, root = self._reached
        return None if root.startswith("/") else root.split("/")[0]

    def _path(self, step: int, name: str = "") -> str:
        _, root = self._reached
        return f"{root}/step_{step}/{name}".rstrip("/")

    def _list(self, path: str) -> list[dict[str, Any]]:
        store, _ = self._reached
        store.invalidate_cache()  # another process, or another thread of this one, may have written
        entries: list[dict[str, Any]] = store.ls(path, detail=True)
        return entries

    # ---------------------------------------------------------------------------------------- reading

    def look(self) -> None:
        """Raises FileNotFoundError if there is no such bucket, and whatever else keeps the store from being read."""
        if self.bucket is not None:
            with suppress(PermissionError):  # of a part of it only, but then it is there
                self._list(self.bucket)

    def found(self) -> Found:
        """Every step that has files, whole or not."""
        _, root = self._reached
        try:
            names = [STEP.fullmatch(_name(entry)) for entry in self._list(root)]
        except FileNotFoundError:  # nothing was ever written below it
            return {}
        return {step: self._sizes(step) for step in sorted(int(name[1]) for name in names if name)}

    def _sizes(self, step: int) -> dict[str, int]:
        try:
            entries = self._list(self._path(step))
        except FileNotFoundError:
            return {}
        return {_name(entry): entry["size"] for entry in entries if entry["type"] == "file"}

    def text(self, step: int, name: str) -> str:
        """A small file. Bytes that are no text, because it is damaged, are replaced."""
        store, _ = self._reached
        content: bytes = store.cat_file(self._path(step, name))
        return content.decode(errors="replace")

    def get(self, step: int, name: str, into: Path) -> None:
        """Fetch one file of a step into the folder `into`. It is not verified."""
        store, _ = self._reached
        store.get_file(self._path(step, name), str(into / name))

    # ---------------------------------------------------------------------------------------- writing

    def put(self, step: int, source: Path) -> int:
        """Copy the checkpoint folder `source`, in the place of whatever is there; returns the number of bytes.

        Raises OSError if a file did not arrive in its full size; then there is no marker.
        """
        store, root = self._reached
        self.remove(step)
        if root.startswith("/"):
            store.makedirs(self._path(step), exist_ok=True)
        files: dict[str, list[Any]] = read_manifest(source)["files"]
        for name in (*files, MANIFEST):
            store.put_file(str(source / name), self._path(step, name))
        there = self._sizes(step)
        for name, (size, _) in files.items():
            if there.get(name) != size:
                raise OSError(f"{name} has {there.get(name, 0)} bytes there instead of {size}")
        store.put_file(str(source / MARKER), self._path(step, MARKER))
        return sum(size for size, _ in files.values())

    def remove(self, step: int) -> None:
        """Delete what there is of a step: the marker first, so that what a kill leaves is no checkpoint."""
        store, root = self._reached
        for name in sorted(self._sizes(step), key=lambda name: name != MARKER):
            store.rm_file(self._path(step, name))
        if root.startswith("/") and store.exists(self._path(step)):
            store.rmdir(self._path(step))


def whole(found: Found) -> list[int]:
    """The steps whose copy carries a marker, oldest first."""
    return [step for step, sizes in found.items() if MARKER in sizes]


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]
