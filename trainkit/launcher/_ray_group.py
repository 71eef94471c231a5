"""_ray_group TOLD PYTHON KEEPER ...: the driver of Ray under a run. It starts a keeper in every worker, through Ray
Train, and others in their place as long as the agent lives; it ends when they were let go, or the agent is gone."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from trainkit.errors import EXIT_DONE, EXIT_FAILED
from trainkit.launcher._family import follow_parent
from trainkit.launcher._order import TOKEN
from trainkit.launcher._ray_cluster import connect
from trainkit.runfolder import OWNER, OWNER_FILE

PASSED_ON = (TOKEN, OWNER, OWNER_FILE)
TUNED = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a keeper is where the recipes are
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
ELASTIC = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
"""With a span of workers: how many there can be is known late where a node has just died."""


def main(words: Sequence[str]) -> int:
    if not follow_parent(signal.SIGTERM):
        return EXIT_FAILED
    wanted, keeper = json.loads(words[0]), [*words[2:]]
    least, most = wanted["workers"]
    for name, value in (TUNED | (ELASTIC if least < most else {})).items():
        os.environ.setdefault(name, value)

    connect(wanted, start=True)
    run(wanted, keeper)
    return EXIT_DONE


def run(wanted: Mapping[str, Any], keeper: Sequence[str]) -> None:
    """Until the keepers were let go."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from trainkit.launcher._ray_train import Keepers, work

    least, most = wanted["workers"]
    resources = wanted["resources"]
    told = {
        "keeper": keeper,
        "folder": wanted["folder"],
        "environment": {name: os.environ[name] for name in PASSED_ON if name in os.environ},
        "gpus": resources.get("GPU", 0),
    }
    DataParallelTrainer(
        work,
        train_loop_config=told,
        backend_config=Keepers(),
        scaling_config=ScalingConfig(
            num_workers=most if least == most else (least, most),
            use_gpu=bool(told["gpus"]),
            resources_per_worker=resources,
            placement_strategy=wanted["placement"],
            elastic_resize_monitor_interval_s=wanted["join_s"],
        ),
        # How often it is worth while, the agent decides (recovery.*).
        run_config=RunConfig(name="ray", storage_path=wanted["storage"], failure_config=FailureConfig(max_failures=-1)),
    ).fit()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
