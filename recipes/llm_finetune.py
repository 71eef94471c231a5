"""Fine-tune a pretrained language model on conversations, with LoRA or whole.

A sample is one conversation. The samples of a micro-batch are packed into one row without padding: positions restart
at each, and attention does not cross from one to the next. Only the answers count in the loss.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Lt

from recipes import _chat, _hf, _smollm2
from recipes._packing import Packed, prove_apart
from trainkit.errors import ConfigError, Problem
from trainkit.parts import ModelShape, Parts
from trainkit.protocols import Data, Say, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

DEFAULT_MODEL = "smollm2"

# For a model that brings no chat template of its own; export() writes it beside the weights.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)

log = logging.getLogger(__name__)


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
    heldout: Annotated[float, Gt(0)]
    sample_prompt: str | None

    def problems(self) -> Sequence[Problem]:
        problems = [
            Problem("recipe", "llm_finetune", f"needs {package}", "pip install 'trainkit[llm]'")
            for package in ("transformers", "peft")
            if importlib.util.find_spec(package) is None
        ]
        return [*problems, *self._model_problems(), *self._data_problems()]

    def _model_problems(self) -> Sequence[Problem]:
        if self.model != DEFAULT_MODEL:
            return _hf.problems_of("recipe.model", self.model)
        return _smollm2.problems_of("recipe.model", self.model)

    def _data_problems(self) -> Sequence[Problem]:
        problems = []
        if self.heldout >= 1 and self.heldout != int(self.heldout):
            hint = "below 1 it is a fraction of the conversations, from 1 on their number"
            problems.append(Problem("recipe.heldout", self.heldout, "is neither a fraction nor a whole number", hint))
        if self.data is not None:
            problems += _chat.problems_of("recipe.data", Path(self.data).expanduser())
        elif importlib.util.find_spec("chatterbot_corpus") is None:
            hint = "pip install 'trainkit[llm]'"
            problems.append(Problem("recipe.data", None, "the default data is not installed", hint))
        if not problems and self.heldout >= 1 and self.heldout >= (count := len(self._conversations())):
            hint = f"the data set holds {count} conversations"
            problems.append(Problem("recipe.heldout", self.heldout, "leaves nothing to train on", hint))
        return problems

    def _conversations(self) -> list[_chat.Messages]:
        return _chat.corpus() if self.data is None else _chat.read_jsonl(Path(self.data).expanduser())[0]

    def prepare(self, say: Say) -> None:
        if self.model == DEFAULT_MODEL:
            _smollm2.convert(say)
        else:
            _hf.download("recipe.model", self.model, say)

    def source(self) -> str:
        """The folder of the model that is fine-tuned; it is there after `prepare`."""
        return str(_smollm2.converted()) if self.model == DEFAULT_MODEL else _hf.location(self.model)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return _tokenizer(self.source())

    def build_model(self) -> nn.Module:
        import torch
        from transformers import AutoModelForCausalLM

        _hf.quiet()
        model: Any = AutoModelForCausalLM.from_pretrained(self.source(), dtype=torch.float32)
        model.config.use_cache = False  # a cache would hide from transformers that a row is packed
        prove_apart(model, f"recipe.model={self.model}")
        return model if self.lora is None else _adapted(model, self.lora)

    def build_data(self) -> Data:
        conversations = self._conversations()
        held = _chat.held_out(conversations, self.heldout)
        if all(held):
            hint = "equal conversations are held out together"
            raise ConfigError([Problem("recipe.heldout", self.heldout, "leaves nothing to train on", hint)])
        texts = list(zip(_chat.render(conversations, self.tokenizer()), held, strict=True))
        train, heldout = (self._encode([text for text, h in texts if h is wanted]) for wanted in (False, True))
        return Data(train, heldout)

    def _encode(self, texts: Sequence[_chat.Text]) -> Packed:
        examples, cut, dropped = _chat.shorten(_chat.encode(texts, self.tokenizer()), self.max_tokens)
        if cut or dropped:
            told = "recipe.max_tokens=%s: of %s conversations %s were cut at their end, %s left out (no answer fits)"
            log.warning(told, self.max_tokens, len(texts), cut, dropped)
        return Packed(examples)

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(output.logits[0].float(), targets["labels"], reduction="sum")

    def model_shape(self) -> ModelShape | None:
        folder = _smollm2.converted() if self.model == DEFAULT_MODEL else _hf.found(self.model)
        shape = None if folder is None else _hf.model_shape(folder)
        return shape and replace(shape, sequence_parallel=False)

    def tensor_plan(self, model: nn.Module) -> Mapping[str, Any] | None:
        plan = super().tensor_plan(model)
        return plan if self.lora is None or not plan else _hf.adapted_plan(model, plan)

    def pipeline(self, model: nn.Module) -> Parts | None:
        return _hf.pipeline_parts(model)

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


def _adapted(model: Any, lora: Lora) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft only divides it by r
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
    )
    try:
        adapted: nn.Module = get_peft_model(model, config)
    except ValueError as error:  # no layer of that name
        raise ConfigError([Problem("recipe.lora.targets", lora.targets, str(error))]) from error
    return adapted


@functools.cache
def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    return tokenizer
