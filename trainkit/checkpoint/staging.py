"""Host memory for one copy of what a rank saves, so that training goes on while the copy is written."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.cuda._pin_memory_utils import pin_memory, unpin_memory

ALIGNED = 64  # bytes: a cache line, and a multiple of every dtype's size


class Staging:
    """One block of memory, reserved at the first save and used again for each later one: page-locked if it is copied
    to from a GPU.

    Every copy is a tensor of its own over a part of the block, not a view of one large tensor: torch would copy a view
    once more before it writes it.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._block: mmap.mmap | None = None
        self._pinned: int | None = None

    def copy(self, live: Sequence[Tensor]) -> list[Tensor]:
        """Copies of `live`, in that order; those of the call before are overwritten. Has ended when it returns."""
        starts, size = [0], 0
        for tensor in live:
            size += -(-tensor.nbytes // ALIGNED) * ALIGNED
            starts.append(size)
        block = self._reserve(size)
        copies = [_over(block, start, like) for start, like in zip(starts, live, strict=False)]
        for copy, tensor in zip(copies, live, strict=True):
            copy.copy_(tensor, non_blocking=self._cuda)
        if self._cuda:
            torch.cuda.current_stream().synchronize()
        return copies

    def _reserve(self, size: int) -> mmap.mmap:
        if self._block is not None and len(self._block) >= size:
            return self._block
        self.release()
        self._block = block = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if self._cuda:
            start = torch.frombuffer(block, dtype=torch.uint8).data_ptr()
            pin_memory(start, len(block))
            self._pinned = start
        return block

    def release(self) -> None:
        """Give the memory back; it goes once no copy is left."""
        if self._pinned is not None:
            unpin_memory(self._pinned)
            self._pinned = None
        self._block = None


def _over(block: mmap.mmap, start: int, like: Tensor) -> Tensor:
    """An uninitialised tensor of the kind of `like` over the bytes of `block` from `start` on."""
    if like.numel() == 0:
        return torch.empty(like.shape, dtype=like.dtype)
    return torch.frombuffer(block, dtype=like.dtype, count=like.numel(), offset=start).view(like.shape)
