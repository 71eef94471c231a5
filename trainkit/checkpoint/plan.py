"""Which rank writes which part of a state, and where its data are read from.

What several ranks hold is divided between them. The division depends on names, types and shapes alone, so it is agreed
on once, and again only when one of these changes. It is made with the interface that torch.distributed.checkpoint
(2.13) gives to those who write planners of their own; its own save() would divide anew in every save, by collectives
that a thread beside the training loop would have to run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem

from trainkit.checkpoint.agree import together
from trainkit.checkpoint.manifest import Digest
from trainkit.checkpoint.staging import Staging
from trainkit.checkpoint.tensors import Layout, Written, finish, layout, whole_layout, write
from trainkit.protocols import Ranks, World


@dataclass(frozen=True, slots=True)
class Part:
    """What this rank writes (`items`), and what all write together (`whole`). Made for a state of layout `of`."""

    items: SavePlan
    whole: Metadata
    of: Layout


@dataclass(frozen=True, slots=True)
class Draft:
    """A state that is ready to be written: this rank's part, what reads its data, and the ranks that write."""

    ranks: Ranks
    part: Part
    source: SavePlanner

    def write(self, folder: Path) -> list[Written]:
        """Write this rank's part to `folder`, synced; what each rank wrote. Collective over `ranks`; raises
        CheckpointError on all of them if one fails."""
        return together(self.ranks, lambda: write(folder, self.part.items, self.source))

    def index(self, folder: Path, written: Sequence[Written]) -> dict[str, Digest]:
        """Write the index of what all ranks wrote; one rank does it. Returns its file."""
        return finish(folder, self.part.whole, [each.results for each in written])

    def bytes(self) -> int:
        """Of the tensors of all ranks."""
        entries = self.part.whole.state_dict_metadata.values()
        tensors = [entry for entry in entries if isinstance(entry, TensorStorageMetadata)]
        return sum(entry.size.numel() * entry.properties.dtype.itemsize for entry in tensors)

    def layout(self) -> Layout:
        """The layout of the state of all ranks."""
        return whole_layout(self.part.whole)


class Drafting:
    """Makes states ready to be written, by all ranks of `world`."""

    def __init__(self, world: World) -> None:
        self._world, self._staging = world, Staging(world.device)
        self._apart: Ranks | None = None
        self._part: Part | None = None

    def connect(self) -> Ranks:
        """The ranks over the connections that a thread may use. Collective where there are none yet."""
        if self._apart is None:
            self._apart = self._world.apart()
        return self._apart

    def draft(self, state: Mapping[str, Any], staged: bool) -> Draft:
        """Of `state` (nested dict of tensors or DTensors). A staged one has a copy of the data in host memory: a
        thread can write it while training goes on, until the next is made, which takes the same memory. Collective.

        Raises CheckpointError on every rank if one cannot: a state that is no tensors, no memory for the copy.
        """
        ranks = self.connect() if staged else self._world
        drafts: list[Draft] = []

        def make() -> bool:
            """Whether this rank's state is as it was planned; if so, it has a draft."""
            if self._part is not None and self._part.of == layout(state):
                source = self._copy(self._part, state) if staged else live(state)
                drafts.append(Draft(ranks, self._part, source))
            return bool(drafts)

        if not all(together(self._world, make)):
            proposals = together(self._world, lambda: propose(state, self._world.rank == 0))
            self._part = settle(proposals, self._world.rank, layout(state))
            together(self._world, make)
        return drafts[-1]

    def _copy(self, part: Part, state: Mapping[str, Any]) -> SavePlanner:
        items, tensors = part.items.items, live(state)
        return _Staged(items, self._staging.copy([tensors.lookup_object(item.index) for item in items]))

    def release(self) -> None:
        """Give the memory of the copies back."""
        self._staging.release()


def propose(state: Mapping[str, Any], first: bool) -> SavePlan:
    """All that this rank could write of `state`. `first`: whether this is rank 0."""
    layout(state)  # raises TypeError for what is no tensor
    return live(state, first).create_local_plan()


def settle(proposals: Sequence[SavePlan], rank: int, of: Layout) -> Part:
    """Divide what is in `proposals`, one per rank in rank order; the same on every rank."""
    plans, whole = DefaultSavePlanner().create_global_plan(list(proposals))
    return Part(FileSystemWriter("").prepare_global_plan(plans)[rank], whole, of)


def live(state: Mapping[str, Any], first: bool = False) -> DefaultSavePlanner:
    """Reads the data from the tensors of `state` themselves."""
    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(state), None, first)
    return planner


class _Staged(DefaultSavePlanner):
    """Reads the data from copies."""

    def __init__(self, items: Sequence[WriteItem], copies: Sequence[Tensor]) -> None:
        super().__init__()
        self._copies: dict[MetadataIndex, Tensor] = {item.index: copy for item, copy in zip(items, copies, strict=True)}

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._copies[write_item.index]
