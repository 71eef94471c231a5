"""What a run would go on from: in its folder, or in the store that checkpoint.dir names. Reads, never writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainkit.checkpoint import reach
from trainkit.checkpoint.manifest import MANIFEST, committed, step_folder
from trainkit.runfolder import RunFolder, is_url
from trainkit.secrets import without_login
from trainkit.settings import Settings


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest checkpoint of a run: the run folder or the store that has it, where in that it is, and its manifest as
    text; "" where that cannot be read."""

    step: int
    root: str
    where: str
    manifest: str


def newest(settings: Settings) -> Newest | None:
    """What a run would go on from if it is not damaged, in the run folder or in the store that checkpoint.dir names.

    Raises ConfigError if that store cannot be used or reached.
    """
    run, url = RunFolder(Path(settings.run.dir)), settings.checkpoint.dir
    folder = run.checkpoints(url)
    steps = committed(folder)
    copy = reach.newest(url) if url is not None and is_url(url) else None
    if copy is not None and copy.step > max(steps, default=-1):
        return Newest(copy.step, without_login(url or ""), copy.where, copy.manifest)
    if not steps:
        return None
    path = step_folder(folder, steps[-1])
    try:
        return Newest(steps[-1], str(run.root), str(path), (path / MANIFEST).read_text())
    except OSError:
        return Newest(steps[-1], str(run.root), str(path), "")
