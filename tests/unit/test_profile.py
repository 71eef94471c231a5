"""A profile in this process, and what its trace is said to mean."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_trainer import Line, Zeros, logged, trainer
from trainkit import main
from trainkit.errors import ConfigError
from trainkit.profile.order import Order, trace
from trainkit.profile.trace import PHASES, Trace, mark
from trainkit.profile.trainer import ProfiledTrainer
from trainkit.protocols import Batch, Data
from trainkit.runfolder import RunFolder
from trainkit.trainer import Trainer


def event(name: str, ts: float, dur: float, cat: str = "cpu_op", tid: int = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "name": name, "ts": ts, "dur": dur, "cat": cat, "tid": tid, "args": {"External id": 0} | args}


def step(number: int, *parts: dict[str, Any]) -> list[dict[str, Any]]:
    """One of 100 microseconds, with its data, forward and backward, and optimizer marked."""
    at = 100.0 * number
    marks = {"data": (0, 10), "forward": (10, 60), "optimizer": (70, 20)}
    found = [event(mark(name), at + begin, dur, "user_annotation") for name, (begin, dur) in marks.items()]
    moved = [part | {"ts": part["ts"] + at} for part in parts]
    return [event(f"ProfilerStep#{number}", at, 100, "user_annotation"), *found, *moved]


BACKWARD = [
    event("autograd::engine::evaluate_function: MmBackward0", 40, 10),
    event("aten::mm", 41, 8),
    event("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", 52, 3),
]


def shares(*events: dict[str, Any]) -> dict[str, int]:
    """In percent, without what has none."""
    found = Trace([*step(3, *events), *step(4, *events)]).shares()
    assert [*found] == [*PHASES] and sum(found.values()) == pytest.approx(1)
    return {phase: round(100 * share) for phase, share in found.items() if share > 1e-9}


def test_a_moment_belongs_to_the_part_that_python_is_in() -> None:
    assert shares() == {"data": 10, "forward": 60, "optimizer": 20, "other": 10}


def test_backward_is_what_autograd_calls_from_its_first_on() -> None:
    assert shares(*BACKWARD) == {"data": 10, "forward": 30, "backward": 30, "optimizer": 20, "other": 10}
    again = event("aten::mm", 50, 2)  # another micro-batch
    assert shares(*BACKWARD, again)["backward"] == 28


def test_only_communication_that_computing_does_not_hide_counts() -> None:
    flight = event("gloo:all_reduce", 41, 24, "user_annotation", tid=2)
    found = shares(*BACKWARD, flight)
    assert found["communication"] == 16  # 24 without the 8 of mm
    late = shares(event("c10d::allreduce_", 92, 5))
    assert late == {"data": 10, "forward": 60, "communication": 5, "optimizer": 20, "other": 5}


def test_with_a_gpu_what_it_computes_counts_for_what_started_it() -> None:
    """Its work comes later than the words of the processor that start it; while it has none, the processor's count."""
    gpu = [
        event("cudaLaunchKernel", 12, 1, "cuda_runtime", correlation=1),
        event("gemm", 20, 20, "kernel", tid=7, correlation=1, **{"External id": 5}),
        event("aten::mm", 11, 3, **{"External id": 5}),
        *BACKWARD,
        event("cudaLaunchKernel", 42, 1, "cuda_runtime", correlation=2),
        event("gemm_backward", 45, 35, "kernel", tid=7, correlation=2, **{"External id": 6}),
        event("ncclDevKernel_AllReduce", 75, 15, "kernel", tid=8, correlation=3, **{"External id": 7}),
    ]
    assert shares(*gpu) == {
        "data": 10,
        "forward": 30,  # 10 to 40
        "backward": 40,  # 40 to 80: into the optimizer's time
        "communication": 10,
        "other": 10,
    }
    operations = Trace([*step(3, *gpu)]).operations()
    assert [(o.name, round(o.seconds * 1e6)) for o in operations] == [
        ("gemm_backward", 35),
        ("aten::mm", 20),
        ("ncclDevKernel_AllReduce", 15),
    ]


def test_an_operation_costs_what_those_that_it_calls_do_not() -> None:
    calls = [event("aten::linear", 0, 10), event("aten::addmm", 1, 8), event("aten::addmm", 20, 5)]
    found = Trace([*step(3, *calls)]).operations()
    assert [(o.name, o.calls, round(o.seconds * 1e6)) for o in found] == [
        ("aten::addmm", 2, 13),
        ("aten::linear", 1, 2),
    ]


class Late(Zeros):
    """Samples that take longer than everything else."""

    def fetch(self, ids: Sequence[int]) -> Batch:
        time.sleep(0.01)
        return super().fetch(ids)


@dataclass(frozen=True, kw_only=True)
class Waiting(Line):
    def build_data(self) -> Data:
        return Data(Late(40), Late(3))


def profiled(folder: RunFolder, task: Line, **keys: Any) -> ProfiledTrainer:
    t = trainer(folder.root, task, **keys)
    return ProfiledTrainer(t.settings, t.engine, t.world, t.data, t.store, folder, t.lifeline)


def test_only_a_run_that_is_ordered_so_is_profiled(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert main.loop(folder) is Trainer
    Order(warmup=3, steps=2, every_rank=False).write(folder)
    assert main.loop(folder) is ProfiledTrainer


def test_a_few_steps_are_recorded_and_nothing_else_is_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    Order(warmup=2, steps=3, every_rank=False).write(folder)
    assert profiled(folder, Waiting(), steps=100).fit() == "done"
    assert logged(tmp_path) == [1, 2, 3, 4, 5]
    assert logged(tmp_path, "eval_loss") == [] and not folder.model.exists()
    assert not [*tmp_path.glob("checkpoints/step_*")]
    found = Trace.read(trace(folder, 0))
    assert len(found.steps) == 3
    share = found.shares()
    assert share["data"] > 0.5 and share["forward"] > 0 and share["backward"] > 0 and share["optimizer"] > 0
    assert share["communication"] == 0
    names = {operation.name for operation in found.operations()}
    assert "aten::addmm" in names or "aten::mm" in names
    assert json.loads(trace(folder, 0).read_text())["traceEvents"]  # what a browser shows


def test_a_run_that_is_shorter_is_recorded_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    Order(warmup=2, steps=5, every_rank=False).write(folder)
    assert profiled(folder, Line(), steps=3).fit() == "done"
    assert len(Trace.read(trace(folder, 0)).steps) == 1
    with pytest.raises(ConfigError, match="records what comes after the first 2 steps, and the run has 2"):
        profiled(folder, Line(), steps=2)
