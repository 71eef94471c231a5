"""slurm job: what a batch script calls. The run itself, as on one machine; before it, the run folder is taken over from
this job's life before; after it, the job starts again where that helps.

    sbatch -> take over -> run -> done, or stopped by a person          -> exit
                               -> warned (time limit, preemption), saved -> requeue, or the job that waits for this end
                               -> a node is lost, or it failed           -> the same, as far as launcher.restarts goes
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainkit.checkpoint.manifest import committed
from trainkit.cli.terminal import say
from trainkit.cli.under import prepare_under, under
from trainkit.errors import EXIT_FAILED, ConfigError, Fenced, Problem
from trainkit.launcher import _control, _submit
from trainkit.launcher._sbatch import WARNING
from trainkit.launcher._takeover import Job, chainable, take_over
from trainkit.launcher.local import warm_agent
from trainkit.launcher.slurm import Slurm
from trainkit.resilience import recovery, requeue
from trainkit.resilience.lock import until_free
from trainkit.runfolder import RunFolder, read_lines
from trainkit.settings import Settings

PATIENCE_S, LOOK_S = 60.0, 2.0  # with a controller that does not answer


def main(words: Sequence[str]) -> int:
    job = Job.here()
    if job is None:
        hint = "`trainkit slurm submit` makes one; without Slurm: launcher=local"
        raise ConfigError([Problem("", "", "slurm job: this is no Slurm job", hint)])
    words = completed(words, job)
    with warm_agent():
        config, settings, cluster, launcher = prepare_under(Slurm, words)
        life = Life(job, RunFolder(Path(settings.run.dir)), settings, launcher)
        try:
            if not life.begin(words):
                return EXIT_FAILED

            from trainkit import front

            begun = len([*read_lines(life.folder.events)])
            code = front.run(config, warned(settings), cluster, words)
            life.end(code, begun)
        except Fenced as error:
            say(f"error: {error}", error=True)
            return EXIT_FAILED
    return code


def completed(words: Sequence[str], job: Job) -> list[str]:
    """The words of a run that can be started again: its folder must be the same then."""
    added = [] if any(word.startswith("run.dir=") for word in words) else [f"run.dir=runs/slurm_{job.number}"]
    if not any(word.startswith("launcher.nodes=") for word in words):
        added.append(f"launcher.nodes={os.environ['SLURM_JOB_NUM_NODES']}")
    return under("slurm", words, *added, "launcher.submit=false")


def warned(settings: Settings) -> Settings:
    """With Slurm's warning among the signals that ask to save, whatever run.signals says: the script ignores it until
    this process takes it, so it would be lost without a word."""
    signals = settings.run.signals
    return settings if WARNING in signals else replace(settings, run=replace(settings.run, signals=(*signals, WARNING)))


class Life:
    """One start of the job, which may have several."""

    def __init__(self, job: Job, folder: RunFolder, settings: Settings, launcher: Slurm) -> None:
        self.job, self.folder, self.settings, self.launcher = job, folder, settings, launcher
        self.successor: str | None = None

    def begin(self, words: Sequence[str]) -> bool:
        """Take the folder over. False if the run is not to go on."""
        if self.launcher.restart == "chain":
            chainable(self.folder)
        before = take_over(self.folder, self.job)
        until_free(self.folder.root, self.folder.command_lock, self.folder.ranks_lock)
        goes_on = before is not None and before.rpartition(".")[0] in (self.job.number, self.job.before)
        if not goes_on:  # a person has submitted it: what became of earlier jobs does not count
            _submit.write(self.folder, counted_from=len([*read_lines(self.folder.events)]))
        _submit.write(self.folder, job=self.job.number, successor=None, words=[*words], directory=str(Path.cwd()))
        self.link_output()
        if goes_on and self.unexplained():
            # It had no time to say anything: its node is gone, or Slurm has taken the nodes without a warning.
            if why := self.against("node"):
                return self.give_up(why)
            self.folder.event("requeue", cause="node", saved=self.saved(), job=self.job.number)
        if self.launcher.restart == "chain":
            if self.called_off():
                return False
            self.chain()
        return True

    def chain(self) -> None:
        """Have another job wait for the end of this one. Slurm may be down, which is no reason not to train: then
        there is none, and it is tried again at the end."""
        least, most = self.launcher.span
        until = time.monotonic() + PATIENCE_S
        while self.successor is None:
            try:
                self.successor = self.job.chain(self.folder, f"{least}-{most}")
            except _submit.NoAnswer:
                if time.monotonic() > until:
                    say("warning: no job waits for the end of this one: Slurm does not answer", error=True)
                    return
                time.sleep(LOOK_S)
        _submit.write(self.folder, successor=self.successor)

    def link_output(self) -> None:
        """Where sbatch was typed by hand, its output is elsewhere; `jobs logs` looks in the run folder."""
        output, logs = Path("/proc/self/fd/1").resolve(), self.folder.root / "logs"
        link = logs / f"slurm-{self.job.number}.out"
        if output.is_file() and output.parent != logs and not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(output)

    def called_off(self) -> bool:
        """Whether the job before was cancelled by a person, who did not mean this one to go on."""
        before = self.job.before
        state = (_control.states([before]) or {}).get(before) if before else None
        if state is None or not state.state.startswith("CANCELLED"):
            return False
        say(f"job {before} was cancelled, so this one ends")
        return True

    def unexplained(self) -> bool:
        """Whether the last command in this folder was cut off."""
        kinds = [e["event"] for e in read_lines(self.folder.events) if e["event"] in ("launch", "end", "requeue")]
        return bool(kinds) and kinds[-1] == "launch"

    def end(self, code: int, begun: int) -> None:
        """Start the job again if that is called for; the job that waits for its end is sent away if not."""
        events = [*read_lines(self.folder.events)][begun:]
        why = requeue.cause(events, code, _control.end_time(self.job.number), self.launcher.warning_s)
        if why is None or self.launcher.restart == "no":
            self.dismiss()
        elif self.cancelled():
            say(f"job {self.job.number} was cancelled, so it does not start again")
            self.dismiss()
        elif reason := self.against(why):
            self.give_up(reason)
        else:
            self.folder.event("requeue", cause=why, saved=self.saved(), job=self.job.number)
            if self.launcher.restart == "requeue":
                say(f"{why}: job {self.job.number} is queued again")
                self.queue_again()
            else:
                self.let_go_on(why)

    def against(self, why: requeue.Cause) -> str:
        events = [*read_lines(self.folder.events)][_submit.read(self.folder).get("counted_from", 0) :]
        budget: dict[str, Any] = asdict(self.launcher.restarts)
        return requeue.against(budget, events, why, self.saved(), self.settings.recovery.repeats)

    def give_up(self, why: str) -> bool:
        self.folder.event("give_up", attempt=self.folder.next_attempt() - 1, why=why)
        say(f"it does not start again: {why}")
        self.dismiss()
        return False

    def saved(self) -> int:
        """Step of the newest checkpoint that was not saved because a rank failed; -1 for none."""
        steps = committed(self.folder.checkpoints(self.settings.checkpoint.dir))
        return max(recovery.regular(read_lines(self.folder.events), steps), default=-1)

    def cancelled(self) -> bool:
        """Whether a person has ended this job: it would come back if it was queued again. Not one that Slurm ends at
        its time limit, in which what saves has some seconds. False where Slurm cannot be asked."""
        states = _control.states([self.job.number])
        state = states.get(self.job.number) if states else None
        goes_on = state is None or state.state in ("RUNNING", "SUSPENDED")
        return not goes_on and _control.timed_out(self.job.number) is False

    def queue_again(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while (said := _control.requeue(self.job.number)) is None and time.monotonic() < until:
            time.sleep(LOOK_S)
        if said is None or not said.ok:
            told = said.error if said else "Slurm does not answer"
            say(f"it could not be queued again: {told}\n    submit it anew, or set launcher.restart=chain", error=True)

    def let_go_on(self, why: requeue.Cause) -> None:
        """The job that waits for this one's end is free to start; where none could be made before, one is now."""
        try:
            self.chain()
        except ConfigError as refused:  # the run's own end is not to change with it
            say(f"no job goes on after this one: {refused}", error=True)
        if self.successor is not None:
            say(f"{why}: job {self.successor} goes on")
        else:
            say("submit it anew: nothing of what is saved is lost", error=True)

    def dismiss(self) -> None:
        """Nobody is to go on after this job."""
        if self.successor is not None:
            _control.cancel([self.successor])
            _submit.write(self.folder, successor=None)
