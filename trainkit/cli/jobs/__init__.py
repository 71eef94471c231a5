"""jobs ls|status|logs|wait|stop: runs from any machine that sees their folders, whoever started them."""

from trainkit.cli.subcommand import Subcommands

SUBCOMMANDS = Subcommands(
    "jobs",
    {
        "ls [FOLDER]": "every run in FOLDER (by default runs/), one a line",
        "status RUN": "where it stands, and what happened to it",
        "logs [-f] [--rank R] RUN": "what the command said, or rank R, in all attempts; -f: on until it ends",
        "wait RUN": "until it has ended; with its exit code",
        "stop RUN": "save and leave; a job that waits is taken out of the queue",
    },
)
DETAILS, main, usage = SUBCOMMANDS.details, SUBCOMMANDS.main, SUBCOMMANDS.usage
