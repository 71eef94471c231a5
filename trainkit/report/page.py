"""The page about runs: one HTML file that names no other, has no script, and reads on a phone and on paper."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import yaml

from trainkit import __version__
from trainkit.audit.checks import WORD, Finding
from trainkit.audit.goodput import goodput, lines, over_time
from trainkit.audit.journal import Journal, Row
from trainkit.console import TOLD, describe
from trainkit.report.differences import environment, keys, versions
from trainkit.report.facts import facts_of
from trainkit.report.svg import Chart, Point
from trainkit.report.timeline import timeline
from trainkit.runfolder import read_lines
from trainkit.secrets import hidden
from trainkit.system import Load, busy, gpus

MOST = 8  # runs on a page: so many colours can be told apart
NOTHING = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the page may load: the browser holds it to that."""

EVENTS = 200  # the newest of them
SYSTEM: Mapping[str, Callable[[Load], float | None]] = {
    "processors, % busy": lambda load: load.get("cpu_utilization_percentage"),
    "GPUs, % busy": lambda load: busy(load) if gpus(load) else None,
    "host memory, % used": lambda load: load.get("system_memory_usage_percentage"),
    "received over the network, MiB/s": lambda load: load.get("network_receive_megabytes_per_second"),
}
"""What is drawn of how busy the machines were: the mean of all."""


def page(journals: Sequence[Journal], audits: Sequence[Sequence[Finding]]) -> str:
    """About all of them, with what the audit of each has found."""
    names = [journal.folder.root.name for journal in journals]
    title = escape(", ".join(names))
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{NOTHING}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # or a browser asks the server for one
        f"<title>{title}</title><style>{Path(__file__).with_name('style.css').read_text()}</style>"
    )
    made = f"trainkit {__version__}, {time.strftime('%Y-%m-%d %H:%M')}"
    parts = [f"<h1>{title}</h1><small>{made}</small>", *_sections(journals, audits)]
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _sections(journals: Sequence[Journal], audits: Sequence[Sequence[Finding]]) -> Iterator[str]:
    several = len(journals) > 1
    yield _overview(journals, audits)
    if several:
        yield "<h2>What differs</h2>"
        yield _compared(journals, [*keys(journals), *versions(journals)])
    yield "<h2>Curves</h2>" + _grid(curves(journals))
    yield "<h2>Over time</h2>" + _grid(times(journals))
    yield "<h2>What happened</h2>"
    for journal in journals:
        yield _heading(journal, several) + f'<div class="scroll">{timeline(journal)}</div>' + _events(journal)
    yield "<h2>Where the time went</h2>" + _goodput(journals)
    yield "<h2>Audit</h2>"
    for journal, found in zip(journals, audits, strict=True):
        yield _heading(journal, several) + _audit(found)
    yield "<h2>Environment</h2>"
    facts = [environment(journal) for journal in journals]
    yield _compared(journals, [(n, [f.get(n) for f in facts]) for n in dict.fromkeys(n for f in facts for n in f)])
    yield "<h2>Configuration</h2>"
    for journal in journals:
        text, where = yaml.safe_dump(hidden(journal.config), sort_keys=False), str(journal.folder.config)
        yield f"<details open><summary>{escape(where)}</summary><pre>{escape(text)}</pre></details>"


def _heading(journal: Journal, several: bool) -> str:
    return f"<h3>{escape(str(journal.folder.root))}</h3>" if several else ""


# ------------------------------------------------------------------------------------------- overview


def _overview(journals: Sequence[Journal], audits: Sequence[Sequence[Finding]]) -> str:
    facts = [facts_of(journal) for journal in journals]
    for of_run, found in zip(facts, audits, strict=True):
        of_run["audit"] = "FAULT, see below" if any(f.ok is False for f in found) else "nothing wrong"
    names = dict.fromkeys(name for of_run in facts for name in of_run)
    return _compared(journals, [(name, [of_run.get(name) for of_run in facts]) for name in names])


def _compared(journals: Sequence[Journal], rows: Sequence[tuple[str, Sequence[str | None]]]) -> str:
    """A column for each run, headed by its colour."""
    if not rows:
        return '<p class="dim">nothing</p>'
    runs = "".join(f'<th><b class="r{n}">{escape(j.folder.root.name)}</b></th>' for n, j in enumerate(journals))
    body = "".join(f"<tr><th>{escape(name)}</th>{_cells(values)}</tr>" for name, values in rows)
    return f'<div class="scroll"><table><tr><th></th>{runs}</tr>{body}</table></div>'


def _cells(values: Sequence[str | None]) -> str:
    return "".join(f"<td>{'' if value is None else escape(value)}</td>" for value in values)


# --------------------------------------------------------------------------------------------- curves


def curves(journals: Sequence[Journal]) -> Iterator[Chart]:
    """What was learnt, by step."""
    looked = dict.fromkeys(n for j in journals for row in j.rows for n in row if n.startswith("eval_"))
    names = {"loss": "loss"} | {name: name.replace("eval_", "held-out ") for name in looked}
    names |= {"lr": "learning rate", "grad_norm": "gradient norm"}
    marks = [
        (float(attempt.first), f"attempt {attempt.number} of {journal.folder.root.name}, from step {attempt.first}")
        for journal in journals
        for attempt in journal.attempts[1:]
        if attempt.started is not None
    ]
    for key, title in names.items():
        yield Chart(title, "step", [_points(journal, key, lambda row: row["step"]) for journal in journals], marks)


def times(journals: Sequence[Journal]) -> Iterator[Chart]:
    """How fast, by the time since the first launch."""
    whole = max([goodput(journal).wall for journal in journals], default=0.0)
    unit, size = ("hours", 3600.0) if whole > 7200 else ("minutes", 60.0) if whole > 120 else ("seconds", 1.0)

    def since(journal: Journal) -> Callable[[Row], float]:
        return lambda row: (row["time"] - journal.attempts[0].launched) / size

    marks = [
        ((attempt.launched - journal.attempts[0].launched) / size, f"attempt {attempt.number} is launched")
        for journal in journals
        for attempt in journal.attempts[1:]
    ]
    launched = [journal if journal.attempts else None for journal in journals]
    for key, title in {
        "tokens_per_second": "tokens per second",
        "memory_mb": "peak memory of rank 0, MiB",
        "data_wait": "waiting for data, s per row",
    }.items():
        yield Chart(title, unit, [_points(j, key, since(j)) if j else [] for j in launched], marks, zero=True)
    loads = [_loads(journal, size) if journal else {} for journal in launched]
    for title in SYSTEM:
        yield Chart(title, unit, [of_run.get(title, []) for of_run in loads], marks, zero=True)
    shares = [[(at / size, share) for at, share in over_time(journal)] for journal in journals]
    yield Chart("goodput so far", unit, shares, marks, zero=True)


def _points(journal: Journal, key: str, at: Callable[[Row], float]) -> list[Point]:
    return [(at(row), row[key]) for row in journal.rows if key in row]


def _loads(journal: Journal, size: float) -> Mapping[str, list[Point]]:
    """What SYSTEM says, each the mean over the machines. The journal may be long: it is read once."""
    points: dict[str, list[Point]] = {title: [] for title in SYSTEM}
    for sample in read_lines(journal.folder.system):
        at = (sample["time"] - journal.attempts[0].launched) / size
        for title, read in SYSTEM.items():
            if found := [value for load in sample["machines"].values() if (value := read(load)) is not None]:
                points[title].append((at, statistics.fmean(found)))
    return points


def _grid(charts: Iterator[Chart]) -> str:
    drawn = "".join(chart.draw() for chart in charts)
    return f'<div class="charts">{drawn}</div>' if drawn else '<p class="dim">nothing was logged</p>'


# ------------------------------------------------------------------------------ events, time and audit


def _events(journal: Journal) -> str:
    happened = [event for event in journal.events if event["event"] in TOLD][-EVENTS:]
    listed = escape("\n".join(describe(event) for event in happened))
    return f"<details><summary>events ({len(happened)})</summary><pre>{listed}</pre></details>"


def _goodput(journals: Sequence[Journal]) -> str:
    parts = [goodput(journal) for journal in journals]
    told = [
        [f"{seconds:.1f} s ({seconds / of_run.wall:.1%})" if of_run.wall else None for _, seconds in lines(of_run)]
        for of_run in parts
    ]
    names = [name for name, _ in lines(parts[0])]
    return _compared(journals, [(name, [column[n] for column in told]) for n, name in enumerate(names)])


def _audit(found: Sequence[Finding]) -> str:
    if not found:
        return '<p class="dim">training has not begun: nothing to check</p>'
    kinds = {True: "ok", False: "fault", None: "dim"}
    rows = "".join(
        f'<tr><th>{escape(f.what)}</th><td class="{kinds[f.ok]}">{WORD[f.ok]}</td><td>{escape(f.detail)}</td></tr>'
        for f in found
    )
    return f'<div class="scroll"><table>{rows}</table></div>'
