"""What a configuration would run, as a table."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from trainkit.checkpoint.manifest import committed
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder
from trainkit.settings import Settings


def plan(settings: Settings, cluster: Cluster) -> Table:
    """Rows of what `trainkit validate` found in order."""
    train = settings.train
    ranks = settings.strategy.dp_size(cluster.ranks)
    share = train.global_batch // ranks
    micro = train.micro_batch or share
    run = RunFolder(Path(settings.run.dir))
    saved = committed(run.checkpoints(settings.checkpoint.dir))
    length = f"{train.steps} steps" if train.steps is not None else f"{train.epochs} epochs"
    grid = Table(title=f"{settings.name}: in order", title_justify="left", show_header=False, min_width=60)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("strategy", f"{type(settings.strategy).__name__.lower()} on {cluster.ranks} rank(s)")
    device = train.device if train.device != "auto" else ("cuda" if cluster.gpus else "cpu")
    grid.add_row("device", f"{device}, {train.precision} ({cluster.gpus} GPU(s) and {cluster.cores} cores here)")
    grid.add_row("length", f"{length}, {train.global_batch} samples each")
    grid.add_row("per rank", f"{share // micro} micro-batch(es) of {micro} samples per step")
    grid.add_row("optimizer", f"{settings.optimizer}")
    grid.add_row("schedule", f"{settings.schedule}")
    grid.add_row("run folder", f"{run.root}" + (f" (goes on from step {saved[-1]})" if saved else ""))
    return grid
