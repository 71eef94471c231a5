"""slurm submit: hand the run to Slurm, say where to look, and exit."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.cli import run
from trainkit.cli.under import under


def main(words: Sequence[str]) -> int:
    return run.main(under("slurm", words, "launcher.submit=true"))
