"""Where torchelastic writes what a rank process prints at first; later that goes where its orders say (_post.py)."""

from __future__ import annotations

from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, Std


class RankLog(LogsSpecs):
    """The stdout of one process; it sends its stderr there too."""

    def __init__(self, path: Path) -> None:
        super().__init__(log_dir=str(path.parent), redirects=Std.OUT)
        self._path = path

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        for env in envs.values():
            env["TORCHELASTIC_ERROR_FILE"] = ""  # rank.py leaves its own, with more in it
        return LogsDest(
            stdouts=dict.fromkeys(envs, str(self._path)),
            stderrs=dict.fromkeys(envs, ""),
            error_files=dict.fromkeys(envs, str(self._path.with_suffix(".error.json"))),
        )

    @property
    def root_log_dir(self) -> str:
        return str(self._root_log_dir)
