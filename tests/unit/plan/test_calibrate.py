"""This machine, measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.plan.calibrate import BYTES, Measured, calibrated, machine_of
from trainkit.plan.machine import HERE, site


def test_the_slower_of_the_two_ranks_counts() -> None:
    fast = Measured(fp32=2e10, bf16=4e10, memory=2e10, message=1e-5, small=1e-4, large=0.05)
    slow = Measured(fp32=1e10, bf16=3e10, memory=1e10, message=2e-5, small=2e-4, large=0.1 + 2e-4)
    machine = machine_of([fast, slow])
    assert machine.tflops == pytest.approx({"fp32": 0.01, "bf16": 0.03})
    assert (machine.memory_gbps, machine.node.us) == pytest.approx((10, 20))
    assert machine.call_us == pytest.approx(160)  # without the two steps of two ranks
    assert machine.node.gbps == pytest.approx(BYTES / 1e9 / 0.1)


@pytest.mark.slow
def test_what_is_measured_here_can_be_planned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINKIT_CACHE", str(tmp_path))
    assert dict(calibrated())["kept in"] == str(tmp_path / "cluster-here.json")
    found = site(HERE)
    assert found.ranks == 2 and 1e-4 < found.machine.tflops["fp32"] < 10
