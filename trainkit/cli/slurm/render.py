"""slurm render: the batch script of a run, on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainkit.cli.under import prepare_under, under
from trainkit.errors import EXIT_DONE, ConfigError
from trainkit.launcher import _takeover
from trainkit.launcher._sbatch import Script
from trainkit.launcher._submit import script
from trainkit.launcher.slurm import Slurm


def main(words: Sequence[str]) -> int:
    sys.stdout.write(str(rendered(words, by_hand=True)))
    return EXIT_DONE


def rendered(words: Sequence[str], python: str = sys.executable, *, by_hand: bool) -> Script:
    """The script of a run that is checked."""
    words = under("slurm", words, "launcher.submit=true")  # a job that this may be typed in does not matter
    config, _, cluster, launcher = prepare_under(Slurm, words)
    if by_hand and launcher.restart == "chain":
        raise ConfigError([_takeover.NO_CHAIN])
    return script(launcher, config, words, cluster, python, by_hand)
