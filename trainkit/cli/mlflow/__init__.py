"""mlflow sync: what a tracker is told later."""

from trainkit.cli.subcommand import Subcommands

SUBCOMMANDS = Subcommands("mlflow", {"sync RUN [RUN ...] [tracker.uri=URI]": "send what MLflow has missed of a run"})
DETAILS, main, usage = SUBCOMMANDS.details, SUBCOMMANDS.main, SUBCOMMANDS.usage
