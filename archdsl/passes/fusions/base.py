"""What a fusion rule is: it finds ops in a graph that one kernel could compute, and says where none would.

Some rules have their kernel; others state what one would do, so that a plan can say what it would gain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops._held import Held
from archdsl.ops._pointwise import Pointwise
from archdsl.ops.add import Add
from archdsl.ops.avg_pool import AvgPool
from archdsl.ops.base import op_of, pair
from archdsl.ops.bn import Bn
from archdsl.ops.conv import Conv
from archdsl.ops.held_bn import HeldBn
from archdsl.ops.held_conv import HeldConv
from archdsl.ops.held_drop_path import HeldDropPath
from archdsl.ops.held_gn import HeldGn
from archdsl.ops.held_linear import HeldLinear
from archdsl.ops.held_ln import HeldLn
from archdsl.ops.linear import Linear
from archdsl.ops.mul import Mul
from archdsl.passes.base import Draft

ROW = 256
"""Channels of a position that a tile of a product holds whole. Above, a row of accumulators fills the registers, and
libraries' products are reported ahead of generated ones."""
STREAMED = 1024
"""Channels of a position that a kernel without accumulators holds, or runs through with sums on the side."""
KERNEL = 31
"""The widest neighbourhood: above, a tile's load is mostly halo."""

HELD: dict[str, type[Held]] = {
    "ln": HeldLn,
    "linear": HeldLinear,
    "conv": HeldConv,
    "bn": HeldBn,
    "gn": HeldGn,
}
"""Layers that a kernel can be given, by the names of their ops."""
ROLES: dict[str, str] = {
    "ln": "norm",
    "rms": "norm",
    "gap": "mean",
    "mean_n": "mean",
    "zero_padding": "zero",
}
"""What ops are in a chain, where their names decide it and are not it. For the others see `role`."""


@dataclass(frozen=True)
class Rule:
    """One kind of kernel. The docstring says what it would do, and where that is known from."""

    name: ClassVar[str]
    generated: ClassVar[bool] = False
    """Whether there is a kernel, which `rewrite` puts in place of the ops."""
    made_by: ClassVar[str] = ""
    """The pass that does so, where more than these ops has to change."""

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        """The call paths of the ops that would be one kernel with `node` as their anchor, or None."""
        raise NotImplementedError

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        """Why there would be no such kernel, or ""."""
        return refused(graph, paths)

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        """What of it the kernel that is written does not compute, or ""."""
        return ""

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        """Notes one op in place of the ops of a match, at the path of the last of them."""
        raise NotImplementedError

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        """What it does beyond doing each op once."""
        return Work(launches=0)


def hold(graph: Graph, draft: Draft, node: Node, ahead: Node | None = None) -> Value:
    """A layer's module as a value, for a kernel that computes what the layer would. The layer itself is to go.

    It stands where the layer does, or right above the op `ahead`.
    """
    attributes: dict[str, Any] = {**node.op.attributes(), "channels": channels(graph, node)}
    op = HELD[node.op.name](**attributes)
    params = [(role, graph.params[path]) for role, path in node.params]
    at = f"{node.path}.layer"
    put = draft.put(op, (), op.infer(), at=ahead or node, path=at, module=node.module, params=params, names=())
    return put.value()


def hold_drop(draft: Draft, node: Node) -> Value:
    """The module of a dropped branch as a value, in the place of the branch, which keeps its name there."""
    attributes: dict[str, Any] = {**node.op.attributes(), "channels": int(node.outputs[0].channels)}
    op = HeldDropPath(**attributes)
    module = replace(node, op=op, outputs=op.infer(), names=())
    draft.swap(module, operands=())
    draft.use(module.value(), instead_of=node.value())
    return module.value()


def role(graph: Graph, node: Node) -> str:
    """What an op is in a chain."""
    op = op_of(node)
    if isinstance(op, Conv | Linear) and len(graph.operands(node)) > 1:
        return op.name  # one whose weights are computed as it runs
    if isinstance(op, Conv):
        return _convolution(graph, node, op)
    if isinstance(op, Linear):
        return "pointwise" if op.axis == "c" else "linear"
    if isinstance(op, Mul):
        return _product(graph, node)
    if isinstance(op, Add):
        types = graph.operand_types(node)
        return "add" if len(types) == 2 and types[0] == types[1] else "shift"
    if isinstance(op, Pointwise):
        return "identity" if op.name == "identity" else "act"
    if op.name in ("windows", "grids", "regroup"):
        plain = len(node.outputs) == 2 and not node.outputs[0].frames[-1].halo
        return "cut" if plain else op.name
    return ROLES.get(op.name, op.name)


def _convolution(graph: Graph, node: Node, op: Conv) -> str:
    (x,) = graph.operand_types(node)
    assert x is not None
    if pair(op.k) == (1, 1):
        return "pointwise" if op.g == 1 and pair(op.s) == (1, 1) and pair(op.p or 0) == (0, 0) else "conv"
    if op.g == x.channels == op.dim:
        return "depthwise"
    return "dense" if op.g == 1 else "conv"


def _product(graph: Graph, node: Node) -> str:
    """A multiplication by a number or a parameter scales; by a number a channel of the sample itself, it gates."""
    types = [t for t in graph.operand_types(node) if t is not None]
    if len(types) == 1 or not all(t.batched for t in types):
        return "scale"
    return "gate" if node.outputs[0].kind != "vec" and any(t.kind == "vec" for t in types) else "mul"


def readers(graph: Graph, value: Value) -> list[Node]:
    return list({node.path: node for node, _ in graph.users(value)}.values())


def kept(graph: Graph, value: Value) -> bool:
    """Whether the user reads a value."""
    return value in graph.outputs or any(f.value == value for f in graph.features)


def follower(graph: Graph, value: Value, roles: Collection[str], only: bool = False) -> tuple[Node, ...]:
    """The one reader of a value that is of a role, behind the views and dropped branches that lie between.

    `only`: nothing else may read the value. Empty where there is none.
    """
    passed: list[Node] = []
    while True:
        found = readers(graph, value)
        fits = [n for n in found if role(graph, n) in roles and (value.type.kind != "vec" or role(graph, n) != "gate")]
        single = len(found) == 1 and not kept(graph, value)
        if len(fits) == 1 and (single or not only):
            return (*passed, fits[0])
        if not single or not (op_of(found[0]).view or op_of(found[0]).training) or len(found[0].outputs) != 1:
            return ()
        passed.append(found[0])
        value = found[0].value()


def chain(graph: Graph, start: Node, steps: str) -> tuple[str, ...] | None:
    """The call paths from an op on whose roles are the steps: `a|b` is either, `a?` may lack, `a*` any number of it.

    What may lack is taken only where nothing else reads the value before it.
    """
    found = [start]
    for step in steps.split():
        roles, optional = step.rstrip("?*").split("|"), step[-1] in "?*"
        while after := follower(graph, found[-1].value(), roles, only=optional):
            found += after
            if not step.endswith("*"):
                break
        else:
            if not optional:
                return None
    return tuple(n.path for n in found)


def working(graph: Graph, paths: Sequence[str]) -> list[Node]:
    """The ops of a match that do something: an identity, which goes with them, does not."""
    return [n for n in map(graph.node, paths) if n.op.name != "identity"]


def of_role(graph: Graph, paths: Sequence[str], *roles: str) -> Iterator[Node]:
    return (n for n in map(graph.node, paths) if role(graph, n) in roles)


def channels(graph: Graph, node: Node) -> int:
    """Channels of an op's first operand."""
    x = graph.operand_types(node)[0]
    assert x is not None
    return int(x.channels)


def refused(graph: Graph, paths: Sequence[str], leaving: Collection[str] = ()) -> str:
    """Why ops are no kernel at all: statistics of the batch, or a value in their midst that others read.

    Values of `leaving` may be read by others, too.
    """
    inside = set(paths)
    for node in map(graph.node, paths):
        op = op_of(node)
        if isinstance(op, Bn) and graph.mode == "train" and not op.frozen:
            return "a norm's statistics are of the whole batch in training"
        for value in node.values:
            among = [n.path in inside for n in readers(graph, value)]
            shared = not all(among) or kept(graph, value)
            if value.type.kind != "frame" and any(among) and shared and node.path not in leaving:
                return f"others read the result of its `{op.name}`"
    return ""


def in_head(graph: Graph, node: Node) -> bool:
    """Whether an op is part of the head, whose classifier users replace."""
    return any(region.kind == "head" for region in graph.region_chain(node.region))


def too_wide(wide: int, limit: int) -> str:
    return f"{wide} channels are too many for a row in a tile ({limit})" if wide > limit else ""


def too_far(node: Node, stride: int) -> str:
    """Why the neighbourhood of a convolution or a pooling is too wide, or its stride too long."""
    op = op_of(node)
    assert isinstance(op, Conv | AvgPool)
    span, s = _span(node), max(pair(op.s or op.k))
    if max(span) > KERNEL:
        return f"a neighbourhood of {max(span)} is wider than {KERNEL}"
    return f"a stride of {s} leaves too little of a tile" if s > stride else ""


def _span(node: Node) -> tuple[int, int]:
    op = op_of(node)
    assert isinstance(op, Conv | AvgPool)
    d = op.d if isinstance(op, Conv) else 1
    height, width = pair(op.k)
    return d * (height - 1) + 1, d * (width - 1) + 1


def first(*reasons: str | Callable[[], str]) -> str:
    """The first reason that there is, or ""; those that are costly are called for."""
    return next((text for r in reasons if (text := r if isinstance(r, str) else r())), "")
