"""Copies of committed checkpoints in a store (checkpoint.dir is a URL), made behind the training. Imports no torch.

A thread of rank 0 copies what lacks, the newest first, then deletes there what retention does not keep. Training
waits for it nowhere: a fault is told, and the next checkpoint tries again with all that lacks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint import retention
from trainkit.checkpoint.agree import reason
from trainkit.checkpoint.cadence import Tell
from trainkit.checkpoint.remote import Found, Remote, whole
from trainkit.settings import Checkpoint

LOOK_S = 1.0  # between two signs of life while the end of a run waits for a copy


class Copier:
    """Copies the checkpoints in `folder` to `remote`, and lets stay there what `keep` says. `tell` writes an event."""

    def __init__(self, remote: Remote, folder: Path, keep: Checkpoint, tell: Tell) -> None:
        self.remote = remote
        self._folder, self._keep, self._tell = folder, keep, tell
        self._lock = Lock()  # over the three below
        self._thread: Thread | None = None
        self._asked = False
        self._saved: int | None = None  # the newest that this process saved
        self._deleting = Lock()  # a local checkpoint is chosen for copying, or local ones are deleted
        self._copying: int | None = None
        self._spoilt: set[int] = set()  # local ones that are not what was written
        self._markers: dict[int, str] = {}  # of copies; read once, because a copy never changes by itself
        self._scores: dict[int, float | None] = {}  # likewise

    def ask(self, saved: int | None = None) -> None:
        """Copy what lacks, on the thread. `saved`: a step that this process has just committed; before there is one,
        nothing is deleted."""
        with self._lock:
            self._saved = self._saved if saved is None else saved
            self._asked = True
            if self._thread is None or not self._thread.is_alive():
                # A daemon: a store that never answers must not keep the process from ending.
                self._thread = Thread(target=self._work, name="copy", daemon=True)
                self._thread.start()

    @contextmanager
    def sparing(self) -> Iterator[Path | None]:
        """Inside, local checkpoints may be deleted, but the one that is being copied: with a slow store, each would be
        gone before its copy is whole."""
        with self._deleting:
            yield None if self._copying is None else m.step_folder(self._folder, self._copying)

    def finish(self, seconds: float, alive: Callable[[], None]) -> None:
        """Wait until nothing is being copied any more, at most so many seconds; `alive` is called all the while. What
        did not get there is told."""
        thread, until = self._thread, time.monotonic() + seconds
        while thread is not None and thread.is_alive():
            if (left := until - time.monotonic()) <= 0:
                self._failed(self._copying, f"not done {seconds:g} s after the run; the same command copies it")
                return
            alive()
            thread.join(min(LOOK_S, left))

    # ------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        while self._again():
            try:
                self._bring()
            except Exception as error:  # every store has errors of its own
                self._failed(self._copying, f"{reason(error)}; tried again with the next checkpoint")
            finally:
                self._let_go()

    def _again(self) -> bool:
        """Whether something was asked for since the last time; if not, the thread ends."""
        with self._lock:
            asked, self._asked = self._asked, False
            if not asked:
                self._thread = None
            return asked

    def _bring(self) -> None:
        """Copy until nothing lacks, then delete there what is old."""
        while True:
            found = self.remote.found()
            step = self._choose(found)
            if step is None:
                break
            self._copy(step)
            self._let_go()
        self._prune(found)

    def _choose(self, found: Found) -> int | None:
        """The newest local checkpoint that lacks in the store and would stay there; it is not deleted meanwhile."""
        markers = {step: self._marker(step) for step in whole(found)}
        stays = self._stays(found)
        with self._deleting:
            for step in reversed(m.committed(self._folder)):
                marker = (m.step_folder(self._folder, step) / m.MARKER).read_text(errors="replace")
                if step in stays and step not in self._spoilt and markers.get(step) != marker:
                    self._copying = step
                    break
            return self._copying

    def _let_go(self) -> None:
        with self._deleting:
            self._copying = None

    def _copy(self, step: int) -> None:
        begun, path = time.perf_counter(), m.step_folder(self._folder, step)
        if problems := m.verify(path):
            self._spoilt.add(step)
            self._failed(step, f"{path} is damaged: {'; '.join(problems)}")
            return
        self._markers.pop(step, None)
        self._scores.pop(step, None)
        size = self.remote.put(step, path)
        seconds = round(time.perf_counter() - begun, 3)
        self._tell("copy", step=step, path=self.remote.where(step), seconds=seconds, bytes=size)

    def _prune(self, found: Found) -> None:
        """Nothing goes before this process has saved something itself and its copy stands."""
        if self._saved is None or self._saved not in whole(found):
            return
        stays = self._stays(found)
        for step in found:
            if step <= self._saved and step not in stays:
                self.remote.remove(step)

    def _failed(self, step: int | None, why: str) -> None:
        where = self.remote.url if step is None else self.remote.where(step)
        self._tell("copy_failed", step=step, path=where, message=why)

    # -------------------------------------------------------------------------------------- what stays

    def _stays(self, found: Found) -> set[int]:
        """The steps of which a copy has its place in the store. Local ones and those in the store count together: a run
        that went on on another machine has few of them, and the store all."""
        there, here = set(whole(found)), set(m.committed(self._folder)) - self._spoilt
        good = sorted(step for step in there | here if self._saved is None or step <= self._saved)
        keep = self._keep
        stays = retention.staying(good, keep.keep, keep.keep_every)
        if keep.metric is not None:
            scores = {step: self._score(step, step in there, keep.metric) for step in good}
            best = retention.best_of(scores, keep.mode)
            stays |= set() if best is None else {best}
        return stays

    def _score(self, step: int, there: bool, metric: str) -> float | None:
        if not there:
            return retention.score(m.step_folder(self._folder, step), metric)
        if step not in self._scores:
            try:
                trainer = json.loads(self.remote.text(step, m.TRAINER))
            except (FileNotFoundError, ValueError):  # damaged; another fault of the store is not taken for that
                trainer = None
            self._scores[step] = retention.value(trainer, metric)
        return self._scores[step]

    def _marker(self, step: int) -> str:
        if step not in self._markers:
            self._markers[step] = self.remote.text(step, m.MARKER)
        return self._markers[step]
