"""The command line: `trainkit recipe=NAME [key=value ...]` runs; a first word without '=' is a command.

Nothing here imports torch: the commands answer in a fraction of a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from trainkit.errors import ConfigError, TrainkitError

Command = Callable[[Sequence[str]], int]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    sys.exit(dispatch(list(sys.argv[1:] if argv is None else argv)))


def dispatch(words: list[str]) -> int:
    """The exit code of `words`; every configuration error is printed here, and nowhere else."""
    try:
        return command(words)(words[1:] if words and "=" not in words[0] else words)
    except ConfigError as error:
        report(error)
        return error.exit_code
    except TrainkitError as error:
        sys.stderr.write(f"trainkit: {error}\n")
        return error.exit_code


def command(words: list[str]) -> Command:
    """What the first word asks for. Raises ConfigError for a word that is no command."""
    from trainkit.cli.commands import COMMANDS, run
    from trainkit.config.suggest import suggest
    from trainkit.errors import Problem

    if not words or "=" in words[0]:
        return run
    if words[0] in COMMANDS:
        return COMMANDS[words[0]]
    known = [name for name in COMMANDS if not name.startswith("-")]
    hint = suggest(words[0], known) or "a run is started by recipe=NAME"
    raise ConfigError([Problem("", "", f"there is no command {words[0]!r}; there are {', '.join(known)}", hint)])


def report(error: ConfigError) -> None:
    """All problems on stderr, numbered when there are several."""
    problems = error.problems
    if len(problems) == 1:
        sys.stderr.write(f"trainkit: {problems[0]}\n")
    else:
        sys.stderr.write(f"trainkit: {len(problems)} problems; nothing was started\n")
        for number, problem in enumerate(problems, 1):
            sys.stderr.write(f"{number:3}. {problem}\n")
    sys.stderr.write("see trainkit --help\n")
