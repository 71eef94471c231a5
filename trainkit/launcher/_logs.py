"""Where torchelastic writes what the ranks print: logs/attempt_A/rank_R.log."""

from __future__ import annotations

from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, Std


class RankLogs(LogsSpecs):
    """One file per rank, for stdout; a rank sends its stderr there too (see _ranks.py)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(log_dir=str(folder), redirects=Std.OUT)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        def paths(suffix: str) -> dict[int, str]:
            return {local: f"{self.root_log_dir}/rank_{env['RANK']}{suffix}" for local, env in envs.items()}

        for env in envs.values():
            env["TORCHELASTIC_ERROR_FILE"] = ""  # main.work leaves its own, with more in it
        return LogsDest(
            stdouts=paths(".log"),
            stderrs=dict.fromkeys(envs, ""),
            error_files=paths(".error.json"),
        )

    @property
    def root_log_dir(self) -> str:
        return str(self._root_log_dir)
