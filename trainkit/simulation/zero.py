"""ZeRO by its arithmetic (Rajbhandari et al., SC 2020, arXiv:1910.02054), without DeepSpeed's engine, which does not
run with fake tensors. Which rank has how much follows DeepSpeed 0.19:

    stages 1, 2   the parameters of an optimizer group in one row, padded to a multiple of 2 x ranks, in equal parts
    stage 3       every parameter in equal parts, the last one padded; small ones are kept whole besides

Collectives are those of the paper's section 7: gradients are scattered, weights gathered; but at stages 1 and 2
DeepSpeed sums gradients on all ranks. They are counted in passes over all parameters, which DeepSpeed splits into many.
At stage 3 it keeps weights from forward to backward while there is room (stage3_max_live_parameters), and then gathers
less than is said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from trainkit.protocols import Batch, Training
from trainkit.simulation.values import Collective, Memory, Simulation
from trainkit.simulation.whole import AXIS, Alone, Evaluate, alone, simulation, size
from trainkit.strategy._zero import Zero
from trainkit.strategy._zero_config import load

KEPT_WHOLE = 100_000
"""Elements up to which DeepSpeed keeps a parameter whole by default at stage 3."""


def simulate(
    training: Training, strategy: Zero, ranks: int, share: Sequence[Batch], evaluate: Evaluate = alone
) -> Simulation:
    """`share`: the micro-batches of a rank."""
    found = evaluate(training, share)
    zero = load(strategy.config)[0].engine(strategy.spread(), training.clip_norm, training.precision)
    config, stage = zero["zero_optimization"], strategy.spread().stage
    whole, trained = size(found.engine.model.parameters()), size(found.engine.parameters)
    if stage == 3:
        part = sum(4 * -(-p.numel() // ranks) for p in found.engine.parameters)
        frozen = sum(4 * -(-p.numel() // ranks) for p in found.engine.model.parameters() if not p.requires_grad)
        weights = 2 * part + frozen + _kept_whole(found, config)
    else:
        part = sum(4 * _equal_part(group["params"], ranks) for group in found.engine.optimizer.param_groups)
        weights = whole + part
    groups = len(found.engine.optimizer.param_groups)
    memory = Memory(
        weights=weights,
        gradients=trained if stage == 1 else part,
        accumulated=0,
        moments=2 * part + 4 * groups,  # and a count of steps
        average=part if training.ema else 0,
        activations=found.kept.activations,
        copies=found.kept.copies,
    )
    return simulation(training, ranks, share, found, memory, _collectives(stage, ranks, len(share), whole, trained))


def _equal_part(parameters: Sequence[nn.Parameter], ranks: int) -> int:
    """Elements of a row of `parameters` that a rank has."""
    multiple = 2 * ranks
    return -(-sum(p.numel() for p in parameters) // multiple) * multiple // ranks


def _kept_whole(found: Alone, config: dict[str, Any]) -> int:
    """Bytes of the parameters that are not worth gathering."""
    most = config.get("stage3_param_persistence_threshold", KEPT_WHOLE)
    return size(p for p in found.engine.parameters if p.numel() <= most)


def _collectives(stage: int, ranks: int, micro_batches: int, whole: int, trained: int) -> tuple[Collective, ...]:
    """`count`: passes over all parameters. Stage 1 sends gradients once per step, the others once per micro-batch."""
    scattered = 1 if stage == 1 else micro_batches
    gathered, each = (2 * micro_batches, whole) if stage == 3 else (1, trained)
    kind = "reduce_scatter" if stage == 3 else "all_reduce"
    return (
        Collective(kind="all_gather", axis=AXIS, ranks=ranks, count=gathered, payload=gathered * each),
        Collective(kind=kind, axis=AXIS, ranks=ranks, count=scattered, payload=scattered * trained),
    )
