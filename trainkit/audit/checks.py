"""What must hold of a run, whatever was killed in it. Each check reads the run folder alone and says what it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trainkit.audit.journal import Attempt, Journal
from trainkit.checkpoint.manifest import read_manifest, step_folder, steps, verify
from trainkit.data.order import Order
from trainkit.data.plan import Plan
from trainkit.tracker.follower import reason

WORD = {True: "ok", False: "FAULT", None: "not checked"}
SHOWN = 5  # of the numbers in a list
FEW = 2  # attempts at each end of the lineage that are told


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that holds (`ok`), does not, or could not be checked (None)."""

    ok: bool | None
    what: str
    detail: str


def findings(journal: Journal) -> Iterator[Finding]:
    """All that can be said without asking a tracker. Nothing of a run that has not begun to train."""
    yield lineage(journal)
    yield rows(journal)
    yield samples(journal)
    yield saved(journal)


# ---------------------------------------------------------------------------------------------- lineage


def lineage(journal: Journal) -> Finding:
    """Each attempt went on from where one before it had saved, or from the start."""
    wrong: list[str] = []
    before: list[int] = []  # attempts that have trained
    for last, attempt in zip([None, *journal.attempts], journal.attempts, strict=False):
        if last is not None and attempt.number <= last.number:
            wrong.append(f"attempt {attempt.number} follows attempt {last.number}")
        if attempt.started is None:
            continue
        if before and attempt.first > 0 and attempt.source not in before:
            wrong.append(f"attempt {attempt.number} begins at step {attempt.first}, which none before it had saved")
        before.append(attempt.number)
    told = [_told(attempt) for attempt in journal.attempts]
    more = [f"{len(told) - 2 * FEW} more"] if len(told) > 2 * FEW else []
    return _finding("attempts", wrong, ", ".join([*told[:FEW], *more, *told[-FEW:]] if more else told))


def _told(attempt: Attempt) -> str:
    if attempt.started is None:
        return f"{attempt.number} did not start"
    reached = [event["step"] for event in attempt.of("save", "snapshot", "stop", "end", "bad_step")]
    return f"{attempt.number} from step {attempt.first} to {max([attempt.first, *reached])} ({_end(attempt)})"


def _end(attempt: Attempt) -> str:
    for event in reversed(attempt.events):
        if event["event"] == "end":
            return str(event["status"])
        if event["event"] in ("failure", "stop"):
            return {"failure": "failed", "stop": "stopped"}[event["event"]]
    return "lost"


# ------------------------------------------------------------------------------------------------- rows


def rows(journal: Journal) -> Finding:
    """metrics.jsonl has every step once, in order, at the data position that belongs to it."""
    logged = [row["step"] for row in journal.rows if row["step"] > 0]
    wrong = []
    if twice := [step for step, count in Counter(logged).items() if count > 1]:
        wrong.append(f"more than one row of step {_list(twice)}")
    if logged != sorted(logged):
        wrong.append("the rows are out of order")
    last = max(logged, default=0)
    if missing := sorted(due(journal, last) - {*logged}):
        wrong.append(f"no row of step {_list(missing)}")
    plan = plan_of(journal)
    if displaced := [row["step"] for row in journal.rows if row["samples"] != plan.samples_after(row["step"])]:
        wrong.append(f"another data position than its own at step {_list(displaced)}")
    return _finding("metrics.jsonl", wrong, f"steps 1 to {last}: {len(logged)} rows, none missing, none twice")


def due(journal: Journal, last: int) -> set[int]:
    """The steps up to `last` of which there has to be a row: train.log_every may change between attempts."""
    wanted: set[int] = set()
    for start, following in zip(journal.starts, [*journal.starts[1:], None], strict=True):
        stop = last if following is None else min(last, following["step"])
        every = start["log_every"]
        wanted |= {step for step in range(start["step"] + 1, stop + 1) if step % every == 0}
    return wanted


def plan_of(journal: Journal) -> Plan:
    """The steps of the run, as one rank would make them."""
    train, size = journal.config["train"], journal.starts[-1]["train_samples"]
    return Plan(Order(size, train["seed"]), train["global_batch"], None, 0, 1)


# ---------------------------------------------------------------------------------------------- samples


def samples(journal: Journal) -> Finding:
    """The ledger has, of every step, the samples that are due in it, each of them once: so every epoch that is over has
    every sample exactly once. What was skipped because it was bad is the one exception, and is said."""
    if not journal.ledger:
        return Finding(None, "samples", "there is no ledger; data.ledger=true writes one")
    plan, first = plan_of(journal), journal.starts[0]["step"]  # above 0 where a checkpoint was brought along
    last, wrong = max((row["step"] for row in journal.rows), default=0), []
    if missing := sorted({*range(first + 1, last + 1)} - journal.ledger.keys()):
        wrong.append(f"nothing about step {_list(missing)}")
    other = [step for step in sorted(journal.ledger) if step <= last and _ids(journal, step) != _due_ids(plan, step)]
    if other:
        wrong.append(f"other samples than are due in step {_list(other)}")
    left_out = sum(len(row["ids"]) for of in journal.ledger.values() for row in of if row.get("skipped"))
    epochs = plan.samples_after(last) / plan.order.size
    exception = f", of which {left_out} were skipped as bad" if left_out else ""
    return _finding("samples", wrong, f"{plan.samples_after(last)} in {epochs:.2f} epochs, each once{exception}")


def _ids(journal: Journal, step: int) -> list[int]:
    return sorted(i for row in journal.ledger[step] for i in row["ids"])


def _due_ids(plan: Plan, step: int) -> list[int]:
    return sorted(plan.order.ids(plan.samples_after(step - 1), plan.samples_after(step)).tolist())


# ------------------------------------------------------------------------------------------ checkpoints


def saved(journal: Journal) -> Finding:
    """Every checkpoint is what was written, and a run that is done has one of its last step."""
    there, good = steps(journal.checkpoints), []
    wrong = []
    for step in there:
        if problems := verify(step_folder(journal.checkpoints, step)):
            wrong.append(f"step {step} is damaged: {'; '.join(problems)}")
        else:
            good.append(step)
    last = max((row["step"] for row in journal.rows), default=0)
    done = journal.events[-1].get("status") == "done"
    if done and last not in there:
        wrong.append(f"the run is done, and its last step {last} is not saved")
    count = sum(len(read_manifest(step_folder(journal.checkpoints, step))["files"]) for step in good)
    return _finding("checkpoints", wrong, f"step {_list(there)}: {count} files read, all checksums right")


# ---------------------------------------------------------------------------------------------- tracker


def tracked(journal: Journal, held: Callable[[], Sequence[int] | None]) -> Finding:
    """The tracker holds every row of metrics.jsonl once; `held` asks it."""
    try:
        there = held()
    except Exception as error:  # whatever a tracker raises means the same here: it cannot be asked
        return Finding(None, "tracker", f"cannot be asked: {reason(error)}")
    if there is None:
        return Finding(None, "tracker", "nothing is tracked (tracker=none)")
    wanted, wrong = [row["step"] for row in journal.rows], []
    if missing := sorted({*wanted} - {*there}):
        wrong.append(f"lacks step {_list(missing)}; `python -m trainkit mlflow sync {journal.folder.root}` sends it")
    if twice := [step for step, count in Counter(there).items() if count > 1]:
        wrong.append(f"has step {_list(sorted(twice))} more than once")
    return _finding("tracker", wrong, f"holds {len(there)} rows, none missing, none twice")


def _finding(what: str, wrong: Sequence[str], right: str) -> Finding:
    return Finding(not wrong, what, "; ".join(wrong) if wrong else right)


def _list(numbers: Sequence[int]) -> str:
    """1, 2, 3, 4, 5 and 20 more."""
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return ", ".join(map(str, numbers[:SHOWN])) + more if numbers else "none"
