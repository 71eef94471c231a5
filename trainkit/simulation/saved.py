"""Measures what autograd keeps between forward and backward, of real tensors or of fake ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from trainkit.strategy._norm import local


class Kept:
    """Bytes of saved tensors, at the most at one time; a storage that several tensors share counts once.

    activations  not the weights, whole or gathered, which are counted as such
    copies       casts of weights: autocast makes them, and autograd keeps them
    """

    def __init__(self) -> None:
        self.activations = self.copies = 0
        self._now: Counter[bool] = Counter()
        self._entered: list[nn.Module] = []
        self._weights: dict[int, Any] = {}
        self._casts: dict[int, Any] = {}
        self._holders: Counter[int] = Counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, what is saved is measured."""
        noted = register_module_forward_pre_hook(lambda module, args: self._entered.append(module))
        try:
            with _Casts(self), torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor):
                yield
        finally:
            noted.remove()
            self._entered.clear()
            self._weights.clear()
            self._casts.clear()

    def _note_weights(self) -> None:
        """Of the modules that were entered since the last look. Not as they are entered: the hook for all modules comes
        before those of one, in which FSDP gathers the weights that a module has of its own."""
        while self._entered:
            for parameter in self._entered.pop().parameters(recurse=False):
                storage = local(parameter.detach()).untyped_storage()
                self._weights[storage._cdata] = storage

    def note_cast(self, source: Tensor, result: Tensor) -> None:
        self._note_weights()
        if source.untyped_storage()._cdata in self._weights:
            storage = result.untyped_storage()
            self._casts[storage._cdata] = storage

    def _pack(self, tensor: Tensor) -> _Saved:
        self._note_weights()
        storage = local(tensor.detach()).untyped_storage()
        key = storage._cdata
        if key in self._weights:
            return _Saved(tensor, None, 0, False)
        self._holders[key] += 1
        saved = _Saved(tensor, self, key, key in self._casts)
        if self._holders[key] == 1:
            self._change(storage.nbytes(), saved.is_copy)
        return saved

    def release(self, saved: _Saved) -> None:
        self._holders[saved.key] -= 1
        if self._holders[saved.key] == 0:
            self._change(-saved.bytes, saved.is_copy)

    def _change(self, by: int, is_copy: bool) -> None:
        self._now[is_copy] += by
        self.activations = max(self.activations, self._now[False])
        self.copies = max(self.copies, self._now[True])


class _Saved:
    """A tensor that autograd keeps; it is let go when autograd lets this go."""

    def __init__(self, tensor: Tensor, kept: Kept | None, key: int, is_copy: bool) -> None:
        self.tensor, self.key, self.is_copy, self._kept = tensor, key, is_copy, kept
        self.bytes = local(tensor.detach()).untyped_storage().nbytes()

    def __del__(self) -> None:
        if self._kept is not None:
            self._kept.release(self)


class _Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, kept: Kept) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        if op is torch.ops.aten._to_copy.default:
            self._kept.note_cast(local(args[0]), local(result))
        return result
