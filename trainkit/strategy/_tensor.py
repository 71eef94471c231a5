"""Tensor parallelism: a plan names, per module, how its matrix is divided over the ranks of one axis.

Column- and row-wise division after Megatron-LM (Shoeybi et al., 2019, arXiv:1909.08053), sequence parallelism after
Korthikanti et al. (MLSys 2023, arXiv:2205.05198), both with torch's DTensor. Plan: {module name, * for a layer's
number: style}, where a style is one of torch's ParallelStyle objects or a name out of STYLES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from trainkit.canonical import wildcard
from trainkit.errors import Problem

Plan = Mapping[str, Any]


@dataclass(slots=True)
class Modes:
    """What the hooks of the divided modules do in the coming forward.

    sequence    between the divided matrices every rank holds a part of the sequence (dim 1); set by the hook of the
                first block, because a sequence that does not divide stays whole
    context     every rank of a context axis is given a part of the sequence (_context.py)
    vocabulary  the logits stay divided (dim -1), for a loss that is computed in parts
    """

    sequence: bool = False
    context: bool = False
    vocabulary: bool = False

    @property
    def between(self) -> Placement:
        return Shard(1) if self.sequence else Replicate()


def divide(module: nn.Module, mesh: DeviceMesh, plan: Plan, sequence_parallel: bool) -> Modes:
    """Divide `module`, whole and equal on all ranks of the one-axis `mesh`, by `plan`. Names without a module are
    passed over: they may be in another stage. Tied parameters stay tied."""
    modes = Modes()
    with staying_tied(module):
        for name, part in list(module.named_modules()):
            style = plan.get(name, plan.get(wildcard(name)))
            if isinstance(style, ParallelStyle):
                _apply(part, mesh, style)
            elif style is not None and (sequence_parallel or not style.startswith("sequence")):
                STYLES[style](part, mesh, modes)
    return modes


def plan_problems(module: nn.Module, size: int, plan: Plan | None, sequence_parallel: bool) -> list[Problem]:
    """Why `module` cannot be divided over `size` ranks by `plan`."""
    kind = type(module).__name__
    if not plan:
        hint = "give the recipe a tensor_plan(model), or use strategy=fsdp"
        return [Problem("strategy", f"tensor {size}", f"the model {kind} has no plan for a tensor axis", hint)]
    problems = []
    for name, part in module.named_modules():
        style = plan.get(name, plan.get(wildcard(name)))
        if isinstance(style, str) and style not in STYLES:
            known = f"known are {', '.join(STYLES)}, and torch's ParallelStyle objects"
            problems.append(
                Problem("strategy", f"tensor {size}", f"{kind}: {name} has the unknown style {style}", known)
            )
        rows, columns = _divided(part, style)
        if rows % size or columns % size:
            message = f"{kind}: {name} ({rows if rows % size else columns} channels) does not divide by {size} ranks"
            problems.append(Problem("strategy", f"tensor {size}", message, "choose another size of the tensor axis"))
    if sequence_parallel and not any(isinstance(s, str) and s.startswith("sequence") for s in plan.values()):
        message = f"the plan of the model {kind} says nothing about the sequence"
        hint = (
            "set it to false, or have the recipe's tensor_plan(model) name the first block, the norms and what follows"
        )
        problems.append(Problem("strategy.sequence_parallel", True, message, hint))
    return problems


def _divided(part: nn.Module, style: Any) -> tuple[int, int]:
    """The lengths that must divide, 0 where none must. A vocabulary need not: its parts may be uneven."""
    if not isinstance(part, nn.Linear):
        return 0, 0
    return part.out_features if style == "colwise" else 0, part.in_features if style == "rowwise" else 0


@contextmanager
def staying_tied(module: nn.Module) -> Iterator[None]:
    """Behind it, what was one parameter in several places of `module` is so again."""
    shared = _tied(module)
    yield
    for (first, its_name), *others in shared:
        for owner, name in others:
            setattr(owner, name, getattr(first, its_name))


def _tied(module: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Where each parameter is that is in more than one place."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(parameter), []).append((owner, name))
    return [found for found in places.values() if len(found) > 1]


# ----------------------------------------------------------------------------------------------- styles


def _apply(part: nn.Module, mesh: DeviceMesh, style: ParallelStyle) -> None:
    parallelize_module(part, mesh, style, src_data_rank=None)  # every rank has built the same weights


def _colwise(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    """Each rank has some of the output channels. Whole input, output of this rank's channels."""
    _gather_input(part, mesh, modes)
    _apply(part, mesh, ColwiseParallel())


def _rowwise(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    """Each rank has some of the input channels; the outputs are summed."""
    _apply(part, mesh, RowwiseParallel(output_layouts=Partial(), use_local_output=False))
    part.register_forward_hook(lambda _, args, output: output.redistribute(placements=[modes.between]).to_local())


def _head(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    """Column-wise; the output is gathered, or left in parts for the loss."""

    def settle(_: nn.Module, args: Any, output: DTensor) -> Tensor:
        return output if modes.vocabulary else output.redistribute(placements=[Replicate()]).to_local()

    _gather_input(part, mesh, modes)
    _apply(part, mesh, ColwiseParallel(output_layouts=Shard(-1), use_local_output=False))
    part.register_forward_hook(settle)


def _embedding(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    """Each rank has some rows of the table; whole output."""
    _apply(part, mesh, RowwiseParallel(input_layouts=Replicate()))


def _split_input(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    """From here on each rank works on its part of the sequence, where it divides."""

    def split(hidden: Tensor) -> Tensor:
        modes.sequence = hidden.shape[1] % mesh.size() == 0
        whole = DTensor.from_local(hidden, mesh, [Replicate()], run_check=False)
        return whole.redistribute(placements=[modes.between]).to_local()

    _before(part, split)


def _gather_input(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    """The first input whole, if it comes in parts."""
    _before(part, lambda x: x.redistribute(placements=[Replicate()]) if isinstance(x, DTensor) else x)


def _norm(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    """A norm over channels, of this rank's part of the sequence; a matrix after it gathers its output."""
    _on_a_part(part, mesh, modes)
    part.register_forward_hook(lambda _, args, output: output if modes.sequence else output.to_local())


def _last_norm(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    """As the others; its output is whole again."""
    _on_a_part(part, mesh, modes)
    part.register_forward_hook(lambda _, args, output: output.redistribute(placements=[Replicate()]).to_local())


def _on_a_part(part: nn.Module, mesh: DeviceMesh, modes: Modes) -> None:
    distribute_module(part, mesh)
    _before(part, lambda x: DTensor.from_local(x, mesh, [modes.between], run_check=False))


def _before(part: nn.Module, change: Callable[[Any], Any]) -> None:
    """Have `change` applied to the first input of `part`, given by position or by name."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, kwargs | {name: change(kwargs[name])}

    part.register_forward_pre_hook(hook, with_kwargs=True)


STYLES: dict[str, Callable[[nn.Module, DeviceMesh, Modes], None]] = {
    "colwise": _colwise,
    "rowwise": _rowwise,
    "colwise_gather_output": _head,
    "embedding_rowwise": _embedding,
    "sequence_split_input": _split_input,
    "sequence_gather_input": _gather_input,
    "sequence": _norm,
    "sequence_gather_output": _last_norm,
}
"""The names that transformers uses, and, for sequence_parallel only, where the sequence is divided and gathered."""
