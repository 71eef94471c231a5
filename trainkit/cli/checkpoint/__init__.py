"""checkpoint inspect|verify|export|import: what a checkpoint holds, whether it is whole, and its way out and in."""

from trainkit.cli.subcommand import Subcommands

SUBCOMMANDS = Subcommands(
    "checkpoint",
    {
        "inspect RUN|CHECKPOINT [--tensors]": "what is in it",
        "verify RUN|CHECKPOINT": "read every file",
        "export RUN|CHECKPOINT DIR [--format safetensors|hf|torch] [--weights model|ema]": "for use without trainkit",
        "import SOURCE RUN recipe=NAME [key=value ...] [--format F] [--step N] [--weights-only]": "begin a run with it",
    },
    modules={"export": "trainkit.cli.checkpoint.exporting", "import": "trainkit.cli.checkpoint.importing"},
)
DETAILS, main = SUBCOMMANDS.details, SUBCOMMANDS.main
