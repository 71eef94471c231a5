"""Any strategy runs on several machines without a scheduler: the loss curve is that of strategy=local on one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.comparison import FEW_STEPS, each, same_curve
from tests.e2e.command import TRAINKIT
from tests.multinode.hosts import Hosts
from tests.multinode.runs import MEET

SOME = ("fsdp", "tensor", "pipeline", "zero3", "horovod", "accelerate")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", each(SOME))
def test_the_curve_is_that_of_local(hosts: Hosts, local: Path, strategy: str, tmp_path: Path) -> None:
    words = (*TRAINKIT, *FEW_STEPS, *MEET, "launcher.nodes=2", "launcher.ranks=1", f"strategy={strategy}")
    both = [hosts.run(name, tmp_path, *words) for name in ("a", "b")]
    assert [command.wait() for command in both] == [0, 0], both[0].said + both[1].said
    same_curve(tmp_path / "run", local)
