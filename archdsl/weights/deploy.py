"""Turns trained weights into those of the deploy graph: each `rep def` as the one convolution or linear it is.

A value inside a `rep def` is an affine, shift-invariant function of its input (frontend.rep proves it), so it is held
as the kernel and bias of that function, and each op of the body makes its result's from its operands'. In float64; the
results have the type of the weights they are made of.
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from archdsl.diagnostics import ArchError, error
from archdsl.ir.graph import Graph, Node, Region, Value
from archdsl.ir.types import Pair
from archdsl.ops.base import pair
from archdsl.passes.fold_affines import FoldAffines, scalable
from archdsl.passes.fold_affines import turns as affine_turns
from archdsl.passes.fold_constants import FoldConstants, constants
from archdsl.passes.fold_leading_norms import FoldLeadingNorms, leading
from archdsl.passes.fold_leading_norms import rounds as leading_rounds
from archdsl.passes.fold_norms import FoldNorms, foldable, rounds
from archdsl.passes.merge_siblings import MergeSiblings
from archdsl.passes.pipeline import Step
from archdsl.passes.scale_into_linear import ScaleIntoLinear, turns
from archdsl.weights.constants import computed
from archdsl.weights.layers import merged, scaled

if TYPE_CHECKING:
    from torch import Tensor, dtype


def fold_weights(graph: Graph, deployed: Graph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `deployed` that computes what `graph`, the same arch in eval mode, computes with `state`.

    Raises E-WEIGHT-DEPLOY where a weight of `deployed` is neither one of `graph` nor made of some.
    """
    bodies = _bodies(graph, state)
    out: dict[str, Tensor] = {}
    for node in deployed.weight_nodes():
        if all(path in out for _, path in node.params):
            continue  # another use of shared weights
        call = bodies.calls.get(_identity(deployed.regions[node.region])) if _collapsed(deployed, node) else None
        if call is not None:
            out |= _placed(deployed, node, bodies.kernel(call), bodies.precision(call))
            continue
        for _, path in node.params:
            if path not in graph.params or graph.params[path].shape != deployed.params[path].shape:
                why = f"the eval graph has no `{path}` {list(deployed.params[path].shape)}"
                raise _underivable(deployed, node, why, "let `rep def` alone tell deployment from evaluation")
            out[path] = state[path]
    return {path: out[path] for path in deployed.params}


def _collapsed(graph: Graph, node: Node) -> bool:
    """Whether the node takes its call's input to its result with the call's weights: what a `rep def` becomes."""
    region = graph.regions[node.region]
    able = node.op.name == "conv" or (node.op.name == "linear" and node.op.attributes()["axis"] == "c")
    whole = region.results == (node.value(),) and graph.operands(node) == tuple(v for _, v in region.ports)
    return able and whole and region.kind == "call" and node.module == region.module


def _identity(region: Region) -> tuple[str, str, str]:
    """What calls have in common that own the same weights."""
    return region.name, region.module, region.share


def _placed(graph: Graph, node: Node, found: Affine, precision: dtype) -> dict[str, Tensor]:
    """The kernel and bias as the tensors of a conv or linear. Raises E-WEIGHT-DEPLOY where they have other shapes."""
    groups = node.op.attributes().get("g", 1)
    assert isinstance(groups, int)
    tensors = {"weight": found.regrouped(groups).weight, "bias": found.bias}
    out = {}
    for role, path in node.params:
        shape = graph.params[path].shape
        if tensors[role].numel() != math.prod(shape):
            sizes = f"`{path}` is {list(shape)}, what the body makes is {list(tensors[role].shape)}"
            raise _underivable(graph, node, sizes, "let the body be the same in every mode")
        out[path] = tensors[role].reshape(shape).to(precision)
    return out


def _underivable(graph: Graph, node: Node, why: str, help: str) -> ArchError:
    return error(
        "E-WEIGHT-DEPLOY",
        f"the deploy weights of `{graph.name}` cannot be made of its trained ones: {why}",
        node.span,
        help=help,
    )


# -- passes --------------------------------------------------------------------------------------


def pass_weights(steps: Sequence[Step], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the graph after passes that computes what the one before them does with `state`."""
    made = dict(state)
    for step in steps:
        if isinstance(step.ran, FoldNorms):
            for before, after in rounds(step.before):
                made |= _with_norms(before, after, made)
        elif isinstance(step.ran, FoldLeadingNorms):
            for before, after in leading_rounds(step.before):
                made |= _with_leading_norms(before, after, made)
        elif isinstance(step.ran, FoldAffines):
            for before, after in affine_turns(step.before):
                made |= _with_affines(before, after, made)
        elif isinstance(step.ran, FoldConstants):
            paths = {one.value: one.path for one in constants(step.before)}
            made |= {paths[value]: tensor for value, tensor in computed(step.before, paths, made).items()}
        elif isinstance(step.ran, ScaleIntoLinear):
            for before, after in turns(step.before):
                made |= scaled(before, after, made)
        elif isinstance(step.ran, MergeSiblings):
            made |= merged(step.before, made)
        made = {path: made[path] for path in step.after.params}
    return made


def _with_norms(before: Graph, after: Graph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the layers that took in a norm."""
    made: dict[str, Tensor] = {}
    for layer, norm in foldable(before):
        own = {role: state[path].double() for role, path in layer.params}
        factor, shift = _factors(norm, state)
        kernel = own["weight"]
        folded = {
            "weight": kernel * factor.reshape(-1, *[1] * (kernel.dim() - 1)),
            "bias": own.get("bias", 0) * factor + shift,
        }
        precision = state[layer.params[0][1]].dtype
        made |= {path: folded[role].to(precision) for role, path in after.node(layer.path).params}
    return made


def _with_leading_norms(before: Graph, after: Graph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the layers that took in the norm before them."""
    made: dict[str, Tensor] = {}
    for norm, layer in leading(before):
        own = {role: state[path].double() for role, path in layer.params}
        kernel = own["weight"]
        groups = norm.value().type.channels // kernel.shape[1]
        grouped = kernel.reshape(groups, -1, *kernel.shape[1:])
        factor, shift = (x.reshape(groups, 1, -1, *[1] * (kernel.dim() - 2)) for x in _factors(norm, state))
        folded = {
            "weight": (grouped * factor).reshape(kernel.shape),
            "bias": own.get("bias", 0) + (grouped * shift).reshape(len(kernel), -1).sum(1),
        }
        precision = state[layer.params[0][1]].dtype
        made |= {path: folded[role].to(precision) for role, path in after.node(layer.path).params}
    return made


def _factors(norm: Node, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What a BatchNorm multiplies each channel by in eval mode, and what it then adds."""
    stats = {role: state[path].double() for role, path in norm.params}
    eps = norm.op.attributes()["eps"]
    assert isinstance(eps, int | float)
    factor = stats["weight"] / (stats["running_var"] + eps).sqrt()
    return factor, stats["bias"] - stats["running_mean"] * factor


def _with_affines(before: Graph, after: Graph, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the ops that took in a scaling of their channels."""
    made: dict[str, Tensor] = {}
    for op, scaling in scalable(before):
        if scaling.path in after:
            continue  # for another turn
        own = {role: state[path].double() for role, path in op.params}
        by = {role: state[path].double().flatten() for role, path in scaling.params}
        weight = own["weight"]
        folded = {
            "weight": weight * by["weight"].reshape(-1, *[1] * (weight.dim() - 1)),
            "bias": own.get("bias", 0) * by["weight"] + by.get("bias", 0),
        }
        precision = state[op.params[0][1]].dtype
        paths = dict(after.node(op.path).params)
        made |= {path: folded[role].to(precision) for role, path in paths.items() if role in folded}
    return made


# -- kernels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affine:
    """A value as a convolution of the def's input: kernel [out, in / groups, height, width] and bias [out]."""

    weight: Tensor
    bias: Tensor
    groups: int
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)

    @property
    def channels(self) -> int:
        return self.weight.shape[0]

    def regrouped(self, groups: int) -> Affine:
        """The same in fewer groups, with zeros between those that become one."""
        return replace(self, weight=_regrouped(self.weight, self.groups, groups), groups=groups)

    def scaled(self, by: Tensor) -> Affine:
        """The product with a number for each channel, or for all."""
        wide = self.widened(len(by))
        return replace(wide, weight=wide.weight * by.reshape(-1, 1, 1, 1), bias=wide.bias * by)

    def shifted(self, by: Tensor) -> Affine:
        wide = self.widened(len(by))
        return replace(wide, bias=wide.bias + by)

    def widened(self, channels: int) -> Affine:
        """One channel as often as the other operand has some."""
        if self.channels > 1 or channels == 1:
            return self
        return replace(self, weight=self.weight.expand(channels, -1, -1, -1), bias=self.bias.expand(channels))

    def constant(self, value: Tensor) -> Affine:
        """A constant as a function of the same input, which it does not look at."""
        inputs = self.weight.shape[1] * self.groups
        return Affine(value.new_zeros(len(value), inputs, 1, 1), value, 1, self.stride)

    def plus(self, other: Affine) -> Affine:
        """The sum, with the taps of both where they lie in the input."""
        a, b = _aligned([self.widened(other.channels), other.widened(self.channels)])
        return replace(a, weight=a.weight + b.weight, bias=a.bias + b.bias)

    def convolved(self, weight: Tensor, groups: int, stride: Pair = (1, 1), pad: Pair = (0, 0), d: int = 1) -> Affine:
        """What a convolution without bias makes of the value: the two kernels as one."""
        from torch.nn.functional import conv_transpose2d

        joint = math.gcd(self.groups, groups)
        first, then = self.regrouped(joint).weight, _regrouped(weight, groups, joint)
        # A tap of the second kernel puts a copy of the first one where it reads: a transposed convolution.
        size, inputs = then.shape[2:], first.shape[1]
        rows = then.reshape(joint, -1, then.shape[1], *size).transpose(0, 1).flatten(1, 2)
        steps = (self.stride[0] * d, self.stride[1] * d)
        both = conv_transpose2d(rows, first, stride=steps, groups=joint)
        sums = weight.sum((2, 3)).reshape(groups, -1, weight.shape[1]) @ self.bias.reshape(groups, -1, 1)
        return Affine(
            both.reshape(len(both), joint, inputs, *both.shape[2:]).transpose(0, 1).flatten(0, 1),
            sums.flatten(),
            joint,
            (self.stride[0] * stride[0], self.stride[1] * stride[1]),
            (self.pad[0] + pad[0] * self.stride[0], self.pad[1] + pad[1] * self.stride[1]),
        )


def _regrouped(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """A grouped kernel [out, in / groups, h, w] as one of fewer groups."""
    import torch

    if groups == fewer:
        return weight
    ratio = groups // fewer
    blocks = weight.reshape(fewer, ratio, -1, *weight.shape[1:])
    out = weight.new_zeros(fewer, ratio, blocks.shape[2], ratio, *weight.shape[1:])
    at = torch.arange(ratio)
    out[:, at, :, at] = blocks.transpose(0, 1)
    return out.flatten(3, 4).flatten(0, 2)


def _aligned(values: Sequence[Affine]) -> list[Affine]:
    """The same with kernels of one size, padding and number of groups, so that taps of one place have one index."""
    from torch.nn.functional import pad

    groups = math.gcd(*(v.groups for v in values))
    before = [max(v.pad[axis] for v in values) for axis in (0, 1)]
    after = [max(v.weight.shape[2 + axis] - v.pad[axis] for v in values) for axis in (0, 1)]
    out = []
    for v in values:
        (top, left), (height, width) = v.pad, v.weight.shape[2:]
        rows = before[0] - top, after[0] + top - height
        columns = before[1] - left, after[1] + left - width
        weight = pad(v.regrouped(groups).weight, (*columns, *rows))
        out.append(replace(v, weight=weight, groups=groups, pad=(before[0], before[1])))
    return out


# -- bodies --------------------------------------------------------------------------------------

Known: TypeAlias = "Affine | Tensor"
"""A value of a body: a function of the def's input, or a constant [C] or [1]."""

_NUMBERS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


@dataclass(frozen=True)
class _Bodies:
    """The calls of a graph, and what their bodies compute with a state dict."""

    graph: Graph
    state: Mapping[str, Tensor]
    calls: Mapping[tuple[str, str, str], Region]
    nodes: Mapping[int, Sequence[Node]]
    """By region, those of the regions inside it too."""

    def precision(self, call: Region) -> dtype:
        """Of the body's weights, or of all where it has none."""
        import torch

        paths = [path for node in self.nodes[call.id] for _, path in node.params]
        found = (self.state[p].dtype for p in (*paths, *self.graph.params) if self.state[p].is_floating_point())
        return next(found, torch.float32)

    def kernel(self, call: Region) -> Affine:
        """What the call does to its one input. Raises E-WEIGHT-DEPLOY where that is no convolution."""
        import torch

        known: dict[Value, Known] = {}
        for _, value in call.ports:
            channels = int(value.type.channels)
            ones = torch.ones(channels, 1, 1, 1, dtype=torch.float64)
            known[value] = Affine(ones, ones.new_zeros(channels), channels)
        for node in self.nodes[call.id]:
            known[node.value()] = self._result(node, known)
        found = known[call.results[0]]
        assert isinstance(found, Affine)
        return found

    def _result(self, node: Node, known: Mapping[Value, Known]) -> Known:
        values = [v for v in self.graph.operands(node) if v is not None]
        operands = [known[v] if v in known else self._result(self.graph.node(v.node), known) for v in values]
        weights = {role: self.state[path].double() for role, path in node.params}
        found = _applied(node, operands, weights)
        if found is None:
            help = "arithmetic, conv, linear, bn, avg_pool, concat, interleave and repeat are folded"
            raise _underivable(self.graph, node, f"`{node.op.name}` here is not folded into a kernel", help)
        return found


def _bodies(graph: Graph, state: Mapping[str, Tensor]) -> _Bodies:
    calls = {_identity(r): r for r in reversed(graph.regions) if r.kind == "call"}  # of equal ones the outermost
    nodes: dict[int, list[Node]] = defaultdict(list)
    for node in graph.nodes():
        for region in graph.region_chain(node.region):
            nodes[region.id].append(node)
    return _Bodies(graph, state, calls, nodes)


def _applied(node: Node, operands: Sequence[Known], weights: Mapping[str, Tensor]) -> Known | None:
    """The node's result; None where it is no affine op on its operands."""
    import torch

    name, attributes = node.op.name, node.op.attributes()
    by = attributes.get("by")
    if name == "param":
        return next(iter(weights.values())).flatten()
    if name in _NUMBERS and isinstance(by, int | float):
        number = torch.tensor([by], dtype=torch.float64)
        return _combined(name, *((number, operands[0]) if attributes["swap"] else (operands[0], number)))
    if name in _NUMBERS:
        return _combined(name, operands[0], operands[1])
    if name == "neg":
        return _combined("mul", operands[0], torch.tensor([-1.0], dtype=torch.float64))
    functions = [x for x in operands if isinstance(x, Affine)]
    if name == "concat" and functions:
        return _joined([x if isinstance(x, Affine) else functions[0].constant(x) for x in operands])
    if len(functions) < len(operands) or not functions:
        return None
    x = functions[0]
    match name:
        case "identity":
            return x
        case "bn":
            eps = attributes["eps"]
            assert isinstance(eps, int | float)
            factor = weights["weight"] / (weights["running_var"] + eps).sqrt()
            return x.scaled(factor).shifted(weights["bias"] - weights["running_mean"] * factor)
        case "linear":
            made = x.convolved(weights["weight"][:, :, None, None], 1)
        case "conv":
            made = _conv(x, attributes, weights["weight"])
        case "avg_pool":
            kernel = pair(attributes["k"])  # type: ignore[arg-type]
            mean = torch.full((x.channels, 1, *kernel), 1 / math.prod(kernel), dtype=torch.float64)
            made = _conv(x, {**attributes, "g": x.channels}, mean)
        case "interleave" | "repeat":
            n = attributes["g" if name == "interleave" else "n"]
            assert isinstance(n, int)
            rows = torch.arange(x.channels)
            order = rows.reshape(n, -1).T.flatten() if name == "interleave" else rows.repeat_interleave(n)
            return replace(x, weight=x.regrouped(1).weight[order], bias=x.bias[order], groups=1)
        case _:
            return None
    return made.shifted(weights["bias"]) if "bias" in weights else made


def _conv(x: Affine, attributes: Mapping[str, object], weight: Tensor) -> Affine:
    stride, pad = pair(attributes["s"]), pair(attributes["p"] or 0)  # type: ignore[arg-type]
    d, groups = attributes.get("d", 1), attributes["g"]
    assert isinstance(d, int) and isinstance(groups, int)
    if attributes.get("pad") == "tf_same":  # of an odd kernel without stride, or it would not be in a `rep def`
        pad = d * (weight.shape[2] - 1) // 2, d * (weight.shape[3] - 1) // 2
    return x.convolved(weight, groups, stride, pad, d)


def _joined(values: Sequence[Affine]) -> Affine:
    """The channels of all, one after the other."""
    import torch

    parts = _aligned([v.regrouped(1) for v in values])
    return replace(parts[0], weight=torch.cat([v.weight for v in parts]), bias=torch.cat([v.bias for v in parts]))


def _combined(name: str, a: Known, b: Known) -> Known | None:
    """Arithmetic of two values, not both functions where it multiplies."""
    if not isinstance(a, Affine) and not isinstance(b, Affine):
        return _NUMBERS[name](a, b)
    if name in ("mul", "div"):
        if isinstance(a, Affine) and not isinstance(b, Affine):
            return a.scaled(b if name == "mul" else 1 / b)
        return b.scaled(a) if isinstance(b, Affine) and not isinstance(a, Affine) and name == "mul" else None
    if name == "sub":
        b = b.scaled(-b.bias.new_ones(1)) if isinstance(b, Affine) else -b
    if isinstance(a, Affine):
        return a.plus(b) if isinstance(b, Affine) else a.shifted(b)
    return b.shifted(a) if isinstance(b, Affine) else None
