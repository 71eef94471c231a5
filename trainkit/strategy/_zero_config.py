"""A user's own DeepSpeed JSON, read without DeepSpeed, and the configuration that DeepSpeed gets.

what a step means   batch sizes, clipping, precision, optimizer, scheduler     must agree with the recipe; 'auto' does
how it is spread    zero_optimization: stage, offload_optimizer, offload_param must agree with the strategy's keys
how it is done      the rest of zero_optimization, and HANDED_ON               handed on to DeepSpeed
anything else       another way to train, or unknown                           refused by name, unless it is off

The keys are described in https://www.deepspeed.ai/docs/config-json/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainkit.errors import Problem
from trainkit.preflight import Claim
from trainkit.protocols import Precision
from trainkit.strategy._framework_file import FrameworkFile, read

OPTIMIZER = {
    "lr": "optimizer.lr",
    "betas": "optimizer.betas",
    "eps": "optimizer.eps",
    "weight_decay": "optimizer.weight_decay",
}
SCHEDULER = {
    "total_num_steps": "train.steps",
    "warmup_num_steps": "schedule.warmup",
    "warmup_max_lr": "optimizer.lr",
    "cos_min_ratio": "schedule.floor",
}
"""A section's parameters by the keys of trainkit that they are about."""

SCHEDULES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
HALVES = {"bf16": "bf16", "bfloat16": "bf16", "torch_autocast": "bf16", "fp16": "fp16", "amp": "fp16"}
"""Sections for lower precision, by what they stand for."""
FP16 = ("float16", "fp16", "half")

BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
MEANING = {*BATCH, "gradient_clipping", "optimizer", "scheduler", *HALVES}
HANDED_ON = {
    *("steps_per_print", "wall_clock_breakdown", "memory_breakdown", "dump_state", "comms_logger", "flops_profiler"),
    *("prescale_gradients", "gradient_predivide_factor", "disable_allgather", "aio"),
}
OTHER_ZERO = {
    *("zenflow", "zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights"),
    *("mics_shard_size", "elastic_checkpoint", "cpu_offload", "cpu_offload_param"),
}
"""Keys of zero_optimization that would change the numbers or the checkpoints, or are no longer DeepSpeed's."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The strategy's own keys."""

    stage: int
    offload_optimizer: bool
    offload_parameters: bool


@dataclass(frozen=True, slots=True)
class DeepSpeedFile(FrameworkFile):
    """A DeepSpeed JSON; 'auto' counts as no value."""

    def claims(self, ranks: int) -> Iterator[Claim]:
        """What it says of the recipe's keys."""
        yield from self._batch(ranks)
        if "gradient_clipping" in self.values:
            clip = self.values["gradient_clipping"]
            yield self.claim("train.clip_norm", (clip or None,), f"gradient_clipping={clip}")
        half = {name: _mapping(self.values.get(name)) for name, stands in HALVES.items() if stands == "bf16"}
        on = [name for name, section in half.items() if section.get("enabled") is True]
        if on and half[on[0]].get("dtype") not in FP16:
            yield self.claim("train.precision", ("bf16",), f"{on[0]}.enabled=true")
        elif not on and _get(half, "bf16.enabled") is False:
            yield self.claim("train.precision", ("fp32",), "bf16.enabled=false")
        yield from self._section("optimizer", OPTIMIZER)
        kind = _get(self.values, "scheduler.type")
        if kind in SCHEDULES:
            yield self.claim("schedule", (SCHEDULES[kind],), f"scheduler.type={kind}")
        yield from self._section("scheduler", SCHEDULER)

    def _batch(self, ranks: int) -> Iterator[Claim]:
        """DeepSpeed's rule: train_batch_size = micro batch x accumulation steps x ranks; two of them give the third."""
        whole, micro, steps = (self.values.get(key) for key in BATCH)
        said = ", ".join(f"{key}={self.values[key]}" for key in BATCH if key in self.values)
        if whole is None and micro and steps:
            whole = micro * steps * ranks
            said += f" on {ranks} rank(s)"
        if whole:
            yield self.claim("train.global_batch", (whole,), said)
        if micro is None and whole and steps:
            micro = whole // (steps * ranks)
            said += f" on {ranks} rank(s)"
        if micro:
            all_at_once = (None,) if micro * ranks == whole else ()
            yield self.claim("train.micro_batch", (micro, *all_at_once), said)

    def _section(self, name: str, keys: Mapping[str, str]) -> Iterator[Claim]:
        for parameter, value in _mapping(_get(self.values, f"{name}.params")).items():
            if parameter in keys:
                wanted = tuple(value) if isinstance(value, list) else value
                yield self.claim(keys[parameter], (wanted,), f"{name}.params.{parameter}={json.dumps(value)}")

    def problems(self, spread: Spread) -> Iterator[Problem]:
        """What it says that no recipe can agree with, and what contradicts the strategy's keys."""
        yield from self._contradictions(spread)
        yield from self._sections()
        batch = [key for key in BATCH if key in self.values]
        if batch == ["gradient_accumulation_steps"]:
            hint = "say 'auto', or train_micro_batch_size_per_gpu too"
            yield self.problem(f"{_shown(batch[0], self.values)} alone says nothing of the batch", hint)
        for key, value in self.values.items():
            if key not in MEANING | HANDED_ON | {"zero_optimization"} and not _off(value):
                hint = "take it out of the file"
                yield self.problem(f"{_shown(key, self.values)} is nothing that trainkit hands on to DeepSpeed", hint)

    def _contradictions(self, spread: Spread) -> Iterator[Problem]:
        zero = self.zero
        stage = zero.get("stage", spread.stage)
        if stage != spread.stage:
            instead = f"set strategy=zero{stage}, or change the file" if stage in (1, 2, 3) else "change the file"
            found = f"{self.path} says zero_optimization.stage={stage}"
            yield Problem("strategy", f"zero{spread.stage}", found, instead)
        ours = {"offload_optimizer": spread.offload_optimizer, "offload_param": spread.offload_parameters}
        for section, on in ours.items():
            key = "offload_parameters" if section == "offload_param" else section
            device = _get(zero, f"{section}.device")
            if device not in (None, "none", "cpu"):
                found = f"zero_optimization.{section}.device={device}: checkpoints need it in memory"
                yield self.problem(found, "set it to cpu or none")
            elif device is not None and (device == "cpu") != on:
                found = f"{self.path} says zero_optimization.{section}.device={device}"
                hint = f"set strategy.{key}={json.dumps(not on)}, or change the file"
                if section == "offload_param" and spread.stage < 3:
                    yield self.problem(f"zero_optimization.{section} is for zero3", "set strategy=zero3")
                else:
                    yield Problem(f"strategy.{key}", on, found, hint)
        if _get(zero, "offload_optimizer.ratio") not in (None, 1, 1.0):
            found = "zero_optimization.offload_optimizer.ratio below 1 needs DeepSpeed's own optimizer"
            yield self.problem(found, "take it out of the file")

    def _sections(self) -> Iterator[Problem]:
        kind = _get(self.values, "optimizer.type")
        if kind is not None and str(kind).lower() not in ("adam", "adamw"):
            hint = "take optimizer out of the file; trainkit builds the recipe's"
            yield self.problem(f"optimizer.type={kind}: trainkit has AdamW", hint)
        if _get(self.values, "optimizer.params.adam_w_mode") is False:
            yield self.problem("optimizer.params.adam_w_mode=false: trainkit decouples weight decay", "set it to true")
        kind = _get(self.values, "scheduler.type")
        if kind is not None and kind not in SCHEDULES:
            hint = "take scheduler out of the file; trainkit runs the recipe's"
            yield self.problem(f"scheduler.type={kind}: trainkit has {', '.join(SCHEDULES)}", hint)
        for name, stands in HALVES.items():
            section = _mapping(self.values.get(name))
            if (section.get("enabled") is True and stands == "fp16") or section.get("dtype") in FP16:
                yield self.problem(f"{name}: trainkit has fp32 and bf16", "use bf16, and train.precision=bf16")
            extra = [key for key, value in section.items() if key not in ("enabled", "dtype") and not _off(value)]
            if section.get("enabled") is True and stands == "bf16" and extra:
                found = f"{name}.{extra[0]}: trainkit keeps fp32 weights, moments and reductions"
                yield self.problem(found, "take it out of the file")
        for key, value in self.zero.items():
            if (key in OTHER_ZERO and not _off(value)) or (key == "compute_grad_norm" and value is False):
                yield self.problem(f"zero_optimization.{key}={json.dumps(value)} is nothing that trainkit does")

    @property
    def zero(self) -> Mapping[str, Any]:
        return _mapping(self.values.get("zero_optimization"))

    def engine(self, spread: Spread, clip_norm: float | None, precision: Precision) -> dict[str, Any]:
        """The configuration for deepspeed.initialize. trainkit scales the loss, counts the micro-batches and sets the
        learning rate; so one micro-batch of one sample is all that DeepSpeed is told of."""
        zero = {**self.zero, "stage": spread.stage}
        for section, on in {
            "offload_optimizer": spread.offload_optimizer,
            "offload_param": spread.offload_parameters,
        }.items():
            zero.pop(section, None)
            if on:
                zero[section] = {**_mapping(self.zero.get(section)), "device": "cpu"}
        return {
            **{key: value for key, value in self.values.items() if key in HANDED_ON},
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": clip_norm or 0.0,
            # No module's gradients travel in bf16: autocast is for the arithmetic only.
            "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            # torch's fused AdamW steps offloaded weights too; DeepSpeed's own would be compiled at the start.
            "zero_force_ds_cpu_optimizer": False,
        }


def load(path: str | None) -> tuple[DeepSpeedFile, list[Problem]]:
    """The file, and why it cannot be read."""
    values, problems = read(path, json.loads, "JSON", ("is no DeepSpeed configuration", ""))
    return DeepSpeedFile(path or "", _without_auto(values)), problems


def _without_auto(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: _without_auto(v) if isinstance(v, Mapping) else v for key, v in values.items()}
    return {key: value for key, value in kept.items() if value is not None and value != "auto"}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _get(values: Mapping[str, Any], dotted: str) -> Any:
    for key in dotted.split(".")[:-1]:
        values = _mapping(values.get(key))
    return values.get(dotted.split(".")[-1])


def _off(value: object) -> bool:
    """Whether a key with this value does nothing."""
    return value in (False, {}, [], "none") or (isinstance(value, Mapping) and value.get("enabled") is False)


def _shown(key: str, values: Mapping[str, Any]) -> str:
    return key if isinstance(values[key], Mapping) else f"{key}={json.dumps(values[key])}"
