"""The true norm of all gradients together, and clipping by it, where every rank holds a part.

A gradient is a plain tensor (whole on every rank), or a DTensor that is sharded over some axes of a mesh and whole over
the others. Squares are summed locally per set of axes, then once over each axis: as many small all-reduces as
there are sharded axes, whatever the number of tensors. torch's own get_total_norm takes tensors of one mesh only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from trainkit.strategy._mesh import MeshWorld

Axes = frozenset[str]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of `tensor`, sharing its memory. Call without gradients."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def clip(
    parameters: Sequence[nn.Parameter],
    most: float | None,
    world: MeshWorld,
    copies: Sequence[nn.Parameter] = (),
) -> Tensor:
    """The 2-norm of the gradients of all ranks' `parameters`, on the world's device; above `most` they are scaled down
    to it.

    The world's mesh has the names of all axes that parameters are sharded over. Along an axis called `pipeline` every
    rank holds parameters of its own; `copies` are those that another stage counts too, and this rank does not.
    Collective.
    """
    elsewhere = {id(p) for p in copies}
    found = [(gradient, id(p) in elsewhere) for p in parameters if (gradient := settled(p)) is not None]
    gradients = [gradient for gradient, _ in found]
    stages = Axes({"pipeline"} & {*_names(world.mesh)})
    groups: dict[Axes, list[Tensor]] = {stages: []}
    for gradient in (gradient for gradient, copied in found if not copied):
        groups.setdefault(_sharded_over(gradient) | stages, []).append(local(gradient))
    squares = {axes: nn.utils.get_total_norm(tensors).to(world.device) ** 2 for axes, tensors in groups.items()}
    norm = _summed(squares, world).sqrt()
    if most is not None and gradients:
        factor = (most / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_
        parts = [local(gradient) for gradient in gradients]
        torch._foreach_mul_(parts, factor.to(parts[0].device))
    return norm


def settled(parameter: nn.Parameter) -> Tensor | None:
    """The gradient of `parameter` laid out as the parameter is: that of a replicated DTensor may still be a sum in
    parts."""
    gradient = parameter.grad
    if not isinstance(gradient, DTensor) or not isinstance(parameter, DTensor):
        return gradient
    if gradient.placements != parameter.placements:
        gradient = parameter.grad = gradient.redistribute(placements=parameter.placements)
    return gradient


def _names(mesh: DeviceMesh) -> tuple[str, ...]:
    return mesh.mesh_dim_names or ()


def _sharded_over(tensor: Tensor) -> Axes:
    if not isinstance(tensor, DTensor):
        return Axes()
    named = zip(_names(tensor.device_mesh), tensor.placements, strict=True)
    return Axes(name for name, placement in named if not placement.is_replicate())


def _summed(squares: dict[Axes, Tensor], world: MeshWorld) -> Tensor:
    """The sum of all ranks' squares, each counted once."""
    for name in reversed(_names(world.mesh)):
        over = [axes for axes in squares if name in axes]
        if not over:
            continue
        parts = world.add_up(torch.stack([squares.pop(axes) for axes in over]), world.mesh.get_group(name))
        for axes, part in zip(over, parts, strict=True):
            rest = axes - {name}
            squares[rest] = squares[rest] + part if rest in squares else part
    return squares[Axes()]
