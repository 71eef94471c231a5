"""Weights & Biases: one run per run folder, which every attempt continues; or files in the folder, sent later."""

from __future__ import annotations

import importlib.util
import netrc
import os
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from trainkit.errors import Problem, TrainkitError
from trainkit.protocols import RunInfo, TrackerSession
from trainkit.runfolder import replace_text
from trainkit.tracker._numbers import by_machine, grouped

if TYPE_CHECKING:
    from wandb import Run, Settings

SERVER = "https://api.wandb.ai"
ANSWER_S = 10.0  # for which the server is waited at the start; the follower tries again
REST_S = 25.0  # for which what is left is sent at the end, which waits 30 s for all trackers


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """Where the runs go.

    entity  null: the default one of whoever is logged in
    mode    offline: into wandb/ of the run folder, for `wandb sync` when the run is over
    """

    project: str
    entity: str | None
    mode: Literal["online", "offline"]

    def problems(self) -> Sequence[Problem]:
        if importlib.util.find_spec("wandb") is None:
            return [Problem("tracker", "wandb", "is not installed", "pip install 'trainkit[wandb]'")]
        if self.mode == "online" and not _logged_in():
            hint = "wandb login, or set tracker.mode=offline"
            return [Problem("tracker.mode", self.mode, "nobody is logged in", hint)]
        return ()

    def open(self, info: RunInfo) -> TrackerSession | None:
        """Continue the folder's run. Offline there is nothing to continue: what is there is written anew, from the
        first row on."""
        os.environ.setdefault("WANDB_SILENT", "true")  # it prints before it knows of its settings
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nobody was asked

        import wandb

        folder = info.folder / "wandb"
        name = _id(folder)
        if self.mode == "offline":
            for old in folder.glob(f"offline-run-*-{name}"):
                shutil.rmtree(old)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=name,
            name=info.folder.name,
            group=info.parent.name if info.parent else None,
            config={**info.params},
            tags=[f"{key}:{info.tags[key]}"[:64] for key in ("recipe", "strategy", "launcher") if key in info.tags],
            dir=str(info.folder),
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",
            settings=_settings(),
        )
        if run.offline != (self.mode == "offline"):  # it goes on without a word where a login is not answered
            raise TrainkitError(f"W&B does not work {self.mode}")
        return WandbSession(run)

    def held(self, folder: Path) -> Sequence[int] | None:
        return None


class WandbSession:
    """One open run."""

    def __init__(self, run: Run) -> None:
        self._run, self._samples = run, -1.0

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """W&B takes no step before the newest that it has: of what comes again the first stays."""
        for row in (row for row in rows if row["samples"] > self._samples):
            self._samples = row["samples"]
            if row["step"] >= self._run.step:
                self._run.log(grouped(row), step=row["step"])

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        pass

    def measure(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """W&B counts one kind of step only: the newest is part of the newest row."""
        for sample in samples[-1:]:
            self._run.log(by_machine(sample), commit=False)

    def artifact(self, name: str, text: str) -> None:
        files = Path(self._run.dir)
        path = files / "trainkit" / name  # W&B has a config.yaml of its own
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self._run.save(path, base_path=files, policy="now")

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)

    def abandon(self) -> None:
        """W&B's own process has the run, and goes on with it."""

    def where(self) -> str:
        if self._run.offline:
            return f"wandb sync {shlex.quote(str(Path(self._run.dir).parent))}"
        return str(self._run.url)


def _settings() -> Settings:
    """It is told nothing but what is logged: a command line and a terminal may show secrets."""
    from wandb import Settings

    return Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        init_timeout=ANSWER_S,
        login_timeout=ANSWER_S,
        finish_timeout=REST_S,
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", SERVER)).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _id(folder: Path) -> str:
    """The run's in W&B. It stays with the folder; a new folder of the same name is a new run."""
    noted = folder / "trainkit-run-id"
    if not noted.exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(noted, secrets.token_hex(4))  # half of it would be another run
    return noted.read_text()
