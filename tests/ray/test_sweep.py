"""The members of a sweep as tasks of a real Ray cluster."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import events, last_step, summary, trainkit
from tests.e2e.own import recipe_of_ones_own
from tests.ray.cluster import Begin, Cluster, until

WORDS = (
    *("sweep", "recipe=mine", "train.device=cpu", "train.steps=20", "checkpoint.every=5", "tracker=none"),
    *("recovery.raised=0", "recipe.width=8,12", "run.dir=run", "launcher=ray", "launcher.placement=SPREAD"),
)


def two(cluster: Cluster) -> tuple[str, ...]:
    return (f"launcher.address={cluster.address}", "launcher.workers=2")


def statuses(folder: Path) -> list[str]:
    return [row["status"] for row in csv.DictReader((folder / "run/table.csv").open())]


@pytest.mark.slow
def test_members_run_side_by_side_and_only_what_failed_again(cluster: Cluster, tmp_path: Path) -> None:
    """The narrow model fails once."""
    recipe_of_ones_own(tmp_path, fails="self.width == 8")
    (tmp_path / "broken").touch()
    narrow, wide = tmp_path / "run/width=8", tmp_path / "run/width=12"
    first = trainkit(tmp_path, *WORDS, *two(cluster))
    assert first.returncode == 1, first.stdout + first.stderr
    assert "run: 1 failed, 1 done" in first.stdout
    assert "broken in a step (step 11)" in first.stdout.replace("\n", " ")
    assert statuses(tmp_path) == ["failed", "done"]
    begun, ended = ([events(run, kind)[0]["time"] for run in (narrow, wide)] for kind in ("launch", "end"))
    assert max(begun) < min(ended)
    assert "1 rank(s) on cpu" in trainkit(tmp_path, "jobs", "logs", "run/width=12").stdout

    before = (wide / "events.jsonl").read_bytes()
    again = trainkit(tmp_path, *WORDS, *two(cluster))
    assert again.returncode == 0, again.stdout + again.stderr
    assert (wide / "events.jsonl").read_bytes() == before
    assert [event["step"] for event in events(narrow, "start")] == [0, 11]
    rows = again.stdout[again.stdout.index("run: 2 done") :].splitlines()
    assert rows[1].split() == ["eval_loss", "recipe.width", "run", "folder"]
    assert {row.split()[2] for row in rows[2:4]} == {"width=8", "width=12"}


@pytest.mark.slow
@pytest.mark.drill
def test_ctrl_c_saves_those_at_work_and_begins_no_other(cluster: Cluster, begin: Begin, tmp_path: Path) -> None:
    recipe_of_ones_own(tmp_path)
    words = (*WORDS, *two(cluster), "train.seed=1,2", "train.steps=2000")
    sweep = begin(*words)
    runs = [tmp_path / f"run/width=8_seed={seed}" for seed in (1, 2)]
    until(lambda: all(last_step(run) >= 20 for run in runs), "two members train")
    sweep.front.send_signal(signal.SIGINT)
    assert sweep.wait() == 75, sweep.said.read_text()
    assert [summary(run)["status"] for run in runs] == ["stopped"] * 2
    assert "run: 2 stopped, 2 waiting" in sweep.said.read_text()
    assert not [*(tmp_path / "run").glob("**/STOP")]


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.parametrize("kills", ["the node", "the sweep"])
def test_what_is_killed_goes_on_from_its_checkpoint(cluster: Cluster, begin: Begin, kills: str, tmp_path: Path) -> None:
    """A member whose node dies has failed, and ends no other; those whose sweep dies save and leave."""
    recipe_of_ones_own(tmp_path)
    words = (*WORDS, *two(cluster), "train.steps=600")
    sweep, runs = begin(*words), [tmp_path / f"run/width={width}" for width in (8, 12)]
    until(lambda: all(last_step(run) >= 20 for run in runs), "both members train")
    commands = {run: command_of(run) for run in runs}
    if kills == "the node":
        cluster.kill("127.0.0.3")
        assert sweep.wait() == 1, sweep.said.read_text()
        assert "run: 1 killed, 1 done" in sweep.said.read_text() or "run: 1 done, 1 killed" in sweep.said.read_text()
        assert "Ray has lost its task" in (tmp_path / "run/table.csv").read_text()
        cluster.restore()
    else:
        sweep.front.kill()
        sweep.front.wait()
    psutil.wait_procs([process for run in runs for process in commands[run]], 60)
    again = trainkit(tmp_path, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert statuses(tmp_path) == ["done", "done"]
    starts = [[event["step"] for event in events(run, "start")] for run in runs]
    assert max(len(steps) for steps in starts) == 2
    assert all(steps[0] == 0 and steps[-1] >= 20 for steps in starts if len(steps) == 2)


def command_of(run: Path) -> list[psutil.Process]:
    """The command of a member, and what it has started."""
    (front,) = [p for p in psutil.process_iter(["cmdline"]) if f"run.dir={run}" in (p.info["cmdline"] or [])]
    return [front, *front.children(recursive=True)]
