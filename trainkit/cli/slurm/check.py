"""slurm check: whether sbatch would take the job, and when it would start; nothing is submitted."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from trainkit.cli.slurm.render import rendered
from trainkit.cli.terminal import say
from trainkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED
from trainkit.launcher import _control


def main(words: Sequence[str]) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
        file.write(str(rendered(words, by_hand=False)))
        file.flush()
        said = _control.command("sbatch", "--test-only", file.name)
    if said is None:
        say("error: sbatch is not installed here, or Slurm does not answer", error=True)
        return EXIT_FAILED
    say(said.error or said.out, error=not said.ok)
    return EXIT_DONE if said.ok else EXIT_CONFIG
