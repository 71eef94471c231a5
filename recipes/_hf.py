"""What the recipes share about transformers: being quiet, finding a model, and dividing it over the axes of a mesh."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.canonical import wildcard
from trainkit.errors import Problem, TrainkitError
from trainkit.parts import ModelShape, Parts
from trainkit.protocols import Batch, Say

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")


def quiet() -> None:
    """Keep transformers' progress bars and advice out of the run's log."""
    from transformers import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft uses the old name


def problems_of(key: str, model: str) -> list[Problem]:
    """What is wrong with the name of a model: a folder here, or an id on the hub."""
    folder = Path(model).expanduser()
    if folder.exists() and not (folder / "config.json").is_file():
        hint = "a Hugging Face model folder holds config.json, the weights and the tokenizer"
        return [Problem(key, model, "is no model folder", hint)]
    if not folder.exists() and not HUB_ID.fullmatch(model):
        return [
            Problem(key, model, "there is no such folder, and it is no id on the hub", "smollm2, FOLDER or ORG/NAME")
        ]
    return []


def download(key: str, model: str, say: Say) -> None:
    """Have the files of a hub id on this machine. Raises TrainkitError where the hub does not give them."""
    if Path(model).expanduser().exists():
        return
    from huggingface_hub import snapshot_download

    say(f"looking for {model} on the Hugging Face hub")
    try:
        snapshot_download(model, allow_patterns=list(FILES))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        told = f"{key}={model}: no folder here, and the hub does not give it: {reason}"
        raise TrainkitError(f"{told}\n    the model that needs no hub is {key}=smollm2") from error


def location(model: str) -> str:
    """The folder with the files of `model`, which `download` has seen to."""
    if Path(model).expanduser().exists():
        return str(Path(model).expanduser())
    from huggingface_hub import snapshot_download

    return str(snapshot_download(model, allow_patterns=list(FILES), local_files_only=True))


def found(model: str) -> Path | None:
    """As `location`, but None where the files are not on this machine."""
    try:
        return Path(location(model))
    except (OSError, ValueError):
        return None


# Where a Llama-style decoder's sequence is divided between the layers' matrices, for strategy.sequence_parallel.
SEQUENCE = {
    "model.layers.0": "sequence_split_input",
    "model.layers.*.input_layernorm": "sequence",
    "model.layers.*.self_attn": "sequence_gather_input",
    "model.layers.*.post_attention_layernorm": "sequence",
    "model.layers.*.mlp": "sequence_gather_input",
    "model.norm": "sequence_gather_output",
}


def sequence_part(batch: Batch, part: int, parts: int) -> Batch:
    """As Task.sequence_part, of a decoder: ids (samples, tokens) and labels alike."""
    import torch

    ids, labels = batch.inputs["input_ids"], batch.targets["labels"]
    length = ids.shape[1] // parts
    here = slice(part * length, (part + 1) * length)
    places = torch.arange(here.start, here.stop).expand(len(ids), -1)
    inputs = {"input_ids": ids[:, here], "position_ids": places}
    return replace(batch, inputs=inputs, targets={"labels": labels[:, here]})


def model_shape(folder: Path) -> ModelShape | None:
    """What config.json in `folder` says of a decoder; None where there is none, or it uses other names."""
    try:
        config: dict[str, object] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):  # problems_of says so
        return None
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    if not isinstance(layers, int) or not isinstance(heads, int):
        return None
    shared = config.get("num_key_value_heads")
    return ModelShape(layers=layers, heads=(heads, shared if isinstance(shared, int) else heads))


def adapted_plan(model: nn.Module, plan: Mapping[str, str]) -> dict[str, str]:
    """`plan`, of the model inside the LoRA adapters `model`, for the two together. Of an adapter's two matrices the one
    is divided that meets the divided side of the layer."""
    from peft.tuners.lora import LoraLayer

    whole: dict[str, str] = {}
    for name, module in model.named_modules():
        style = plan.get(wildcard(name.removeprefix("base_model.model.")))
        if style is None:
            continue
        if not isinstance(module, LoraLayer):
            whole[name] = style
            continue
        whole[f"{name}.base_layer"] = style
        for adapter in module.lora_A if style == "rowwise" else module.lora_B:
            whole[f"{name}.{'lora_A' if style == 'rowwise' else 'lora_B'}.{adapter}"] = style
    return whole


def pipeline_parts(model: nn.Module) -> Parts | None:
    """How a decoder is cut into stages; None if it has no stack of layers. Every stage runs the model's own forward,
    which makes positions and masks, from hidden states in place of embeddings."""
    import torch
    from torch import nn

    whole: Any = model
    stacks = [(m, child) for m in model.modules() for child in m.children() if isinstance(child, nn.ModuleList)]
    head = whole.get_output_embeddings()
    if not stacks or head is None:
        return None
    decoder, stack = max(stacks, key=lambda pair: len(pair[1]))
    children = list(decoder.children())
    first, after = children[: children.index(stack)], children[children.index(stack) + 1 :]
    width = whole.config.hidden_size
    return Parts(
        first=first,
        last=[*(child for child in after if next(child.parameters(), None) is not None), head],
        shape=lambda inputs: (*inputs["input_ids"].shape, width),
        forward=_stage,
        example={"input_ids": torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])},
    )


def _stage(model: nn.Module, hidden: Tensor | None, inputs: Mapping[str, Tensor], is_last: bool) -> Any:
    given: dict[str, Any] = dict(inputs)
    if hidden is not None:
        del given["input_ids"]
        given["inputs_embeds"] = hidden
    if is_last:
        return model(**given)
    given.pop("logits_to_keep", None)  # they choose positions of the output only
    return model(**given).logits  # without the head, the hidden state
