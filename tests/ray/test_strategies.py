"""Any strategy runs under launcher=ray: the loss curve on two nodes is that of strategy=local on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.comparison import FEW_STEPS, STRATEGIES, each, same_curve
from tests.e2e.command import done
from tests.ray.cluster import Cluster

NODES = ("launcher=ray", "launcher.workers=2", "launcher.placement=STRICT_SPREAD")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", each(STRATEGIES, "fsdp"))
def test_the_curve_is_that_of_local(cluster: Cluster, local: Path, strategy: str, tmp_path: Path) -> None:
    done(tmp_path, *FEW_STEPS, *NODES, f"launcher.address={cluster.address}", f"strategy={strategy}")
    same_curve(tmp_path / "run", local)
    assert logs(tmp_path / "run") == {"rank_0.log", "rank_1.log"}


@pytest.mark.slow
@pytest.mark.drill
def test_one_process_in_a_worker_is_local_itself(cluster: Cluster, local: Path, tmp_path: Path) -> None:
    done(tmp_path, *FEW_STEPS, "launcher=ray", f"launcher.address={cluster.address}", "strategy=local")
    same_curve(tmp_path / "run", local)
    assert logs(tmp_path / "run") == {"rank_0.log"}


def logs(run: Path) -> set[str]:
    return {path.name for path in run.glob("logs/attempt_1/rank_*.log")}
