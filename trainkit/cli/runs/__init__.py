"""runs ls|show|compare|rm: runs by what they have learnt; `jobs` is about how they run."""

from trainkit.cli.subcommand import Subcommands

SUBCOMMANDS = Subcommands(
    "runs",
    {
        "ls [FOLDER]": "every run in FOLDER (by default runs/), one a line (the same as jobs ls)",
        "show RUN": "what it has learnt, what it cost, what happened to it",
        "compare RUN RUN [RUN ...]": "results side by side, and in which keys they differ",
        "rm RUN [RUN ...] --yes": "delete run folders with their checkpoints; never one that is at work",
    },
    modules={"ls": "trainkit.cli.jobs.ls"},
)
DETAILS, main, usage = SUBCOMMANDS.details, SUBCOMMANDS.main, SUBCOMMANDS.usage
