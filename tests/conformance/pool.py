"""Rank processes that stay alive for many cases: importing torch once instead of once per case.

`Pool.run(n, function, *args)` calls `function(*args)` on n ranks with torchrun's environment variables set, and returns
what each of them returned, in rank order. As under torchrun the ranks find each other in a store that the parent keeps,
a new one for each run: a port that was free a moment ago may be another program's by now.
"""

from __future__ import annotations

import faulthandler
import multiprocessing as mp
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports

from trainkit.launcher._family import follow_parent


class Pool:
    def __init__(self, size: int) -> None:
        self._context = mp.get_context("fork")
        self._workers = [self._start() for _ in range(size)]
        self._store: TCPStore | None = None

    def _start(self) -> tuple[mp.process.BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,))
        process.start()
        theirs.close()
        return process, ours

    def run(self, ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 120) -> list[Any]:
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # and the one before goes
        for rank, (_, pipe) in enumerate(self._workers[:ranks]):
            pipe.send((rank, ranks, self._store.port, function, args))
        pipes = {pipe: rank for rank, (_, pipe) in enumerate(self._workers[:ranks])}
        results: dict[int, Any] = {}
        while len(results) < ranks:
            ready = wait([p for p, r in pipes.items() if r not in results], timeout)
            if not ready:
                self._replace(ranks)
                silent = f"ranks {sorted(set(range(ranks)) - set(results))} gave no answer in {timeout} s"
                raise TimeoutError("\n".join([silent, *_errors(results)]))
            for pipe in ready:
                try:
                    results[pipes[pipe]] = pipe.recv()  # type: ignore[union-attr,index]
                except EOFError:
                    last_words = self._last_words(pipes[pipe])  # type: ignore[index]
                    self._replace(ranks)
                    raise RuntimeError(last_words) from None
        if errors := _errors(results):
            self._replace(ranks)
            raise RuntimeError("\n".join(errors))
        return [results[r][1] for r in range(ranks)]

    def _last_words(self, rank: int) -> str:
        """Why a process is gone, and in which Python code it was, which faulthandler wrote for it."""
        process, _ = self._workers[rank]
        process.join()
        return f"rank {rank} died, exit code {process.exitcode}\n{_traces(process.pid).read_text()}"

    def _replace(self, ranks: int) -> None:
        """After a fault nothing is known about these processes."""
        for i in range(ranks):
            process, pipe = self._workers[i]
            _end(process, pipe)
            self._workers[i] = self._start()

    def close(self) -> None:
        for process, pipe in self._workers:
            _end(process, pipe)


def _end(process: mp.process.BaseProcess, pipe: Connection) -> None:
    process.kill()
    process.join()
    pipe.close()
    _traces(process.pid).unlink(missing_ok=True)


def _traces(pid: int | None) -> Path:
    return Path(tempfile.gettempdir()) / f"trainkit-pool-{pid}.txt"


def _serve(pipe: Connection) -> None:
    follow_parent(signal.SIGKILL)  # nothing outlives the tests
    faulthandler.enable(_traces(os.getpid()).open("w"))
    torch.set_num_threads(1)
    while True:
        rank, ranks, port, function, args = pipe.recv()
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        try:
            pipe.send((True, function(*args)))
        except Exception:
            pipe.send((False, traceback.format_exc()))


def _errors(results: dict[int, Any]) -> list[str]:
    return [f"rank {rank}:\n{text}" for rank, (ok, text) in sorted(results.items()) if not ok]
