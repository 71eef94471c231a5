"""The file that `accelerate config` writes (YAML or JSON), read without Accelerate, which would import torch.

how it is spread    distributed_type, num_processes, num_machines, use_cpu     must agree with the run
what a step means   mixed_precision, dynamo_config                             must agree with the recipe
diagnosis           debug, enable_cpu_affinity                                 handed on to Accelerate
who starts whom     machine_rank, main_process_ip, ...                         the launcher's business: passed over
anything else       a section for another way to train, or unknown             refused by name
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from trainkit.errors import Problem
from trainkit.preflight import Claim
from trainkit.protocols import Cluster
from trainkit.strategy._framework_file import FrameworkFile, read

ZERO, OTHER = "zero1, zero2 or zero3", "mesh"
INSTEAD = {"FSDP": "fsdp", "DEEPSPEED": ZERO, "MEGATRON_LM": OTHER, "TP": "tensor"}
"""The strategy for a distributed_type that this one is not."""

SECTIONS = {"fsdp_config": "fsdp", "deepspeed_config": ZERO, "megatron_lm_config": OTHER, "parallelism_config": OTHER}
"""The strategy for a section that this one does not read."""

PRECISION = {"no": "fp32", False: "fp32", "bf16": "bf16"}  # an unquoted no is YAML's false
PLAIN_COMPILE = {"dynamo_mode": "default", "dynamo_use_fullgraph": False, "dynamo_use_dynamic": False}

AGREES = {"compute_environment", "distributed_type", "num_processes", "num_machines", "use_cpu", "gpu_ids"}
MEANING = {"mixed_precision", "dynamo_config", "gradient_accumulation_steps"}
HANDED_ON = {"debug", "enable_cpu_affinity"}
LAUNCH = {
    *("machine_rank", "main_process_ip", "main_process_port", "main_training_function"),
    *("rdzv_backend", "same_network"),
}
KNOWN = AGREES | MEANING | HANDED_ON | LAUNCH | set(SECTIONS)
OFF = {"downcast_bf16", "fp8_config", "mpirun_config", "tpu_env", "tpu_name", "tpu_use_cluster", "tpu_use_sudo"}
"""Written into every file, and of no effect while they are empty or off."""


@dataclass(frozen=True, slots=True)
class ConfigFile(FrameworkFile):
    """A file that `accelerate config` wrote."""

    @property
    def processes(self) -> int | None:
        """How many ranks it asks for; None where it leaves that open."""
        if self.values.get("distributed_type") == "NO":
            return 1
        count = self.values.get("num_processes", -1)
        return count if isinstance(count, int) and count > 0 else None

    def claims(self, cluster: Cluster) -> Iterator[Claim]:
        """What it says of the recipe's keys."""
        precision = self.values.get("mixed_precision")
        if precision in PRECISION:
            yield self.claim("train.precision", (PRECISION[precision],), f"mixed_precision={precision}")
        dynamo = self.values.get("dynamo_config", {})
        if isinstance(dynamo, Mapping):
            backend = str(dynamo.get("dynamo_backend", "NO")).upper()
            if backend == "INDUCTOR":
                yield self.claim("train.compile", (True,), f"dynamo_backend={backend}")
        kind = self.values.get("distributed_type")
        if cluster.gpus and (self.values.get("use_cpu") or kind == "MULTI_CPU"):
            said = f"distributed_type={kind}" if kind == "MULTI_CPU" else "use_cpu=true"
            yield self.claim("train.device", ("cpu",), said)
        elif cluster.gpus and kind == "MULTI_GPU":
            yield self.claim("train.device", ("cuda", "auto"), f"distributed_type={kind}")

    def problems(self, cluster: Cluster) -> Iterator[Problem]:
        """What it says that no recipe can agree with, and what does not fit `cluster`."""
        yield from self._spread(cluster)
        yield from self._meaning()
        for key, value in self.values.items():
            if key in SECTIONS and value and self.values.get("distributed_type") not in INSTEAD:
                yield self.problem(f"{key} is for another way to train", f"set strategy={SECTIONS[key]}")
            elif key in OFF and value not in (False, "no", {}, []):
                yield self.problem(f"{key}={value} is nothing that trainkit does", "take it out of the file")
            elif key not in KNOWN | OFF:
                yield self.problem(f"{key} is no key of an accelerate config file", "take it out of the file")

    def _spread(self, cluster: Cluster) -> Iterator[Problem]:
        get = self.values.get
        kind = get("distributed_type", "NO" if self.values else None)
        if kind in INSTEAD:
            yield self.problem(f"distributed_type={kind} is another strategy", f"set strategy={INSTEAD[kind]}")
        elif kind not in (None, "NO", "MULTI_CPU", "MULTI_GPU"):
            yield self.problem(f"distributed_type={kind}: trainkit has NO, MULTI_CPU and MULTI_GPU")
        if kind == "MULTI_GPU" and not cluster.gpus:
            yield self.problem("distributed_type=MULTI_GPU, but there is no GPU here", "set it to MULTI_CPU")
        if self.processes not in (None, cluster.ranks):
            said = "distributed_type=NO, which is one process" if kind == "NO" else f"num_processes={self.processes}"
            hint = f"set launcher.ranks={self.processes}, or change the file"
            yield Problem("launcher.ranks", cluster.ranks, f"{self.path} says {said}", hint)
        if self.values and get("num_machines", 1) != cluster.hosts:  # without a file nothing is said of machines
            found = f"num_machines={get('num_machines', 1)}, but the launcher starts on {cluster.hosts}"
            yield self.problem(found, "choose another number with the launcher, or change the file")
        if get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
            yield self.problem(f"compute_environment={get('compute_environment')}: trainkit has LOCAL_MACHINE only")
        if str(get("gpu_ids", "all")) != "all":
            ids = str(get("gpu_ids"))
            yield self.problem(f"gpu_ids={ids}", f"set it to all, and CUDA_VISIBLE_DEVICES={ids} for the command")

    def _meaning(self) -> Iterator[Problem]:
        precision = self.values.get("mixed_precision", "no")
        if precision not in PRECISION:
            yield self.problem(f"mixed_precision={precision}: trainkit has fp32 and bf16", "set it to no or bf16")
        steps = self.values.get("gradient_accumulation_steps", 1)
        if steps != 1:
            hint = "take it out of the file, and set train.micro_batch: what fits into memory at once"
            yield self.problem(f"gradient_accumulation_steps={steps}: trainkit accumulates by itself", hint)
        dynamo = self.values.get("dynamo_config", {})
        if not isinstance(dynamo, Mapping):
            yield self.problem("dynamo_config holds no keys")
            return
        if str(dynamo.get("dynamo_backend", "NO")).upper() not in ("NO", "INDUCTOR"):
            found = f"dynamo_backend={dynamo['dynamo_backend']}: trainkit compiles with INDUCTOR"
            yield self.problem(found, "set it to NO or INDUCTOR")
        for key, value in dynamo.items():
            if key != "dynamo_backend" and value != PLAIN_COMPILE.get(key, False):
                yield self.problem(f"{key}={value}: train.compile has no such setting", "take it out of the file")


def load(path: str | None) -> tuple[ConfigFile, list[Problem]]:
    """The file, and why it cannot be read."""
    otherwise = "is no accelerate config file", "`accelerate config --config_file FILE` writes one"
    values, problems = read(path, yaml.safe_load, "YAML", otherwise)  # JSON is YAML, too
    return ConfigFile(path or "", {key: value for key, value in values.items() if value is not None}), problems
