"""_ray_check WANTED: whether a Ray cluster can run a run, asked before anything is started or written.

It is a process of its own: Ray takes signal handlers and starts threads wherever it is connected.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainkit.errors import ConfigError, Problem, TrainkitError
from trainkit.launcher._ray_cluster import connect

ANSWER, NODES = "trainkit: ", 64
"""So many nodes are asked; where there are more, they will be alike."""


def ask(wanted: Mapping[str, Any]) -> None:
    """Raises ConfigError with all that speaks against it."""
    command = [sys.executable, "-m", "trainkit.launcher._ray_check", json.dumps(wanted)]
    said = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    answers = [line.removeprefix(ANSWER) for line in said.stdout.splitlines() if line.startswith(ANSWER)]
    if not answers:
        raise TrainkitError(f"Ray could not be asked:\n{said.stderr[-3000:]}")
    if problems := [Problem(*each) for each in json.loads(answers[-1])]:
        raise ConfigError(problems)


def main(words: Sequence[str]) -> int:
    wanted = json.loads(words[0])
    try:
        problems = [*_problems(wanted)] if connect(wanted, start=False) else []
    except ConfigError as error:
        problems = [*error.problems]
    sys.stdout.write(f"{ANSWER}{json.dumps([astuple(each) for each in problems], default=str)}\n")
    return 0


def _problems(wanted: Mapping[str, Any]) -> Iterator[Problem]:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    rooms = {node["NodeID"]: room(node["Resources"], wanted["resources"]) for node in nodes}
    least = wanted["workers"][0]
    if sum(rooms.values()) < least and not _grows(wanted):
        has = ", ".join(f"{node['NodeManagerAddress']}: {_words(node['Resources'])}" for node in nodes)
        said = (
            f"a worker needs {_words(wanted['resources'])}, and the cluster has room for {sum(rooms.values())} ({has})"
        )
        yield Problem("launcher.workers", least, said, "set fewer workers, or less of launcher.cpus, gpus, resources")
    elif wanted["placement"] == "STRICT_SPREAD" and len([n for n in rooms if rooms[n]]) < least and not _grows(wanted):
        said = (
            f"{least} workers are to be on as many nodes, and {len([n for n in rooms if rooms[n]])} have room for one"
        )
        yield Problem("launcher.placement", "STRICT_SPREAD", said, "set launcher.placement=SPREAD, or fewer workers")
    yield from _of_nodes([node for node in nodes if rooms[node["NodeID"]]][:NODES], wanted)


def room(has: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many workers a node can hold."""
    return int(min((has.get(name, 0.0) / need for name, need in needs.items() if need), default=1))


def _words(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{n:g} {name}" for name, n in resources.items() if ":" not in name and "memory" not in name)


def _grows(wanted: Mapping[str, Any]) -> bool:
    """Whether an autoscaler could make enough room."""
    import ray

    limits: Mapping[str, float] | None = ray.get(ray.remote(num_cpus=0)(limits_of_growth).remote())
    needs = {name: need * wanted["workers"][0] for name, need in wanted["resources"].items()}
    return limits is not None and all(limits.get(name, 0) >= need for name, need in needs.items())


def limits_of_growth() -> Any:
    """Runs in the cluster: it cannot be asked from outside."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config()


def _of_nodes(nodes: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> Iterator[Problem]:
    """What a node lacks of this one's: the folder with the recipes, the disk with the run folder, trainkit itself."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = ray.remote(num_cpus=0, max_retries=0)(look)
    root = next(path for path in (Path(wanted["root"]), *Path(wanted["root"]).parents) if path.is_dir())
    with tempfile.NamedTemporaryFile(dir=root, prefix=".trainkit_") as handshake:
        answers = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            question = asked.options(scheduling_strategy=there)
            answers[node["NodeManagerAddress"]] = question.remote(wanted["folder"], wanted["recipe"], handshake.name)
        ray.wait([*answers.values()], num_returns=len(answers), timeout=wanted["start_s"])
        found = {host: _answer(answer) for host, answer in answers.items()}
    yield from _told(found, wanted)


def look(folder: str, recipe: str | None, handshake: str) -> dict[str, Any]:
    """Runs on a node."""
    from trainkit.launcher._ray_train import place

    where = place(folder)
    return {
        "trainkit": version("trainkit"),
        "python": platform.python_version(),
        "folder": where.is_dir(),
        "recipe": recipe is None or (where / recipe).exists(),
        "root": Path(handshake).exists(),
    }


def _answer(answer: Any) -> dict[str, Any]:
    import ray

    try:
        found: dict[str, Any] = ray.get(answer, timeout=0)
    except Exception as error:  # it cannot import trainkit, say: whatever it is, the person is to read it
        return {"error": str(error).strip().splitlines()[-1]}
    return found


def _told(found: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any]) -> Iterator[Problem]:
    """One problem of each kind, with the nodes that have it."""

    def where(lacks: str) -> str:
        return ", ".join(host for host, answer in found.items() if answer.get(lacks) is False)

    mine = version("trainkit")
    bring = "have the same path on all nodes, or let Ray bring it: launcher.runtime_env.working_dir=."
    for host, answer in found.items():
        if "error" in answer:
            said = f"node {host} does not answer as it should: {answer['error']}"
            yield Problem("launcher.address", wanted["address"], said, "is trainkit installed there?")
            break
        if answer["trainkit"] != mine:
            said = f"node {host} has trainkit {answer['trainkit']}, and here is {mine}"
            yield Problem("launcher.address", wanted["address"], said, "install the same everywhere")
            break
    if hosts := where("folder"):
        yield Problem("", "", f"the folder {wanted['folder']} of this command is not there on {hosts}", bring)
    elif hosts := where("recipe"):
        yield Problem("recipe", wanted["recipe"], f"the file is not there on {hosts}", bring)
    if hosts := where("root"):
        said = f"what is written there is not seen on {hosts}"
        yield Problem("run.dir", wanted["root"], said, "set it to a folder on a disk that all nodes share")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
