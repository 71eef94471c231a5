"""The formats that can be imported, and how each is known. Reads names and first bytes only, and imports no torch.

The first that fits is taken: a DeepSpeed folder may hold an Accelerate one's files too, and both a Hugging Face one's.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainkit.errors import ConfigError, Problem

HF_FILES = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
SHOWN = 8  # names of what was found instead


@dataclass(frozen=True, slots=True)
class Format:
    """`marks` says in words what `found` looks for."""

    marks: str
    found: Callable[[Path], bool]


def tagged(path: Path) -> Path:
    """The folder with DeepSpeed's files: `path`, or the one in it that its file `latest` names."""
    for latest in (path / "latest", path / "latest_universal"):
        if latest.is_file():
            return path / latest.read_text(errors="replace").strip()
    return path


def _deepspeed(path: Path) -> bool:
    folder = tagged(path)
    return any(folder.glob("*_optim_states.pt")) or any((folder / "zero").glob("*/fp32.pt"))


def _accelerate(path: Path) -> bool:
    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model_fsdp.bin")
    return any(path.glob("random_states_*.pkl")) and any((path / name).is_file() for name in weights)


def _hf(path: Path) -> bool:
    return any((path / name).is_file() for name in HF_FILES)


def _safetensors(path: Path) -> bool:
    """The format begins with the length of its header (8 bytes) and the header, which is JSON."""
    if not path.is_file():
        return False
    with path.open("rb") as f:
        start = f.read(9)
    return start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= path.stat().st_size


def _torch(path: Path) -> bool:
    """torch.save writes a zip file with data.pkl in it."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


FORMATS = {
    "deepspeed": Format("a folder with *_optim_states.pt or zero/*/fp32.pt, or `latest` that names it", _deepspeed),
    "accelerate": Format("a folder with random_states_*.pkl and the weights of one model (save_state)", _accelerate),
    "hf": Format(f"a folder with {' or '.join(HF_FILES[1::2])}, or their index (save_pretrained)", _hf),
    "safetensors": Format("a safetensors file", _safetensors),
    "torch": Format("a file of torch.save (zip): a state dict, or {'model': ..., 'optimizer': ...}", _torch),
}


def recognise(path: Path, wanted: str | None) -> str:
    """The format of `path`: `wanted`, or the first that fits. Raises ConfigError with what was looked for and found."""
    if not path.exists():
        raise ConfigError([Problem("", "", f"{path}: there is no such file or folder")])
    if (path / "MANIFEST.json").is_file():
        hint = "copy the folder into RUN/checkpoints/ of a new RUN; a run of the same recipe goes on from it"
        raise ConfigError([Problem("", "", f"{path} is a checkpoint of trainkit's own", hint)])
    for name in [wanted] if wanted else FORMATS:
        if FORMATS[name].found(path):
            return name
    looked = [f"{name}: {FORMATS[name].marks}" for name in ([wanted] if wanted else FORMATS)]
    key, value = ("--format", wanted) if wanted else ("", "")
    text = f"{path} is nothing that can be imported. Looked for:\n    " + "\n    ".join(looked)
    raise ConfigError([Problem(key, value, text, f"found: {_content(path)}")])


def _content(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as f:
            return f"a file of {path.stat().st_size} bytes that begins with {f.read(8)!r}"
    names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"a folder with {', '.join(names[:SHOWN]) or 'nothing in it'}{more}"
