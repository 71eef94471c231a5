"""The front from the command to the closing table. The ranks are a script here: what it does to the folder and how it
ends is what the front has to go by."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.settings import make
from tests.unit.console.runs import start, trained
from trainkit import front
from trainkit.errors import ConfigError, Problem
from trainkit.protocols import Cluster, RunInfo, Strategy
from trainkit.resilience import failure
from trainkit.resilience.lock import RunLock
from trainkit.runfolder import RunFolder, read_lines

CLUSTER = Cluster(hosts=1, ranks=2, gpus=0, cores=2)
Act = Callable[[RunFolder, int], object]


@dataclass
class Script:
    """A launcher whose job does one of `acts` at every poll, then ends with `code`, or with the code of what is asked
    of it."""

    acts: list[Act]
    code: int = 0
    asked: list[str] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    ranks: int = 2

    def cluster(self, strategy: Strategy) -> Cluster:
        return CLUSTER

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        return ()

    def start(self, run: Path, cluster: Cluster, attempt: int) -> Script:
        RunFolder(run).logs(attempt).mkdir(parents=True)
        self.started.append(attempt)
        self._folder = RunFolder(run)
        return self

    def poll(self) -> int | None:
        if not self.acts:
            return {"kill": -9, "stop": 75}[self.asked[-1]] if self.asked else self.code
        self.acts.pop(0)(self._folder, self.started[-1])
        return None

    def stop(self) -> None:
        self.asked.append("stop")

    def kill(self) -> None:
        self.asked.append("kill")


@dataclass
class Closed:
    """A tracker that notes how the run was closed."""

    status: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def problems(self) -> Sequence[Problem]:
        return ()

    def open(self, info: RunInfo) -> Closed:
        return self

    def log(self, rows: Sequence[Any]) -> None:
        self.steps += [row["step"] for row in rows]

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        pass

    def measure(self, samples: Sequence[Mapping[str, Any]]) -> None:
        pass

    def artifact(self, name: str, text: str) -> None:
        pass

    def close(self, status: str) -> None:
        self.status.append(status)

    def abandon(self) -> None:
        pass

    def where(self) -> str:
        return "here"


def trains(steps: int) -> Act:
    def act(folder: RunFolder, attempt: int) -> None:
        start(folder, total=steps, attempt=attempt)
        for step in range(1, steps + 1):
            trained(folder, step)

    return act


def sends(number: signal.Signals) -> Act:
    return lambda folder, attempt: os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The front is the whole process otherwise, and keeps the signals to itself."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def run(root: Path, script: Script, tracker: Closed | None = None, steps: int = 3) -> int:
    made = make(str(root), steps=steps)
    settings = replace(made, launcher=script, tracker=tracker or made.tracker)
    config = {"train": {"steps": steps, "epochs": None}, "recipe": {"max_tokens": 512}}
    return front.run(config, settings, CLUSTER, ["recipe=decoder", f"run.dir={root}", "recipe.prompt=a b"])


def summary(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "summary.json").read_text())
    return content


@pytest.mark.parametrize(
    ("code", "leaves", "status", "told"),
    [
        (0, 0, "done", "FINISHED"),
        (75, 75, "stopped", "KILLED"),
        (2, 2, "refused", "FAILED"),
        (1, 1, "failed", "FAILED"),
        (-9, 1, "killed", "KILLED"),
    ],
)
def test_how_the_ranks_ended_is_told_everywhere(
    code: int, leaves: int, status: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, tracker = tmp_path / "run", Closed()
    assert run(root, Script([trains(3)], code), tracker) == leaves
    assert (tracker.status, tracker.steps) == ([told], [1, 2, 3])
    assert (summary(root)["status"], summary(root)["step"], summary(root)["unsent_rows"]) == (status, 3, 0)
    (end,) = [event for event in read_lines(root / "events.jsonl") if event["event"] == "end"]
    assert (end["status"], end["exit_code"], end["step"]) == (status, code, 3)
    said = " ".join(capsys.readouterr().out.split())
    assert f"run: {status}" in said
    if code != 0:
        assert "python -m trainkit recipe=decoder 'recipe.prompt=a b'" in said


def test_a_run_that_is_done_is_not_started_again_but_a_longer_one_is(tmp_path: Path) -> None:
    script = Script([trains(3)])
    assert run(tmp_path, script) == 0
    assert run(tmp_path, script) == 0
    assert script.started == [1]
    assert run(tmp_path, Script([trains(5)]), steps=5) == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["train"]["steps"] == 5
    assert (summary(tmp_path)["step"], summary(tmp_path)["attempts"]) == (5, 2)


def test_a_longer_run_that_was_cut_off_is_not_taken_for_done(tmp_path: Path) -> None:
    """The front was killed with it: nothing tells how it ended."""

    def power_cut(folder: RunFolder, attempt: int) -> None:
        raise KeyboardInterrupt

    assert run(tmp_path, Script([trains(3)])) == 0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Script([power_cut]), steps=5)
    again = Script([trains(5)])
    assert run(tmp_path, again, steps=5) == 0
    assert again.started == [3]


def test_a_second_command_in_the_folder_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for lock in (folder.command_lock, folder.ranks_lock):  # the command itself, or ranks that have lost theirs
        script = Script([trains(3)])
        with RunLock(lock, folder.root), pytest.raises(ConfigError, match="another command is at work in this folder"):
            run(folder.root, script)
        assert script.started == []
        assert [path.name for path in folder.root.iterdir()] == ["logs"]
    assert run(folder.root, Script([trains(3)])) == 0


def test_a_failure_that_was_recovered_from_does_not_explain_a_later_one(tmp_path: Path) -> None:
    def fails(folder: RunFolder, attempt: int) -> None:
        folder.event("failure", attempt=attempt, **failure.event("rank 1 was killed", 1), log="log")
        folder.logs(attempt + 1).mkdir()

    assert run(tmp_path, Script([trains(1), fails], -9)) == 1
    told = [event for event in read_lines(tmp_path / "events.jsonl") if event["event"] == "failure"]
    assert [(event["attempt"], event["message"]) for event in told] == [
        (1, "rank 1 was killed"),
        (2, "the process that starts the ranks was killed by SIGKILL"),
    ]


def test_a_row_that_a_full_disk_cut_off_spoils_no_later_attempt(tmp_path: Path) -> None:
    assert run(tmp_path, Script([trains(2)], 1)) == 1
    with (tmp_path / "events.jsonl").open("a") as f:
        f.write('{"event":"save","st')
    assert run(tmp_path, Script([trains(3)])) == 0
    assert summary(tmp_path)["attempts"] == 2


def test_the_first_signal_asks_the_second_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, tracker = Script([sends(signal.SIGINT), trains(1)]), Closed()
    assert run(tmp_path / "one", script, tracker) == 75
    assert (script.asked, tracker.status) == (["stop"], ["KILLED"])
    assert "stopping: saving a checkpoint" in capsys.readouterr().out
    script = Script([sends(signal.SIGUSR1), sends(signal.SIGTERM), trains(1)])
    assert run(tmp_path / "scheduler", script) == 75
    assert script.asked == ["stop", "stop"]
    script, tracker = Script([sends(signal.SIGTERM), sends(signal.SIGHUP), sends(signal.SIGINT), trains(1)]), Closed()
    assert run(tmp_path / "two", script, tracker) == 1
    assert (script.asked, tracker.status) == (["stop", "kill"], ["KILLED"])
    assert "ending at once" in capsys.readouterr().out


def test_a_run_whose_tracker_is_down_ends_as_it_would_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down(Closed):
        def open(self, info: RunInfo) -> Closed:
            raise ConnectionError("[Errno 111] refused")

    monkeypatch.setattr("trainkit.tracker.follower.INTERVAL_S", 0.02)
    wait: list[Act] = [lambda folder, attempt: None] * 3
    assert run(tmp_path, Script([trains(3), *wait]), Down()) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the tracker cannot be reached (ConnectionError: [Errno 111] refused); training goes on" in said
    assert "3 rows and the end of it" in said
    assert (summary(tmp_path)["unsent_rows"], summary(tmp_path)["status"]) == (3, "done")


# ------------------------------------------------------------------------------------- for the tracker


def test_what_a_tracker_is_told_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make(str(tmp_path / "mine"))
    info = front.info(RunFolder(tmp_path / "mine"), settings, CLUSTER, 2, {"name": "decoder", "train": {"steps": 3}})
    assert (info.name, info.params) == ("decoder mine", {"name": "decoder", "train.steps": "3"})
    expected = {"trainkit.attempt": "2", "ranks": "2", "strategy": "local", "launcher": "local"}
    assert expected.items() <= info.tags.items()
    assert "git_commit" not in info.tags  # there is no repository here


@pytest.mark.parametrize("words", [["recipe=x", "run.dir=old", "a.b='c d'"], ["recipe=x", "a.b='c d'"]])
def test_the_next_command_goes_on_in_this_folder(words: list[str], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a b")
    what, said = front.following(folder, {"status": "stopped"}, words)
    assert what == "go on"
    assert said == f"""python -m trainkit recipe=x 'a.b='"'"'c d'"'"'' 'run.dir={folder.root}'"""
