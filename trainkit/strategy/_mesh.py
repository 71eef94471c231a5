"""A rank's place in a mesh of ranks (see _axes.py), and the sums over parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor._collective_utils import MeshTopoInfo
from torch.distributed.tensor._redistribute import _gen_transform_infos, clear_redistribute_planner_cache
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

from trainkit.strategy._axes import Axes
from trainkit.strategy._world import Group

DATA = ("replicas", "shard")


@dataclass(frozen=True, kw_only=True)
class MeshWorld(Group):
    """A rank of torch's default process group, seen as a mesh. Its data-parallel axis is replicas x shard: the ranks
    that differ in pipeline, context or tensor coordinate only read the same samples.

    mesh     axes of more than one rank, and `shard` always; that is shard x context, all of which divide the weights
    context  the ranks that have the other parts of this rank's sequences, if there are any
    summed   the ranks whose losses add up: replicas x shard x context, and the stages, of which all but the last have
             zeros
    """

    axes: Axes
    mesh: DeviceMesh
    context: DeviceMesh | None
    summed: dist.ProcessGroup

    @classmethod
    def over(cls, group: Group, axes: Axes) -> MeshWorld:
        """The ranks of `group` along `axes`, which have as many. Collective."""
        wanted = axes.sizes()
        wanted["shard"] *= wanted.pop("context")
        sizes = {name: size for name, size in wanted.items() if size > 1 or name == "shard"}
        mesh = init_device_mesh(group.device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        summing = tuple(name for name in sizes if name != "tensor")
        summed = mesh["shard"] if len(summing) == 1 else mesh[summing]._flatten("summed")
        return cls(
            device=group.device,
            rank=group.rank,
            size=group.size,
            patience=group.patience,
            axes=axes,
            mesh=mesh,
            context=_neighbours(group, axes) if axes.context > 1 else None,
            summed=summed.get_group(),
        )

    def coordinate(self, axis: str) -> int:
        """This rank's number along `axis`, which for `shard` is that along shard x context."""
        if self.context is not None and axis == "context":
            return self.context.get_local_rank()
        return self.mesh.get_local_rank(axis) if axis in (self.mesh.mesh_dim_names or ()) else 0

    @property
    def dp_rank(self) -> int:
        return self.coordinate("replicas") * self.axes.sizes()["shard"] + self.coordinate("shard") // self.axes.context

    @property
    def dp_size(self) -> int:
        return self.axes.data

    @property
    def part(self) -> tuple[int, int]:
        """Ranks that differ in their number along `replicas` only have the same."""
        number, parts = 0, 1
        for axis in self.mesh.mesh_dim_names or ():
            if axis != "replicas":
                size = self.mesh[axis].size()
                number, parts = number * size + self.coordinate(axis), parts * size
        return number, parts

    def hand_on(self, value: Tensor, source: int) -> Tensor:
        if self.axes.replicas > 1:
            self.pass_on(value, source, self.mesh.get_group("replicas"))
        return value

    def total(self, values: Sequence[float]) -> list[float]:
        """Over ALL ranks, so that one answer holds everywhere (a stop may be asked of any rank), and then the ranks
        that read the same samples count once. Exact for whole numbers on which those agree."""
        copies = self.size // self.dp_size
        return [value / copies for value in super().total(values)]

    def reduce(self, value: Tensor) -> Tensor:
        return self.add_up(value, self.summed)

    def broadcast(self, value: Tensor, source: int = 0) -> Tensor:
        """Within each replica, then over the replicas: ranks of the same stage and the same tensor number."""
        replica, shard = divmod(source, self.axes.sizes()["shard"])
        sources = {"replicas": replica, "shard": shard * self.axes.context}
        for axis in reversed(DATA):
            if axis in (self.mesh.mesh_dim_names or ()):
                group = self.mesh.get_group(axis)
                self.pass_on(value, dist.get_global_rank(group, sources[axis]), group)
        return value

    def close(self) -> None:
        super().close()
        forget_layouts()

    def data_mesh(self) -> DeviceMesh:
        """What fully_shard takes: (shard,), or (replicas, shard)."""
        return self.mesh[DATA] if self.axes.replicas > 1 else self.mesh["shard"]


def forget_layouts() -> None:
    """DTensor remembers how it laid operations out, with the mesh it did so for; a later mesh of the same shape in this
    process is taken for that one, whose process groups are gone. And while it remembers a mesh, that keeps its
    connections, and ranks that wait for this one do not notice that it has left."""
    _clear_sharding_prop_cache()  # type: ignore[no-untyped-call]
    _gen_transform_infos.cache_clear()
    clear_redistribute_planner_cache()
    MeshTopoInfo.build_from_mesh.cache_clear()


def _neighbours(group: Group, axes: Axes) -> DeviceMesh:
    """The context axis, of one mesh for all ranks. Collective."""
    ranks = torch.arange(group.size).view(-1, axes.context, axes.tensor).transpose(1, 2).reshape(-1, axes.context)
    return DeviceMesh(group.device.type, ranks, mesh_dim_names=("others", "context"))["context"]
