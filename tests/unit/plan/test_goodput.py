"""Goodput of a run that loses nodes, simulated and by the closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainkit.checkpoint.cadence import daly
from trainkit.plan.goodput import Faults, closed, simulated
from trainkit.settings import Recovery

FAULTS = Faults(mtbf=3600.0, save=30.0, restart=300.0, interval=daly(30.0, 3600.0))
NODES_16384_GPUS = Faults(mtbf=3600 * 50_000 / 2048, save=30.0, restart=300.0, interval=2270.0)
POLICY = Recovery(killed=8, raised=2, hung=2, corrupt=2, repeats=2, pause_s=1.0, place=2, rest_s=600.0)
PATIENT = replace(POLICY, killed=10**9, pause_s=0.0)


@pytest.mark.parametrize(
    "faults",
    [
        NODES_16384_GPUS,
        *(
            pytest.param(faults, marks=pytest.mark.slow)
            for faults in (FAULTS, replace(FAULTS, interval=60.0), replace(FAULTS, interval=3600.0, restart=1800.0))
        ),
    ],
)
def test_the_simulation_comes_to_the_closed_form(faults: Faults) -> None:
    """Of 20,000 failures the mean is good to 1 %."""
    found = simulated(faults, PATIENT)
    assert found.failures >= 20_000 and not found.gave_up
    assert found.goodput == pytest.approx(closed(faults), rel=0.01)
    assert found.goodput + found.saving + found.lost + found.restarting == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("times", [0.4, 2.5])
def test_the_interval_of_young_and_daly_is_the_best(times: float) -> None:
    other = replace(FAULTS, interval=times * FAULTS.interval)
    assert simulated(FAULTS, PATIENT).goodput > simulated(other, PATIENT).goodput
    assert closed(FAULTS) > closed(other)


def test_a_run_that_comes_to_no_checkpoint_gives_up_as_the_state_machine_says() -> None:
    found = simulated(replace(FAULTS, interval=10 * 3600.0), POLICY)
    assert "recovery.lost=8" in found.gave_up and found.failures < 1000
    assert closed(replace(FAULTS, interval=1000 * 3600.0)) == 0


@pytest.mark.slow
def test_a_pause_before_the_next_restart_costs_time() -> None:
    slow = replace(PATIENT, pause_s=60.0)
    often = replace(FAULTS, mtbf=1200.0, interval=1800.0)
    assert simulated(often, slow).restarting > 1.05 * simulated(often, PATIENT).restarting
