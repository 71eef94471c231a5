"""Context parallelism: each rank of an axis has one part of every sequence, and attention sees the whole of it.

Between the attentions a token needs no other, so that activations are divided. In an attention each rank gathers the
keys and values of all, as Llama 3 was trained (Grattafiori et al., 2024, arXiv:2407.21783, section 3.3.2); their
gradients are summed where they came from. torch 2.13's own ring attention knows the kernels of GPUs only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from trainkit.errors import TrainkitError
from trainkit.strategy._tensor import Modes


def attend(module: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, modes: Modes) -> None:
    """Have the attentions of `blocks` in `module` see the whole sequence while `modes.context` says that each rank of
    the one-axis `mesh` is given one part of it."""
    names = {id(part): name for name, part in module.named_modules()}
    for block in blocks or [module]:
        block.forward = partial(_attending, block.forward, mesh, modes, names[id(block)])


def _attending(
    forward: Callable[..., Any], mesh: DeviceMesh, modes: Modes, name: str, *args: Any, **kwargs: Any
) -> Any:
    if not modes.context:
        return forward(*args, **kwargs)
    with Attention(mesh) as attentions:
        output = forward(*args, **kwargs)
    if not attentions.found:
        raise TrainkitError(
            f"{name or 'the model'} calls no scaled_dot_product_attention of torch, so a context axis cannot have it "
            "see the whole sequence\n    set strategy.context=1"
        )
    return output


class Attention(TorchFunctionMode):
    """Within, torch's scaled_dot_product_attention is that over all ranks of `mesh`."""

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh, self.found = mesh, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.found = True
        return attention(self.mesh, *args, **(kwargs or {}))


def attention(
    mesh: DeviceMesh,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **more: Any,
) -> Tensor:
    """scaled_dot_product_attention of this rank's queries (..., heads, part, channels) with the keys and values of all
    ranks, each of which has the next part. Raises TrainkitError for a mask: nothing says how it is divided. Collective.
    """
    part = query.shape[-2]
    if attn_mask is not None or key.shape[-2] != part:
        raise TrainkitError(
            "a context axis divides full and causal attention of a sequence with itself only, and not one with a mask\n"
            "    set strategy.context=1"
        )
    seen = part * (mesh.get_local_rank() + 1 if is_causal else mesh.size())
    keys, values = (_whole(tensor, mesh)[..., :seen, :] for tensor in (key, value))
    mask = causal_lower_right(part, seen) if is_causal else None
    return scaled_dot_product_attention(query, keys, values, mask, dropout_p, **more)


def _whole(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    """The parts of all ranks, one after the other; of its gradient each rank gets the sum for its own part."""
    spread = DTensor.from_local(tensor, mesh, [Shard(tensor.ndim - 2)], run_check=False)
    return spread.full_tensor(grad_placements=[Partial()])


def draw_apart(place: int) -> None:
    """Have ranks that share a seed draw different random numbers (dropout)."""
    torch.manual_seed((torch.initial_seed() + place) % 2**63)
