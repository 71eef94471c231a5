"""Data parallel by Hugging Face Accelerate (https://huggingface.co/docs/accelerate): an Accelerator wraps the model
and the optimizer, as an accelerate config file says where there is one.

What a step means stays trainkit's: the scale of the loss, accumulation, precision, clipping, the learning rate.
Accelerate would divide the loss by its number of accumulation steps, also in a shorter last window, and step a
schedule once per rank. So the file's keys for these must agree with the recipe, and are not handed on.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from trainkit.errors import Problem
from trainkit.preflight import Claim
from trainkit.protocols import Cluster, Engine, Training, World
from trainkit.strategy._accelerate_config import load
from trainkit.strategy._data_parallel import WholeModel


@dataclass(frozen=True, kw_only=True)
class Accelerate(WholeModel):
    """The whole model on every rank; gradients are averaged once per global batch. `config`: path of a file that
    `accelerate config` wrote."""

    config: str | None
    timeout_s: Annotated[float, Gt(0)]

    def ranks(self, cluster: Cluster) -> int:
        return load(self.config)[0].processes or super().ranks(cluster)

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        file, problems = load(self.config)
        if importlib.util.find_spec("accelerate") is None:
            hint = "pip install 'trainkit[accelerate]'; or set strategy=ddp, which trains the same"
            problems = [Problem("strategy", "accelerate", "Accelerate is not installed", hint), *problems]
        return [*problems, *file.problems(cluster)]

    def claims(self, cluster: Cluster) -> Sequence[Claim]:
        return list(load(self.config)[0].claims(cluster))

    def connect(self, device: str) -> World:
        from trainkit.strategy._accelerate import connect

        return connect(device, self.timeout_s)

    def build(self, training: Training, world: World) -> Engine:
        from trainkit.strategy._accelerate import build

        return build(training, world, load(self.config)[0])
