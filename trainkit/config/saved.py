"""What a run would go on from: in its folder, in memory, or in the store that checkpoint.dir names. Reads, never
writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainkit.checkpoint import memory, reach
from trainkit.checkpoint.manifest import MANIFEST, committed, step_folder
from trainkit.runfolder import RunFolder, is_url
from trainkit.secrets import without_login
from trainkit.settings import Settings


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest checkpoint of a run: whether in the run folder, in memory or in the store, where in that, and its
    manifest as text; "" where that cannot be read."""

    step: int
    root: str
    where: str
    manifest: str


def newest(settings: Settings) -> Newest | None:
    """What a run would go on from if it is not damaged, in its folder, in memory, or in the store that checkpoint.dir
    names.

    Raises ConfigError if that store cannot be used or reached.
    """
    run, url = RunFolder(Path(settings.run.dir)), settings.checkpoint.dir
    folder, root = run.checkpoints(url), run.root
    steps, place = committed(folder), memory.find(run)
    if place is not None and max(committed(place), default=-1) > max(steps, default=-1):
        folder, root, steps = place, place, committed(place)
    copy = reach.newest(url) if url is not None and is_url(url) else None
    if copy is not None and copy.step > max(steps, default=-1):
        return Newest(copy.step, without_login(url or ""), copy.where, copy.manifest)
    if not steps:
        return None
    path = step_folder(folder, steps[-1])
    try:
        return Newest(steps[-1], str(root), str(path), (path / MANIFEST).read_text())
    except OSError:
        return Newest(steps[-1], str(root), str(path), "")
