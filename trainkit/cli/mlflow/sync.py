"""mlflow sync: send what the tracker has missed of run folders, to where the run meant to, or to tracker.uri."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import yaml

from trainkit import front
from trainkit.cli.mlflow import usage
from trainkit.cli.place import run_folders
from trainkit.cli.terminal import say
from trainkit.config import build
from trainkit.errors import EXIT_DONE, ConfigError, TrainkitError
from trainkit.runfolder import RunFolder, read_lines
from trainkit.tracker.follower import Status, reason, sync

URI = "tracker.uri="


def main(words: Sequence[str]) -> int:
    roots = [word for word in words if not word.startswith(URI)]
    if not roots:
        raise usage("sync")
    folders = run_folders(roots)
    uris = [word.removeprefix(URI) for word in words if word.startswith(URI)]
    for folder in folders:
        say(f"{folder.root}: {_sync(folder, uris)}")
    return EXIT_DONE


def _sync(folder: RunFolder, uris: Sequence[str]) -> str:
    config = yaml.safe_load(folder.config.read_text())
    mlflow = config["tracker"].get("mlflow", config["tracker"])  # where there are several, each below its name
    for uri in uris:
        mlflow["uri"] = uri
    settings, problems = build(config)
    if settings is None or problems:
        raise ConfigError(problems)
    starts = [event for event in read_lines(folder.events) if event["event"] == "start"]
    if not starts:
        return "nothing to send: training has not started"
    # What the run used counts, not what launcher.ranks=auto would mean on this machine today.
    cluster = replace(settings.launcher.cluster(settings.strategy, settings.train.device), ranks=starts[-1]["ranks"])
    info = front.info(folder, settings, cluster, starts[-1]["attempt"], config)
    ends = [event for event in read_lines(folder.events) if event["event"] == "end"]
    status: Status = front.tracker_status(ends[-1]["exit_code"]) if ends else "KILLED"
    try:
        return sync(settings.tracker, info, status)
    except Exception as error:  # whatever a tracker raises means the same here: it cannot be reached
        raise TrainkitError(f"the tracker did not take it: {reason(error)}") from error
