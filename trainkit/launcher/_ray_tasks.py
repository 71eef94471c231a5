"""Members of a sweep as tasks of a Ray cluster, each with the cores and GPUs of a worker. `work` is what runs there.

In a task is the command of the member as on one machine (launcher=local). Ray starts no task again that it has lost, as
nobody knows whether the command is: the same sweep goes on with it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.errors import EXIT_FAILED, EXIT_STOPPED
from trainkit.launcher._family import start_child
from trainkit.launcher._ray_cluster import connect
from trainkit.runfolder import RunFolder, own

FIELDS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""What Ray has options for."""


class Tasks:
    """Who starts them; connects this process, whose signal handlers Ray takes. `wanted`: of Ray, as Ray.wanted says it;
    `ranks`: in each."""

    def __init__(self, wanted: Mapping[str, Any], ranks: int) -> None:
        import ray

        connect(wanted, start=True)
        self.at_once = int(wanted["workers"][1])
        needs = wanted["resources"]
        options = {FIELDS[name]: need for name, need in needs.items() if name in FIELDS}
        options["resources"] = {name: need for name, need in needs.items() if name not in FIELDS}
        spread = "SPREAD" if "SPREAD" in wanted["placement"] else "DEFAULT"
        self._task = ray.remote(work).options(max_retries=0, scheduling_strategy=spread, **options)
        self._told = {"folder": wanted["folder"], "gpus": needs.get("GPU", 0)}
        self._own = ["launcher=local", f"launcher.ranks={ranks}"]

    def start(self, words: Sequence[str], folder: RunFolder) -> Task:
        """The run of `words`, which is in `folder`, once there is room for it."""
        shared = [word for word in words if word.lstrip("+").partition("=")[0].split(".")[0] != "launcher"]
        return Task(self._task.remote([*shared, *self._own], str(folder.root), self._told), folder)


class Task:
    """One of them. `why`: it is lost."""

    def __init__(self, ref: Any, folder: RunFolder) -> None:
        self._ref, self._folder, self._asked = ref, folder, False
        self.why = ""

    def poll(self) -> int | None:
        import ray

        ready, _ = ray.wait([self._ref], timeout=0)
        if not ready:
            return None
        self._folder.stop.unlink(missing_ok=True)  # it has ended by itself before it saw that
        try:
            code: int = ray.get(self._ref)
        except Exception as error:  # the worker has died, or its node, or it was sent away: Ray has a type for each
            self.why = f"Ray has lost its task: {str(error).strip().splitlines()[0]}"
            return EXIT_FAILED
        return code

    def ask(self) -> None:
        """Let it save and leave; the second time, at once. Through the folder: no signal reaches a task."""
        import ray

        if self._asked:
            ray.cancel(self._ref, force=True)
            return
        self._asked = True
        self._folder.root.mkdir(parents=True, exist_ok=True)
        self._folder.stop.touch()


def work(words: Sequence[str], root: str, told: Mapping[str, Any]) -> int:
    """The exit code of `python -m trainkit WORDS` on this node. It is asked to save and leave when the worker dies."""
    from trainkit.launcher._ray_train import environment, place

    folder = RunFolder(Path(root))
    if folder.stop.exists():
        return EXIT_STOPPED  # asked before there was room
    own(folder, f"ray-{uuid.uuid4().hex[:12]}")  # what is left of a task that was lost writes no more
    with folder.said.open("ab") as out:
        command = start_child(
            [sys.executable, "-m", "trainkit", *words],
            signal.SIGTERM,
            cwd=place(told["folder"]),
            env=environment(told["gpus"]),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return command.wait()
