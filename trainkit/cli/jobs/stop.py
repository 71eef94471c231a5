"""jobs stop: let a run save and leave, wherever it runs; take a job that waits out of the queue, and let one that is
suspended go on, or it could not save."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainkit.cli.jobs import usage
from trainkit.cli.jobs.state import Standing, one, runs, standings
from trainkit.cli.terminal import say
from trainkit.errors import EXIT_DONE, EXIT_FAILED
from trainkit.launcher import _control, _submit
from trainkit.runfolder import RunFolder


def main(words: Sequence[str]) -> int:
    root = one(words, usage("stop"))
    found = [*runs(root)]
    if found != [root] and (array := _submit.read(RunFolder(root)).get("job")):  # members that have not begun
        _control.command("scancel", "--state=PENDING", array)
    if RunFolder(root).sweep.exists():  # it is not to begin the next member
        RunFolder(root).stop.touch()
    return max([_stop(standing) for standing in standings(found)], default=EXIT_DONE)


def _stop(standing: Standing) -> int:
    root = standing.folder.root
    waiting = [job for job in (_submit.read(standing.folder).get("successor"),) if job]
    if standing.state == "queued" and standing.job and standing.job not in waiting:
        waiting.append(standing.job)
    if waiting and _control.cancel(waiting) is None:
        say(f"{root}: Slurm does not answer, so job {', '.join(waiting)} is still in the queue", error=True)
        standing.folder.stop.touch()
        return EXIT_FAILED
    if standing.state == "queued":
        say(f"{root}: job {', '.join(waiting)} is taken out of the queue")
    elif standing.goes_on:
        standing.folder.stop.touch()
        return _able_to_leave(root, None if "ray" in _submit.read(standing.folder) else standing.job)
    else:
        say(f"{root}: it does not run ({standing.state})")
    return EXIT_DONE


def _able_to_leave(root: Path, job: str | None) -> int:
    """Of a run that has been asked to."""
    states = _control.states([job]) if job else None
    state = states.get(str(job)) if states else None
    if job is None or state is None or state.state != "SUSPENDED":
        say(f"{root}: asked to save and leave")
        return EXIT_DONE
    said = _control.resume(job)
    if said is not None and said.ok:
        say(f"{root}: job {job} was suspended; it goes on, to save and leave")
        return EXIT_DONE
    told = said.error if said else "Slurm does not answer"
    say(f"{root}: saves and leaves once job {job} is no longer suspended: scontrol resume {job} ({told})", error=True)
    return EXIT_FAILED
