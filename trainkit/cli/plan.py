"""plan recipe=NAME [key=value ...] cluster=COUNTxKIND: which strategies fit a machine, and how fast each would be.

Every strategy, with usual sizes of its axes: memory of a rank by kind, bytes that it sends per step, time of a step and
MFU, or why it does not do; then the best three and the command for the first. No GPU is needed, and nothing is started.
docs/plan.md has the formulas.

The word `cluster` belongs to this command: a run takes the machine as it finds it, and refuses the word. Where nothing
fits, the table says how much is lacking, and the exit code is 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainkit.cli.terminal import say, show_rows, show_table, title
from trainkit.cli.words import split
from trainkit.config.compose import no_recipe
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.settings import Recovery

DETAILS = {
    "options": {
        "cluster=8xh100": "the machine: a100, h100, h200, cpu, and your own conf/cluster/NAME.yaml; here is this one",
        "--calibrate": "measure this machine first, as cluster=here; alone: measure it only",
        "--mtbf-hours H": "hours between two failures of a node: the share of time that is not lost to them",
        "--nodes N": "on so many nodes (by default those of the cluster)",
        "--save-s S": "seconds that training stands still for a checkpoint (default 30)",
        "--restart-s S": "seconds from a failure to the next step (default 300)",
    }
}
NUMBERS = {"--mtbf-hours": 0.0, "--nodes": 0.0, "--save-s": 30.0, "--restart-s": 300.0}


def main(words: Sequence[str]) -> int:
    calibrate, options, words = _options(words)
    if calibrate:
        from trainkit.plan.calibrate import calibrated

        title("this machine, as cluster=here")
        show_rows(calibrated())
        if not words:
            return EXIT_DONE
        say("")
    named = [word for word in words if word.startswith("cluster=")]
    words = [word for word in words if word not in named]
    if not any(word.startswith("recipe=") for word in words):
        raise ConfigError([no_recipe()])

    from trainkit.plan.machine import HERE, site
    from trainkit.plan.plan import plan, settled, unfit
    from trainkit.plan.table import HEADER, best, cells, head

    if not named and not calibrate:
        raise ConfigError([Problem("cluster", None, "no machine is named", "for example cluster=8xh100")])
    where = site(named[-1].partition("=")[2] if named else HERE)
    rows = plan(words, where)
    title(head(where))
    show_table(HEADER, cells(rows))
    say("")
    if all(row.verdict != "fits" for row in rows):
        raise ConfigError([unfit(rows, where)])
    for line in best(words, rows, where):
        say(line)
    if options["--mtbf-hours"]:
        say("")
        title(f"with a failure of each node every {options['--mtbf-hours']:,g} hours")
        show_rows(_goodput(options, where.hosts, settled(words, where).recovery))
    return EXIT_DONE


def _options(words: Sequence[str]) -> tuple[bool, dict[str, float], list[str]]:
    """Whether to calibrate, the numbers, and the other words. Raises ConfigError."""
    rest, given, problems = split(words, dict.fromkeys(NUMBERS), ["--calibrate"])
    options = dict(NUMBERS)
    for name in (name for name in NUMBERS if given.get(name)):
        try:
            options[name] = float(given[name])
        except ValueError:
            options[name] = -1.0
        if not 0 < options[name] < float("inf"):
            problems.append(Problem(name, given[name], "is no number above 0"))
    if problems:
        raise ConfigError(problems)
    return "--calibrate" in given, options, rest


def _goodput(options: dict[str, float], hosts: int, policy: Recovery) -> Iterator[tuple[str, str]]:
    from trainkit.checkpoint.cadence import daly
    from trainkit.plan.goodput import Faults, closed, simulated

    nodes = round(options["--nodes"] or hosts)
    mtbf = 3600 * options["--mtbf-hours"] / nodes
    save, restart = options["--save-s"], options["--restart-s"]
    faults = Faults(mtbf=mtbf, save=save, restart=restart, interval=daly(save, mtbf))
    found = simulated(faults, policy)
    yield "nodes", f"{nodes:,}, so a failure every {mtbf / 3600:.3g} hours"
    yield "checkpoint", f"every {faults.interval / 60:.3g} minutes of training (Young/Daly), for {save:g} s each"
    yield "goodput", f"{100 * found.goodput:.1f}% of the time trains ({100 * closed(faults):.1f}% by the closed form)"
    lost = {"checkpoints": found.saving, "steps made again": found.lost, "restarts": found.restarting}
    yield "the rest", ", ".join(f"{name} {100 * share:.1f}%" for name, share in lost.items())
    if found.gave_up:
        yield "but", f"the run gave up: {found.gave_up}"
