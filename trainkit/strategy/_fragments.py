"""A tensor of which a rank holds some elements that follow each other, as ZeRO divides it.

ZeRO cuts a flattened tensor anywhere, also within a row. torch.distributed.checkpoint stores boxes of a logical
tensor, and a run of elements is a few of them: the rest of a row, whole rows, the beginning of a row. So every rank
writes and reads what it holds, in place, and no rank ever needs the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes, one per dimension."""


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """The elements [start, stop) of a row-major tensor of `shape`, in order, as at most 2 * len(shape) - 1 boxes."""
    if start >= stop:
        return
    if len(shape) < 2:
        yield ((start,), (stop - start,)) if shape else ((), ())
        return
    row, inner = math.prod(shape[1:]), shape[1:]
    first, last = -(-start // row), stop // row  # the whole rows
    if first > last:  # within one row
        yield from _in_row(last, inner, start - last * row, stop - last * row)
        return
    yield from _in_row(first - 1, inner, start - (first - 1) * row, row if start % row else 0)
    if first < last:
        yield (first, *(0 for _ in inner)), (last - first, *inner)
    yield from _in_row(last, inner, 0, stop % row)


def _in_row(row: int, inner: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    for offsets, sizes in boxes(inner, start, stop):
        yield (row, *offsets), (1, *sizes)


class Fragments(Tensor):
    """A logical tensor of `shape`, of which this rank holds the elements [start, start + len(part)) as `part` (1-D).

    Implements torch.distributed._checkpointable, and nothing that could be computed with.
    """

    _pieces: dict[tuple[int, ...], Tensor]

    @staticmethod
    def __new__(cls, shape: Sequence[int], start: int, part: Tensor) -> Fragments:
        made: Fragments = Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=part.dtype, device=part.device)
        found = list(boxes(shape, start, start + part.numel()))
        parts = torch.split(part, [math.prod(sizes) for _, sizes in found]) if found else ()
        made._pieces = {offsets: p.view(sizes) for (offsets, sizes), p in zip(found, parts, strict=True)}
        return made

    def __init__(self, shape: Sequence[int], start: int, part: Tensor) -> None:
        """All is done in __new__, as torch wants it of a subclass."""

    def __create_write_items__(self, fqn: str, object: Any) -> list[WriteItem]:
        properties = TensorProperties(dtype=self.dtype)
        return [
            WriteItem(
                index=MetadataIndex(fqn, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.shape),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(torch.Size(at), piece.shape) for at, piece in self._pieces.items()]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        return self._pieces[tuple(index.offset or ())]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Fragments({tuple(self.shape)}, {[tuple(piece.shape) for piece in self._pieces.values()]})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:  # type: ignore[override]
        raise NotImplementedError(f"{func} of a tensor whose elements lie on other ranks")
