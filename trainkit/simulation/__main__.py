"""python -m trainkit.simulation recipe=NAME [key=value ...] launcher.ranks=N [rank=R]: a look at one rank of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainkit.config import build, compose
from trainkit.errors import ConfigError, Problem, TrainkitError
from trainkit.simulation.report import report
from trainkit.simulation.simulate import simulate


def main(words: Sequence[str]) -> int:
    """Print the simulation of the run that `words` describe, of rank R, 0 by default. Returns the exit code."""
    asked = [word.removeprefix("rank=") for word in words if word.startswith("rank=")]
    try:
        settings, problems = build(compose([word for word in words if not word.startswith("rank=")]))
        if settings is None or problems:
            raise ConfigError(problems)
        ranks = settings.launcher.ranks
        if ranks == "auto":
            raise ConfigError([Problem("launcher.ranks", "auto", "nothing is started here", "say how many there are")])
        lines = list(report(simulate(settings, ranks), int(asked[-1]) if asked else 0))
    except TrainkitError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write("\n".join([*lines, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
