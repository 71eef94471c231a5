"""The order of the samples: a pure function of (seed, epoch, index).

Every epoch is one permutation of all samples. It is computed, never stored: a Feistel network over the smallest
power of four that holds the index, walked until the value falls into range (cycle-walking; Black and Rogaway,
"Ciphers with arbitrary finite domains", CT-RSA 2002). So position 10^9 costs what position 0 costs, in time and
in memory, and a data position is one number: samples consumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MASK = (1 << 64) - 1


def derive(*parts: int) -> int:
    """One 63-bit seed from several whole numbers, e.g. (seed, step, rank): each is stirred in by splitmix64's finaliser
    (Steele, Lea and Flood, OOPSLA 2014)."""
    value = 0
    for part in parts:
        value = ((value ^ part) + 0x9E3779B97F4A7C15) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        value ^= value >> 31
    return value >> 1


@dataclass(frozen=True, slots=True)
class Order:
    """The permutations of `size` samples under `seed`."""

    size: int
    seed: int

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """Sample ids at the positions [start, stop); position p lies in epoch p // size."""
        if start == stop:
            return np.empty(0, np.int64)
        positions = np.arange(start, stop, dtype=np.uint64)
        epochs, index = np.divmod(positions, np.uint64(self.size))
        first, last = start // self.size, (stop - 1) // self.size
        if first == last:
            return self._permute(index, first)
        return np.concatenate([self._permute(index[epochs == e], e) for e in range(first, last + 1)])

    def _permute(self, index: NDArray[np.uint64], epoch: int) -> NDArray[np.int64]:
        half = max(1, ((self.size - 1).bit_length() + 1) // 2)
        keys = [np.uint64(derive(self.seed, epoch, round_)) for round_ in range(_ROUNDS)]
        value = _feistel(index, half, keys)
        outside = value >= self.size
        while outside.any():
            value[outside] = _feistel(value[outside], half, keys)
            outside = value >= self.size
        return value.astype(np.int64)


def _feistel(value: NDArray[np.uint64], half: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    """A bijection on 2*half bits: each round swaps the halves and stirs one with a keyed hash of the other."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> bits, value & mask
    for key in keys:
        stirred = (right ^ key) * np.uint64(0xBF58476D1CE4E5B9)
        stirred = (stirred ^ (stirred >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        left, right = right, left ^ ((stirred >> np.uint64(32)) & mask)
    return (left << bits) | right
