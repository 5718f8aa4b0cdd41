"""Turns the weights of layers into those of the layers that passes made of them, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from archdsl.ir.graph import Graph, Node
from archdsl.passes.merge_siblings import families
from archdsl.passes.scale_into_linear import Scaling, scalings

if TYPE_CHECKING:
    from torch import Tensor


def scaled(before: Graph, after: Graph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the layers of `after` that took in what scaled or moved their channels in `before`."""
    made: dict[str, Tensor] = {}
    for one in scalings(before):
        roles = dict(after.node(one.layer.path).params)
        weight = state[roles["weight"]]
        kernel, bias = weight.double(), weight.new_zeros(len(weight)).double()
        if roles.get("bias") in state:
            bias = state[roles["bias"]].double()
        kernel, bias = (_before if one.first is None else _after)(one, kernel, bias, state)
        made |= {path: {"weight": kernel, "bias": bias}[role].to(weight.dtype) for role, path in roles.items()}
    return made


def _numbers(one: Scaling, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(factor, summand) of each channel of the value."""
    import torch

    if isinstance(one.by, Node):
        by = state[one.by.params[0][1]].double().flatten()
    else:
        by = torch.tensor([one.by], dtype=torch.float64)
    by = by.expand(int(one.value.type.channels))
    sign = -1 if one.swap and one.node.op.name == "sub" else 1
    match one.node.op.name:
        case "mul":
            return by, torch.zeros_like(by)
        case "div":
            return 1 / by, torch.zeros_like(by)
        case "sub" if not one.swap:
            return torch.ones_like(by), -by
        case _:
            return sign * torch.ones_like(by), by


def _after(one: Scaling, kernel: Tensor, bias: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of the weight, where what the layer makes is scaled."""
    factor, summand = _numbers(one, state)
    assert one.first is not None
    rows = slice(one.first, one.first + len(factor))
    kernel, bias = kernel.clone(), bias.clone()
    kernel[rows] *= factor.reshape(-1, *[1] * (kernel.dim() - 1))
    bias[rows] = bias[rows] * factor + summand
    return kernel, bias


def _before(one: Scaling, kernel: Tensor, bias: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Columns of the weight, by groups, where what the layer reads is scaled."""
    factor, summand = _numbers(one, state)
    groups = len(factor) // kernel.shape[1]
    of = [x.reshape(groups, 1, -1, *[1] * (kernel.dim() - 2)) for x in (factor, summand)]
    apart = kernel.reshape(groups, -1, *kernel.shape[1:])
    return (apart * of[0]).flatten(0, 1), bias + (apart * of[1]).flatten(0, 1).flatten(1).sum(1)


def merged(before: Graph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the layers that siblings in `before` became."""
    import torch

    made: dict[str, Tensor] = {}
    for one in families(before):
        owned = [{role: state[path] for role, path in layer.params} for layer in one.layers]
        made[f"{one.path}.weight"] = torch.cat([w["weight"] for w in owned])
        if one.bias:
            made[f"{one.path}.bias"] = torch.cat(
                [w.get("bias", w["weight"].new_zeros(len(w["weight"]))) for w in owned]
            )
    return made
