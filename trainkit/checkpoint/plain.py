"""The weights of a checkpoint as one plain file, for use without trainkit: safetensors, or what torch.save writes.

A safetensors file is written part by part, so that a part of the model is in memory and not the whole; torch's file is
a pickle of the whole. Imports torch, so is imported where it is used only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainkit.checkpoint.manifest import read_manifest
from trainkit.checkpoint.tensors import read

PART = 1 << 30  # bytes that are read at once, or one tensor

# The names of the safetensors format: https://huggingface.co/docs/safetensors#format
TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def weights(layout: Mapping[str, Any], averaged: bool) -> dict[str, str]:
    """Of each weight and buffer by the model's own name, the name in a checkpoint of that `layout`. With `averaged`,
    of the averaged weights where there are some."""
    found = {name.removeprefix("model."): name for name in layout if name.startswith("model.")}
    if averaged:
        found |= {name.removeprefix("ema."): name for name in layout if name.startswith("ema.")}
    return found


def write_safetensors(checkpoint: Path, file: Path, averaged: bool) -> int:
    """Write the weights of the verified `checkpoint` to the new `file`; returns their number."""
    layout = read_manifest(checkpoint)["tensors"]
    stored = weights(layout, averaged)
    # Wide types first, as the format's own library has it: then every tensor lies at a multiple of its element's size.
    names = sorted(stored, key=lambda name: (-_type(layout[stored[name]]).itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        kind, shape = layout[stored[name]]
        start, end = end, end + _bytes(layout[stored[name]])
        header[name] = {"dtype": TYPES[kind], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("xb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for part in parts(layout, [stored[name] for name in names]):
            for tensor in _read(checkpoint, layout, part).values():
                out.write(tensor.flatten().view(torch.uint8).numpy().data)
        out.flush()
        os.fsync(out.fileno())
    return len(names)


def write_torch(checkpoint: Path, file: Path, averaged: bool) -> int:
    """Write {name: tensor} of the verified `checkpoint` to the new `file`; returns the number of tensors. Needs the
    memory of all weights."""
    layout = read_manifest(checkpoint)["tensors"]
    stored = weights(layout, averaged)
    tensors = _read(checkpoint, layout, list(stored.values()))
    with file.open("xb") as out:
        torch.save({name: tensors[source] for name, source in stored.items()}, out)
        out.flush()
        os.fsync(out.fileno())
    return len(stored)


def parts(layout: Mapping[str, Any], names: Sequence[str]) -> Iterator[list[str]]:
    """`names` in their order, cut so that the tensors of a part have PART bytes at most, or are a single one."""
    part: list[str] = []
    for name in names:
        if part and sum(_bytes(layout[n]) for n in part) + _bytes(layout[name]) > PART:
            yield part
            part = []
        part.append(name)
    if part:
        yield part


def _read(checkpoint: Path, layout: Mapping[str, Any], names: Sequence[str]) -> dict[str, Tensor]:
    tensors: dict[str, Any] = {name: torch.empty(layout[name][1], dtype=_type(layout[name])) for name in names}
    read(checkpoint, tensors, rank=0, alone=True)
    return tensors


def _type(entry: Sequence[Any]) -> torch.dtype:
    kind: torch.dtype = getattr(torch, entry[0])
    return kind


def _bytes(entry: Sequence[Any]) -> int:
    return torch.Size(entry[1]).numel() * _type(entry).itemsize
