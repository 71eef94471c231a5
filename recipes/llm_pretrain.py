"""Train a Llama-style decoder from scratch on plain text.

The tokenizer (byte-level BPE) and the token file are made once per corpus and vocabulary and kept in the cache folder.
A sample is one window of `seq_len` tokens; windows do not overlap, and the last part of the text is held out.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import numpy as np
from annotated_types import Ge, Gt, Lt

from recipes import _corpus, _hf
from trainkit.cache import cache_folder, made_once
from trainkit.errors import ConfigError, Problem
from trainkit.parts import ModelShape, Parts, Widths
from trainkit.protocols import Batch, Data, Say, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

END = "<|endoftext|>"
T = TypeVar("T")

# width, layers, heads, key/value heads, feed-forward width. From 1b on the shapes are those of published Llama models
# (TinyLlama 1.1B; Llama 3.2 3B, Meta 2024; Llama 2 7B and 70B, arXiv:2307.09288); the smaller ones follow GPT-2's.
SIZES: dict[str, tuple[int, int, int, int, int]] = {
    "tiny": (128, 4, 4, 2, 384),
    "30m": (384, 8, 6, 6, 1024),
    "125m": (768, 12, 12, 12, 2048),
    "350m": (1024, 24, 16, 16, 2816),
    "1b": (2048, 22, 32, 4, 5632),
    "3b": (3072, 28, 24, 8, 8192),
    "7b": (4096, 32, 32, 32, 11008),
    "70b": (8192, 80, 64, 8, 28672),
}


@dataclass(frozen=True, kw_only=True)
class LlmPretrain(Task):
    """See conf/recipe/llm_pretrain.yaml for the keys."""

    free: ClassVar[frozenset[str]] = frozenset({"sample_prompt"})

    size: str
    width: Annotated[int, Gt(0)] | None
    layers: Annotated[int, Gt(0)] | None
    heads: Annotated[int, Gt(0)] | None
    kv_heads: Annotated[int, Gt(0)] | None
    corpus: str
    vocab: Annotated[int, Ge(300)]
    seq_len: Annotated[int, Gt(1)]
    heldout: Annotated[float, Gt(0), Lt(1)]
    sample_prompt: str | None

    def problems(self) -> Sequence[Problem]:
        problems = [
            Problem("recipe", "llm_pretrain", f"needs {package}", "pip install 'trainkit[llm]'")
            for package in ("transformers", "tokenizers")
            if importlib.util.find_spec(package) is None
        ]
        if self.size not in SIZES:
            problems.append(Problem("recipe.size", self.size, f"should be one of {', '.join(SIZES)}"))
            return problems
        width, _, heads, kv_heads, _ = self.shape()
        if width % heads or (width // heads) % 2:
            hint = "rotary embeddings need an even number of channels per head"
            problems.append(Problem("recipe.heads", heads, f"does not split a width of {width} into even parts", hint))
        if heads % kv_heads:
            problems.append(Problem("recipe.kv_heads", kv_heads, f"does not divide the {heads} heads"))
        return [*problems, *_corpus.problems_of("recipe.corpus", self.corpus)]

    def shape(self) -> tuple[int, int, int, int, int]:
        """Width, layers, heads, key/value heads, feed-forward width."""
        width, layers, heads, kv_heads, inner = SIZES[self.size]
        if self.width is not None:
            inner = -(-self.width * 8 // 3 // 64) * 64
        own_heads = self.heads or heads
        return self.width or width, self.layers or layers, own_heads, self.kv_heads or min(kv_heads, own_heads), inner

    def prepare(self, say: Say) -> None:
        made_once(self._cache(), lambda folder: self._tokenize(folder, say))

    def _cache(self) -> Path:
        key = hashlib.blake2b(f"{_corpus.fingerprint(self.corpus)} {self.vocab}".encode(), digest_size=8).hexdigest()
        return cache_folder() / "corpora" / key

    def _tokenize(self, folder: Path, say: Say) -> None:
        from tokenizers import ByteLevelBPETokenizer

        say(f"training a tokenizer of {self.vocab} entries on {self.corpus}")
        tokenizer = ByteLevelBPETokenizer()
        texts = (text for text, _ in _corpus.pieces(self.corpus))
        tokenizer.train_from_iterator(texts, vocab_size=self.vocab, special_tokens=[END], show_progress=False)
        tokenizer.save(str(folder / "tokenizer.json"))
        end = tokenizer.token_to_id(END)
        count = 0
        with (folder / "tokens.bin").open("wb") as file:
            for some in _chunks(_corpus.pieces(self.corpus), 64):
                for encoding, (_, last) in zip(tokenizer.encode_batch([text for text, _ in some]), some, strict=True):
                    ids = np.array([*encoding.ids, end] if last else encoding.ids, self._kind())
                    file.write(ids.tobytes())
                    count += len(ids)
        say(f"  {count:,} tokens")

    def _kind(self) -> type[np.uint16 | np.uint32]:
        """The smallest type that holds every token."""
        return np.uint16 if self.vocab <= 2**16 else np.uint32

    def build_model(self) -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        _hf.quiet()
        width, layers, heads, kv_heads, inner = self.shape()
        config = LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=self.seq_len,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
        model: nn.Module = LlamaForCausalLM(config)
        return model

    def build_data(self) -> Data:
        tokens = np.memmap(self._cache() / "tokens.bin", dtype=self._kind(), mode="r")
        windows = (len(tokens) - 1) // self.seq_len
        if windows < 2:
            hint = (
                f"one window of {self.seq_len} to train on and one to hold out; more text or a smaller recipe.seq_len"
            )
            raise ConfigError([Problem("recipe.corpus", self.corpus, f"holds {len(tokens)} tokens only", hint)])
        cut = windows - max(1, round(windows * self.heldout))
        return Data(Windows(tokens, self.seq_len, 0, cut), Windows(tokens, self.seq_len, cut, windows))

    def example(self, samples: int) -> Batch:
        return Windows(np.zeros(samples * self.seq_len + 1, self._kind()), self.seq_len, 0, samples).fetch(
            range(samples)
        )

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(output.logits.flatten(0, 1).float(), targets["labels"].flatten(), reduction="sum")

    def model_shape(self) -> ModelShape | None:
        if self.size not in SIZES:
            return None
        width, layers, heads, kv_heads, inner = self.shape()
        widths = Widths(model=width, inner=inner, gated=True, vocabulary=self.vocab)
        return ModelShape(layers=layers, heads=(heads, kv_heads), sequence_length=self.seq_len, widths=widths)

    def with_layers(self, layers: int) -> Task:
        """Implements preflight.Layered."""
        return replace(self, layers=layers)

    def sequence_part(self, batch: Batch, part: int, parts: int) -> Batch:
        return _hf.sequence_part(batch, part, parts)

    def tensor_plan(self, model: nn.Module) -> Mapping[str, Any] | None:
        plan = super().tensor_plan(model)
        return None if plan is None else {**plan, **_hf.SEQUENCE}

    def pipeline(self, model: nn.Module) -> Parts | None:
        return _hf.pipeline_parts(model)

    def sample(self, model: nn.Module) -> str | None:
        if self.sample_prompt is None:
            return None
        tokenizer = self._tokenizer()
        asked: Any = tokenizer(self.sample_prompt, return_tensors="pt").to(next(model.parameters()).device)
        length = max(1, min(40, self.seq_len - asked["input_ids"].shape[1]))
        generated: Any = model.generate(**asked, max_new_tokens=length, do_sample=False, use_cache=True)  # type: ignore[operator]
        return str(tokenizer.decode(generated[0], skip_special_tokens=True))

    def export(self, model: nn.Module, folder: Path) -> None:
        """A Hugging Face folder: weights, config and tokenizer."""
        whole: Any = model
        whole.config.use_cache = True
        whole.save_pretrained(folder)
        self._tokenizer().save_pretrained(folder)

    def _tokenizer(self) -> Any:
        from transformers import PreTrainedTokenizerFast

        file = str(self._cache() / "tokenizer.json")
        return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_file=file, bos_token=END, eos_token=END, pad_token=END
        )


class Windows:
    """Windows [first, last) of a token file: `seq_len` inputs each, and the same shifted by one to predict."""

    def __init__(self, tokens: np.ndarray[Any, Any], seq_len: int, first: int, last: int) -> None:
        self.tokens, self.seq_len, self.first, self.last = tokens, seq_len, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def fetch(self, ids: Sequence[int]) -> Batch:
        import torch

        starts = (np.asarray(ids) + self.first) * self.seq_len
        rows = torch.from_numpy(self.tokens[starts[:, None] + np.arange(self.seq_len + 1)].astype(np.int64))
        count = len(starts) * self.seq_len
        return Batch({"input_ids": rows[:, :-1]}, {"labels": rows[:, 1:]}, count, count)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
