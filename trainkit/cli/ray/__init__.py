"""ray submit|status|logs|stop|render: a run as a job of a Ray cluster."""

from trainkit.cli.subcommand import Subcommands

SUBCOMMANDS = Subcommands(
    "ray",
    {
        "submit [--address http://HEAD:8265] [--follow] [--retries N] recipe=NAME [key=value ...]": "hand it over",
        "status RUN": "what Ray says of the job that has the run",
        "logs [-f] RUN": "what the job's command says; -f: on until it ends",
        "stop RUN": "have the run save and leave, and end the job",
        "render rayjob|cluster [--image IMAGE] recipe=NAME ...": "a manifest for KubeRay, a file for `ray up`",
    },
)
DETAILS, main, usage = SUBCOMMANDS.details, SUBCOMMANDS.main, SUBCOMMANDS.usage
