"""Where the ranks of a run are, drawn from its folder: those that hold the others up first."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainkit.board import Standing, read
from trainkit.console.events import TOLD, describe
from trainkit.console.units import duration, quantity
from trainkit.runfolder import RunFolder, last_line, read_lines
from trainkit.system import busy, gpus

QUIET_S = 15.0  # the agent writes every 2 s
LAST, RECENT = 5, 20
AROUND = 8 + LAST  # lines that are no rank's
LEAST, MACHINES = 3, 4


def view(folder: RunFolder, state: str, height: int) -> Group:
    """As many ranks as fit into `height` lines."""
    events, rows = [*read_lines(folder.events)], [*read_lines(folder.metrics)]
    at, attempt, ranks = read(folder)
    machines = [*_machines(last_line(folder.system), {rank.host for rank in ranks})]
    told = [event for event in events if event["event"] in TOLD][-LAST:]
    slow = {e["rank"]: e for e in _since_start(events) if e["event"] == "straggler"}
    return Group(
        Text(f"{folder.root}: {state}", style="bold", no_wrap=True, overflow="ellipsis"),
        *(Text(line, no_wrap=True, overflow="ellipsis") for line in _head(events, rows, attempt, at)),
        _table(ranks, slow, max(0.0, time.time() - at), max(LEAST, height - AROUND - len(machines))),
        *(Text(line, no_wrap=True, overflow="ellipsis") for line in machines),
        *(Text(describe(event), style="dim", no_wrap=True, overflow="ellipsis") for event in told),
    )


def _since_start(events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Those of the newest attempt that trains."""
    starts = [number for number, event in enumerate(events) if event["event"] == "start"]
    return events[starts[-1] :] if starts else []


def _head(events: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], attempt: int, at: float) -> Iterator[str]:
    steps = [row for row in rows if "loss" in row][-RECENT:]
    total = next((f"/{event['total_steps']}" for event in reversed(events) if event["event"] == "start"), "")
    if steps:
        last = steps[-1]
        wait = statistics.fmean(row.get("data_wait", 0.0) for row in steps)
        yield (
            f"step {last['step']}{total}  loss {last['loss']:.4f}  {quantity(last['tokens_per_second'])} tok/s  "
            f"rank 0: {last['memory_mb'] / 1024:.1f} GiB, waits {wait:.3g} s for data"
        )
    heard = time.time() - at
    if at and heard > QUIET_S:
        yield f"attempt {attempt}; its ranks were heard of {duration(heard)} ago"
    else:
        yield f"attempt {attempt}" if at else "nothing was heard of its ranks yet"


def _table(ranks: Sequence[Standing], slow: dict[int, dict[str, Any]], since: float, fit: int) -> Table:
    gpus = any(rank.gpu is not None for rank in ranks)
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("rank", "host", "step", "doing", "for", "s/step", "waits", "memory", *(["GPU"] if gpus else []), ""):
        table.add_column(name, justify="left" if name in ("host", "doing", "") else "right")
    ahead = max((rank.step for rank in ranks), default=0)
    shown = ranks
    if len(ranks) > fit:
        shown = sorted(ranks, key=lambda rank: (rank.rank not in slow, rank.step, -rank.age))[: fit - 1]
    for rank in shown:
        held = (rank.memory, rank.gpu) if gpus else (rank.memory,)
        table.add_row(
            *(str(rank.rank), rank.host, str(rank.step), rank.section, duration(rank.age + since)),
            *("" if seconds is None else f"{seconds:.3g}" for seconds in (rank.pace, rank.wait)),
            *("" if count is None else f"{count / 2**30:.1f} GiB" for count in held),
            Text(_remark(rank, slow.get(rank.rank), ahead), style="yellow"),
        )
    if len(shown) < len(ranks):
        table.add_row("...", f"{len(ranks) - len(shown)} more")
    return table


def _machines(sample: Mapping[str, Any] | None, hosts: Collection[str]) -> Iterator[str]:
    """How busy each of `hosts` is; of many, those that are the least."""
    loads = {host: load for host, load in (sample["machines"] if sample else {}).items() if host in hosts}
    idle = sorted(loads.items(), key=lambda machine: busy(machine[1]))
    age = time.time() - sample["time"] if sample else 0.0
    when = f"  ({duration(age)} ago)" if age > QUIET_S else ""
    for host, load in idle[:MACHINES]:
        cards = f"GPU {' '.join(f'{value:.0f}%' for value in gpus(load))}  " if gpus(load) else ""
        used = f"CPU {load['cpu_utilization_percentage']:.0f}%  memory {load['system_memory_usage_percentage']:.0f}%"
        came, went = (load[f"network_{way}_megabytes_per_second"] for way in ("receive", "transmit"))
        yield f"{host}: {cards}{used}  network {came:.3g} in, {went:.3g} out MiB/s{when}"
    if len(idle) > MACHINES:
        yield f"... {len(idle) - MACHINES} more machines, which are busier"


def _remark(rank: Standing, slow: dict[str, Any] | None, ahead: int) -> str:
    if slow is not None:
        does = "slow" if slow["what"] == "compute" else "waits for data"
        return f"{does}: {slow['seconds']:.3g} s, the others {slow['usual']:.3g} s"
    return f"{ahead - rank.step} steps behind" if rank.step < ahead - 1 else ""
