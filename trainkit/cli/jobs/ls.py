"""jobs ls: every run in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainkit.cli.jobs import usage
from trainkit.cli.jobs.state import runs, standings
from trainkit.cli.terminal import say, show_table
from trainkit.errors import EXIT_DONE, ConfigError, Problem


def main(words: Sequence[str]) -> int:
    if len(words) > 1:
        raise usage("ls")
    folder = Path(words[0] if words else "runs")
    if not folder.is_dir():
        raise ConfigError([Problem("", "", f"there is no folder {folder}")])
    found = standings([*runs(folder.absolute())])
    if not found:
        say(f"no run in {folder}")
        return EXIT_DONE
    rows = [(str(s.folder.root), s.state, str(s.step), _loss(s.loss), s.job or "", s.note) for s in found]
    show_table(("run", "state", "step", "loss", "job", ""), rows)
    return EXIT_DONE


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
