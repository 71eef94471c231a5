"""slurm render|check|submit|job: a run as a Slurm job."""

from trainkit.cli.subcommand import Subcommands

SUBCOMMANDS = Subcommands(
    "slurm",
    {
        "render recipe=NAME [key=value ...]": "print the batch script; no cluster is needed",
        "check recipe=NAME [key=value ...]": "ask sbatch whether it would take the job, and when",
        "submit recipe=NAME [key=value ...]": "the same as launcher=slurm launcher.submit=true",
        "job recipe=NAME [key=value ...]": "what a batch script calls: run, start again if need be",
    },
)
DETAILS, main = SUBCOMMANDS.details, SUBCOMMANDS.main
