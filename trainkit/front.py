"""The front: what the person who typed the command talks to.

    config.yaml -> follower, launcher.start -> [ is it running? draw ]* -> drain the tracker -> summary.json, table

It never trains and never imports torch: it starts the ranks and reads the run folder, which is the truth. So neither
a slow terminal nor a tracker that is down can hold up a step.
"""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console as Rich
from rich.markup import escape

from trainkit import __version__
from trainkit.console import Console, closing, screen, summarise
from trainkit.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from trainkit.installed import versions
from trainkit.protocols import Cluster, Job, RunInfo
from trainkit.resilience import failure
from trainkit.resilience.lock import RunLock
from trainkit.runfolder import RunFolder, drop_torn_line, read_lines, replace_text
from trainkit.secrets import flat
from trainkit.settings import Settings, name_of
from trainkit.tracker.follower import Follower, Status

POLL_S = 0.1
FLUSH_S = 30.0  # how long the end of a run waits for rows that are still on their way to the tracker
STATUS = {EXIT_DONE: "done", EXIT_STOPPED: "stopped", EXIT_CONFIG: "refused"}


def run(config: dict[str, Any], settings: Settings, cluster: Cluster, words: Sequence[str]) -> int:
    """Start the run, follow it to its end, and say how it went. `words` are those of the command line. Returns the
    exit code. Raises ConfigError where another command is at work in the run folder."""
    folder = RunFolder(Path(settings.run.dir))
    with RunLock(folder.command_lock, folder.root):
        RunLock(folder.ranks_lock, folder.root).release()  # ranks whose command was killed may still be saving
        return run_locked(folder, config, settings, cluster, words)


def run_locked(
    folder: RunFolder, config: dict[str, Any], settings: Settings, cluster: Cluster, words: Sequence[str]
) -> int:
    """The same, in a folder that no other command writes into."""
    rich = screen()
    if finished(folder, config):
        where = escape(str(folder.root))
        rich.print(f"this run is done; to train on, give it more steps, or another run.dir ({where})")
        show(rich, folder, json.loads(folder.summary.read_text()), words)
        return EXIT_DONE
    attempt = folder.next_attempt()
    folder.summary.unlink(missing_ok=True)  # it would pass for this attempt's, if that is killed
    drop_torn_line(folder.events)
    replace_text(folder.config, yaml.safe_dump(config, sort_keys=False))
    follower = Follower(settings.tracker, info(folder, settings, cluster, attempt, config))
    follower.start()
    begin = time.time()
    folder.event("launch", attempt=attempt, ranks=cluster.ranks, host=socket.gethostname(), versions=versions())
    job = settings.launcher.start(folder.root, cluster, attempt)
    console = Console(folder, attempt, rich)
    code, asked = follow(job, console, follower, settings.run.signals)
    status = STATUS.get(code, "killed" if code < 0 else "failed")
    if status in ("failed", "killed") and asked < 2 and not explained(folder):
        folder.event("failure", **unexplained(folder, code))
    step = max((r["step"] for r in read_lines(folder.metrics)), default=0)
    folder.event("end", step=step, status=status, exit_code=code, seconds=round(time.time() - begin, 1))
    console.close()
    unsent = follower.finish(tracker_status(code), FLUSH_S)
    summary = summarise(folder, folder.checkpoints(settings.checkpoint.dir), status, follower.where)
    summary |= {"unsent_rows": unsent, "tracker_trouble": follower.trouble}
    replace_text(folder.summary, json.dumps(summary, indent=1))
    show(rich, folder, summary, words)
    return code if code in STATUS else EXIT_FAILED


def follow(job: Job, console: Console, follower: Follower, signals: Sequence[str]) -> tuple[int, int]:
    """Draw until the job ends. The first Ctrl-C or SIGTERM asks it to save and leave, the second ends it at once.
    `signals` ask too, and do not count: a scheduler sends one some time before SIGTERM.
    Returns its exit code, and how often it was asked."""
    asked = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        (job.stop if asked == 1 else job.kill)()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal does not end a run
    for name in signals:
        signal.signal(signal.Signals[f"SIG{name}"], lambda number, frame: job.stop())
    told, troubled = 0, None
    while True:
        code = job.poll()
        console.refresh()
        if asked > told:
            told = asked
            console.say("stopping: saving a checkpoint (once more to end at once)" if asked == 1 else "ending at once")
        if follower.trouble != troubled and troubled is None:
            troubled = follower.trouble
            console.say(f"the tracker cannot be reached ({troubled}); training goes on, all rows are in metrics.jsonl")
        if code is not None:
            return code, asked
        time.sleep(POLL_S)


def explained(folder: RunFolder) -> bool:
    """Whether the launcher has said why the newest attempt failed."""
    newest = folder.next_attempt() - 1
    return any(e["event"] == "failure" and e["attempt"] == newest for e in read_lines(folder.events))


def unexplained(folder: RunFolder, code: int) -> dict[str, Any]:
    """The `failure` event for a launcher that could not write it: the out-of-memory killer ended it, or a full disk."""
    attempt = folder.next_attempt() - 1
    end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    told = failure.event(f"the process that starts the ranks {end}", None)
    return {"attempt": attempt, "log": str(folder.logs(attempt) / "agent.log"), **told}


def tracker_status(code: int) -> Status:
    """MLflow's word for an exit code: stopped on request, or ended by a signal, is KILLED."""
    if code == EXIT_DONE:
        return "FINISHED"
    return "KILLED" if code == EXIT_STOPPED or code < 0 else "FAILED"


def finished(folder: RunFolder, config: Mapping[str, Any]) -> bool:
    """Whether the folder's run ended as this configuration wants it: nothing would be left to do."""
    if not (folder.summary.exists() and folder.config.exists()):
        return False
    before = yaml.safe_load(folder.config.read_text())["train"]
    same = all(before[key] == config["train"][key] for key in ("steps", "epochs"))
    return same and json.loads(folder.summary.read_text())["status"] == "done"


def show(rich: Rich, folder: RunFolder, summary: dict[str, Any], words: Sequence[str]) -> None:
    """The closing table, where things are, and what to type next."""
    closing(rich, summary, folder, *following(folder, summary, words))


def following(folder: RunFolder, summary: dict[str, Any], words: Sequence[str]) -> tuple[str, str]:
    """What to do next, and the command for it."""
    if summary["status"] == "done":
        model = json.dumps(str(folder.model))
        if (folder.model / "config.json").exists():
            load = f"import transformers; print(transformers.AutoModelForCausalLM.from_pretrained({model}))"
            return "load the model", shlex.join(["python", "-c", load])
        return "look at the model", shlex.join(["ls", "-l", str(folder.model)])
    again = [w for w in words if not w.startswith("run.dir=")] + [f"run.dir={folder.root}"]
    what = "mend what is said above, then go on" if summary["status"] in ("failed", "refused") else "go on"
    return what, f"python -m trainkit {shlex.join(again)}"


# ------------------------------------------------------------------------------------- for the tracker


def info(folder: RunFolder, settings: Settings, cluster: Cluster, attempt: int, config: Mapping[str, Any]) -> RunInfo:
    """What a tracker is told: every key as a param, where and from what the run was started as tags."""
    tags = {
        "trainkit.attempt": str(attempt),
        "trainkit.version": __version__,
        "trainkit.run_dir": str(folder.root),
        "recipe": settings.name,
        "strategy": name_of(settings.strategy),
        "launcher": name_of(settings.launcher),
        "ranks": str(cluster.ranks),
        "host": socket.gethostname(),
    }
    commit = git_commit()
    if commit is not None:
        tags["git_commit"] = commit
    name = f"{settings.name} {folder.root.name}"
    parent = folder.root.parent if RunFolder(folder.root.parent).sweep.exists() else None
    return RunInfo(folder=folder.root, name=name, params=dict(flat(config)), tags=tags, parent=parent)


def git_commit() -> str | None:
    """The commit of the working directory, with '+' for uncommitted changes; None outside git."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() if said.returncode == 0 else None
