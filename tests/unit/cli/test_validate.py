"""What `validate` says of a run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.settings import make
from trainkit.cli.validate import summary
from trainkit.protocols import Cluster

NAMED = {"_target_": "trainkit.group.name.Name"}
CONFIG = dict.fromkeys(("recipe", "strategy", "launcher", "optimizer", "schedule", "tracker"), NAMED)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "at the end; the newest 3 stay"),
        ({"every": 100, "keep": 1}, "every 100 steps and at the end; the newest 1 stay"),
        ({"every": "10 minutes"}, "every 10 minutes and at the end; the newest 3 stay"),
        ({"every": "auto"}, "as often as loses the least time and at the end; the newest 3 stay"),
        (
            {"keep_every": 500, "metric": "eval_loss"},
            "at the end; the newest 3 and the first of every 500 steps and the best by eval_loss stay",
        ),
    ],
)
def test_when_checkpoints_come_and_which_stay(keys: dict[str, Any], says: str) -> None:
    settings = make("run", checkpoint=keys)
    assert dict(summary(CONFIG, settings, Cluster(hosts=1, ranks=1, gpus=0, cores=2)))["checkpoints"] == says
