"""A rank process, from its first order to its last: it trains, and where it outlives the attempt, it stands by with
interpreter, libraries, data and the newest step, until the agent says in which attempt that goes on.

    order -> main.fit -> done, stopped                   -> the agent is told
                      -> a fault -> it holds the step     -> "standing" -> another order
                                                                        -> none: the step is saved -> exit
                                 -> it does not           -> exit
"""

from __future__ import annotations

import faulthandler
import gc
import json
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trainkit import main
from trainkit.errors import EXIT_FAILED, CorruptError, TrainkitError
from trainkit.launcher._post import Order, Post
from trainkit.launcher._warm import bring, note
from trainkit.protocols import Outcome
from trainkit.resilience import failure
from trainkit.resilience.pulse import Lifeline, Pulse, unnoted
from trainkit.runfolder import RunFolder, replace_text

if TYPE_CHECKING:
    from trainkit.rescue import Kept


def work(root: str, attempt: int, pulse: Pulse, post: Post, *, kept: bool = False) -> Outcome:
    """Be a rank of the run folder `root`, as `post` says; `attempt`: the first one of the command; `kept`: by a keeper,
    while the agent may be on another machine. A fault leaves logs/attempt_A/rank_R.failure.json behind, and where the
    process ends with it, it exits with the error's code."""
    main.stop.install()
    faulthandler.register(signal.SIGQUIT)  # all threads, into the rank's log: what the agent asks for when a run hangs
    return Rank(RunFolder(Path(root)), attempt, pulse, post, kept).serve()


class Rank:
    """This process. `told`: the newest fault, as a `failure` event tells it."""

    def __init__(self, folder: RunFolder, attempt: int, pulse: Pulse, post: Post, kept: bool = False) -> None:
        self.under_keeper = kept
        self.folder, self.noted, self.pulse, self.post = folder, folder.modules(attempt), pulse, post
        from trainkit.rescue import Pocket  # torch, which the agent has not imported when it imports this

        self.ready: main.Ready | None = None
        self.pocket = Pocket()
        self.told: Mapping[str, Any] = {}

    def serve(self) -> Outcome:
        order = self.first()
        while order is not None:
            outcome = self.attempt(order)
            if outcome is not None:
                self.post.tell(outcome)
                return outcome
            if self.pocket.kept is None:  # no name for it here: the next attempt is to free its memory
                self.leave(order, None)
            self.stand_by(order, self.pocket.kept)
            following = self.post.take()
            if following is None:
                self.leave(order, self.pocket.kept)
            order = following
        return "done"  # a spare that was not needed

    def first(self) -> Order | None:
        """The first order. A spare gets data and libraries ready before it comes."""
        if not self.post.spare:
            return self.post.take()
        self.get_ready()
        return self.post.take(idle=partial(next, bring(self.noted), None))

    def get_ready(self) -> main.Ready:
        if self.ready is None:
            self.ready = main.get_ready(self.folder)
            gc.freeze()  # libraries stay: to look for garbage among them takes a tenth of a second after a fault
        return self.ready

    def attempt(self, order: Order) -> Outcome | None:
        """How it ended; None for a fault, of which nothing is left in this process then but what is in the pocket."""
        trains = partial(note, self.noted) if order.rank == 0 and not order.again else unnoted
        lifeline = Lifeline(main.stop, partial(self.pulse.beat, order.rank), trains)
        try:
            ready = self.get_ready()
            settings = replace(ready.settings, resume="auto") if order.again else ready.settings
            return main.fit(replace(ready, settings=settings), self.folder, order.attempt, lifeline, self.pocket)
        except Exception as error:
            if not isinstance(error, TrainkitError):  # the others say it all in their message
                traceback.print_exc()
            self.told = described(error, order.rank, self.pocket.broke)
        return None

    def stand_by(self, order: Order, kept: Kept) -> None:
        """Not to be a rank of the next attempt if this one made no step: this process may be what is wrong."""
        self.write_fault(order)
        self.pulse.beat(order.rank, kept.step, "standing")
        stays = kept.attempt == order.attempt and not self.pocket.bound
        main.say(f"rank {order.rank} holds step {kept.step}" + (" and waits for the next attempt" if stays else ""))
        self.post.tell("standing" if stays else "holding")

    def leave(self, order: Order, kept: Kept | None) -> NoReturn:
        """Exit, after the step that this rank holds is saved. What goes wrong in that is told, and hides nothing of the
        fault. A rank without its keeper saves nothing: the agent, which lives, counts it as lost, and the next attempt
        may be at work in the folder. If the agent of one machine has died there is no other attempt."""
        self.write_fault(order)
        if kept is not None and self.under_keeper and self.post.orphaned:
            main.say(f"rank {order.rank} leaves step {kept.step} unsaved: its keeper is gone")
        elif kept is not None and not kept.whole:
            main.say(f"rank {order.rank} leaves its part of step {kept.step} unsaved: the others have not stayed")
        elif kept is not None:
            self.pulse.beat(order.rank, kept.step, "rescuing")
            self.save(order, kept)
        self.pulse.beat(order.rank, self.pulse.read(order.rank).step, "leaving")
        sys.exit(self.told["exit_code"])

    def save(self, order: Order, kept: Kept) -> None:
        """Write what this rank holds, if it is the first to try."""
        from trainkit.rescue import fill_in, save

        ready = self.get_ready()
        folder = self.folder.checkpoints(ready.settings.checkpoint.dir)
        try:
            rows = partial(fill_in, self.folder, kept, ready.settings, len(ready.data.train))
            saved = save(kept, folder, order.attempt, main.say, rows)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            self.folder.event("save_failed", step=kept.step, message=told, in_a_row=1)
            return
        if saved is not None:
            self.folder.event("save", **saved.told(saved.seconds), rescued_by=order.rank)

    def write_fault(self, order: Order) -> None:
        path = self.folder.logs(order.attempt) / f"rank_{order.rank}.failure.json"
        if not path.exists():
            with suppress(OSError):  # the disk is full, say: what is held may still be saved elsewhere
                replace_text(path, json.dumps(self.told))


def described(error: Exception, rank: int, at: float | None) -> dict[str, Any]:
    """The fields of the `failure` event, while `error` is being handled; `at`: when it came up, if not just now."""
    code = error.exit_code if isinstance(error, TrainkitError) else EXIT_FAILED
    message = str(error) if isinstance(error, TrainkitError) else f"{type(error).__name__}: {error}"
    told = failure.event(message, rank) | {"exit_code": code, "traceback": traceback.format_exc()}
    if at is not None:  # of several ranks the first one is the cause
        told |= {"time": at}
    if isinstance(error, TrainkitError) and error.hopeless:
        told |= {"cause": "refused"}
    if isinstance(error, CorruptError):  # all ranks raise it; it is told of the one that it is about
        told |= {"rank": error.rank, "cause": "corrupt"}
    return told
