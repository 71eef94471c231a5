"""Ray: workers on the nodes of a cluster, which Ray Train places, watches and replaces; the ranks in them are the
agent's, as everywhere.

    front --> agent --> _ray_group (Ray's driver) --> Ray Train's controller --> workers, a keeper in each --> its ranks

See docs/ray.md.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from trainkit.errors import Problem
from trainkit.launcher import _hosts, _ray_check, _ray_owner, local
from trainkit.launcher._order import Order
from trainkit.launcher._watched import Watched
from trainkit.protocols import Cluster, Strategy
from trainkit.runfolder import RunFolder, ownership


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Ranks on the nodes of a Ray cluster.

    address      of the cluster; null: the one that is there (RAY_ADDRESS, or one that was started on this machine),
                 else a cluster of this machine alone, for this run
    workers      a number, or a span such as '2:4': up to four, and as few as two
    ranks        in each worker; 'auto': what the strategy would use there
    cpus         cores per rank
    gpus         GPUs per worker
    resources    whatever else a worker needs, as Ray names it
    placement    Ray's strategy of placement
    runtime_env  Ray's runtime environment of the workers
    start_s      so long workers may take to start
    lost_s       a worker that is not heard of for so long is lost
    join_s       so often it is looked whether there could be more workers
    """

    address: str | None
    workers: Annotated[int, Gt(0)] | Annotated[str, Field(pattern=_hosts.SPAN)]
    ranks: Annotated[int, Gt(0)] | Literal["auto"]
    cpus: Annotated[int, Gt(0)]
    gpus: Annotated[int, Ge(0)]
    resources: Mapping[str, float]
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
    runtime_env: Mapping[str, Any]
    start_s: Annotated[float, Ge(10)]
    lost_s: Annotated[float, Ge(5)]
    join_s: Annotated[float, Gt(0)]

    @property
    def span(self) -> tuple[int, int]:
        """The least and the greatest number of workers."""
        return _hosts.span(self.workers)

    def cluster(self, strategy: Strategy, device: str) -> Cluster:
        """What is asked of Ray; what there is, nobody knows before it is asked."""
        least, most = self.span
        gpus = 0 if device == "cpu" else self.gpus
        one = Cluster(hosts=1, ranks=0, gpus=gpus, cores=self.cpus)
        each = strategy.ranks(one) if self.ranks == "auto" else int(self.ranks)
        return _hosts.several(replace(one, cores=each * self.cpus), (least, most), each)

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        return [*self._problems(cluster)]

    def _problems(self, cluster: Cluster) -> Iterator[Problem]:
        if importlib.util.find_spec("ray") is None:
            said, hint = "Ray is not installed here", "pip install 'trainkit[ray]', or set launcher=local"
            yield Problem("launcher", "ray", said, hint)
        yield from _hosts.upside_down("launcher.workers", self.workers, "workers")
        yield from _hosts.crowded(cluster, "a worker", "set fewer, more launcher.gpus, or train.device=cpu")
        for name in self.resources:
            if (ours := {"CPU": "cpus", "GPU": "gpus"}.get(name)) is not None:
                said, hint = f"is set by launcher.{ours}", f"set launcher.{ours}"
                yield Problem(f"launcher.resources.{name}", self.resources[name], said, hint)

    def hand_over(self, config: Mapping[str, Any], words: Sequence[str], cluster: Cluster) -> None:
        """Ask the cluster whether it can run this, before anything is started or written. Raises ConfigError."""
        module, _, _ = config["recipe"]["_target_"].rpartition(".")
        file = Path(*module.split(".")).with_suffix(".py")
        recipe = str(file) if file.exists() else None  # else it is one that trainkit ships
        root = str(Path(config["run"]["dir"]).absolute())
        _ray_check.ask(self.wanted(cluster) | {"root": root, "recipe": recipe, "start_s": self.start_s})

    def start(self, run: Path, cluster: Cluster, attempt: int) -> Watched:
        """Have the agent start the ranks through Ray."""
        folder = RunFolder(run)
        owner = f"ray-{uuid.uuid4().hex[:12]}"
        _ray_owner.take_over(folder, owner)
        return local.lead(run, cluster, attempt, self.order(run, cluster))

    def order(self, run: Path, cluster: Cluster) -> Order:
        """What the agent needs to know of the workers."""
        told = json.dumps(self.wanted(cluster) | {"storage": str(run / "logs")})
        return Order(
            start=[sys.executable, "-m", "trainkit.launcher._ray_group", told],
            keepers=cluster.hosts,
            places=cluster.ranks // cluster.hosts,
            lost_s=self.lost_s,
            owner=ownership(),
            wait_s=self.start_s,
            remote=True,
            renews=True,
        )

    def wanted(self, cluster: Cluster) -> dict[str, Any]:
        """What Ray is asked for."""
        each = cluster.ranks // cluster.hosts
        gpus = {"GPU": self.gpus} if cluster.gpus else {}
        return {
            "address": self.address,
            "workers": [min([*cluster.fewer, cluster.ranks]) // each, cluster.hosts],
            "resources": {"CPU": each * self.cpus, **gpus, **self.resources},
            "placement": self.placement,
            "runtime_env": dict(self.runtime_env),
            "join_s": self.join_s,
            "folder": str(Path.cwd()),
        }
