"""A rank that waits for others learns that one is dead, also where gloo does not wake it: with real processes, of which
one stands still while the other one is killed."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from trainkit.lost import Lookout, announce
from trainkit.strategy import _patience, _world
from trainkit.strategy._patience import Patience

MUCH = 30_000_000  # elements: more than the buffers of a connection take
DEADLINE_S = 30.0  # for what never happens


Ranks = _world.Group | _world.Apart


def add_up(ranks: Ranks) -> Any:
    return ranks.total([1.0, 2.0, 3.0, 4.0]) if isinstance(ranks, _world.Group) else None


def gather(ranks: Ranks) -> Any:
    return ranks.gather(ranks.rank)


def take(ranks: Ranks) -> Any:
    return handed_on(ranks, source=1)


def give(ranks: Ranks) -> Any:
    return handed_on(ranks, source=0)


def handed_on(ranks: Ranks, source: int) -> Any:
    much = torch.full((MUCH,), float(ranks.rank))
    return ranks.hand_on(much, source)[-1].item() if isinstance(ranks, _world.Group) else None


def exchange(ranks: Ranks) -> Any:
    parcel = [(1 - ranks.rank, torch.full((MUCH,), float(ranks.rank)))]
    nothing: list[tuple[int, torch.Tensor]] = []
    ranks.exchange(*((nothing, parcel) if ranks.rank == 0 else (parcel, nothing)))
    return parcel[0][1][-1].item()


FOUND = {add_up: [2.0, 4.0, 6.0, 8.0], gather: [0, 1], take: 1.0, give: 0.0, exchange: 1.0}
CASES = [*((work, False) for work in FOUND), (gather, True), (exchange, True)]  # or on connections of their own
Work = Callable[[Ranks], Any]


class Telling(Lookout):
    """Says that its rank has waited for a while."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def lost(self) -> bool:
        self.pipe.send("waits")
        return super().lost()


def serve(pipe: Connection, rank: int, port: int, work: Work, apart: bool) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", GLOO_SOCKET_IFNAME="lo")
    world = replace(_world.connect("cpu", DEADLINE_S), patience=Patience(Telling(pipe)))
    ranks = world.apart() if apart else world
    pipe.send("met")
    pipe.recv()
    try:
        pipe.send(("did", work(ranks)))
    except Exception as error:
        pipe.send((type(error).__name__, str(error)))
    del ranks  # what hangs is not waited for
    world.close()
    pipe.send("left")


def keep(pipe: Connection) -> None:
    """Be the agent, which keeps the store."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    while pipe.recv():
        announce(store)


class Two:
    """Two ranks, and who keeps the store of their attempt."""

    def __init__(self) -> None:
        self.context, self.pipes, self.processes = mp.get_context("fork"), list[Connection](), list[BaseProcess]()
        self.agent, self.keeper = self._start(keep)

    def meet(self, work: Work, apart: bool) -> None:
        port = self.agent.recv()
        for rank in range(2):
            pipe, process = self._start(serve, rank, port, work, apart)
            self.pipes.append(pipe)
            self.processes.append(process)
        for rank in range(2):
            assert self.hear(rank) == "met"

    def _start(self, work: Callable[..., None], *about: Any) -> tuple[Connection, BaseProcess]:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=work, args=(theirs, *about))
        process.start()
        return ours, process

    def close(self) -> None:
        for process in [*self.processes, self.keeper]:
            process.kill()
            process.join()

    def hear(self, rank: int) -> Any:
        assert self.pipes[rank].poll(DEADLINE_S), "it never says anything"
        return self.pipes[rank].recv()

    def begin(self, rank: int) -> None:
        self.pipes[rank].send("go")

    def until_it_waits(self, rank: int) -> None:
        assert self.hear(rank) == "waits"

    def answer(self, rank: int) -> Any:
        """What it came to."""
        while (said := self.hear(rank)) == "waits":
            continue
        return said

    def send(self, rank: int, number: signal.Signals) -> None:
        os.kill(self.processes[rank].pid or 0, number)


@pytest.fixture
def two() -> Iterator[Callable[..., Two]]:
    with ExitStack() as made:

        def make(work: Work, apart: bool = False) -> Two:
            ranks = Two()
            made.callback(ranks.close)
            ranks.meet(work, apart)
            return ranks

        yield make


@pytest.mark.parametrize(("work", "apart"), CASES)
def test_gloo_does_not_wake_who_waits(two: Callable[..., Two], work: Work, apart: bool) -> None:
    ranks = two(work, apart)
    ranks.begin(0)
    ranks.until_it_waits(0)
    ranks.send(0, signal.SIGSTOP)
    ranks.begin(1)
    ranks.until_it_waits(1)  # it has sent what the connection takes
    ranks.processes[1].kill()
    ranks.processes[1].join()
    ranks.send(0, signal.SIGCONT)
    for _ in range(3):  # the connection is closed, and yet
        ranks.until_it_waits(0)
    ranks.agent.send(True)
    assert ranks.answer(0) == ("RuntimeError", _patience.GIVEN_UP)
    assert ranks.hear(0) == "left"


@pytest.mark.parametrize(("work", "apart"), CASES)
def test_a_slow_rank_is_waited_for(two: Callable[..., Two], work: Work, apart: bool) -> None:
    ranks = two(work, apart)
    ranks.begin(0)
    for _ in range(3):
        ranks.until_it_waits(0)
    ranks.begin(1)
    assert ranks.answer(0) == ("did", FOUND[work])


def test_who_sees_that_a_rank_is_dead_need_not_be_told(two: Callable[..., Two]) -> None:
    ranks = two(gather)
    ranks.begin(0)
    ranks.until_it_waits(0)
    ranks.processes[1].kill()
    name, _ = ranks.answer(0)
    assert name == "RuntimeError"  # gloo's


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_agent_that_does_not_answer_says_nothing_of_the_ranks(
    two: Callable[..., Two], number: signal.Signals
) -> None:
    ranks = two(gather)
    ranks.begin(0)
    for _ in range(2):  # it has asked once
        ranks.until_it_waits(0)
    os.kill(ranks.keeper.pid or 0, number)
    for _ in range(3):
        ranks.until_it_waits(0)
    ranks.begin(1)
    assert ranks.answer(0) == ("did", [0, 1])


def test_what_goes_wrong_in_a_wait_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        Patience().beside(lambda: 1 // 0, None)
