"""elide_concat: what is cut and joined again, and other ops that give back what they got, go away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Static, Value
from archdsl.ir.sizes import Size
from archdsl.ops.base import op_of
from archdsl.ops.split import Split, axis_of
from archdsl.passes.base import Draft, Pass, Property, alike, shared
from archdsl.passes.common import DISTINCT
from archdsl.passes.fold_affines import JOINED
from archdsl.passes.fold_norms import FOLDED

NOTHING: Mapping[str, Callable[[Mapping[str, Static]], bool]] = {
    "identity": lambda a: True,
    "dropout": lambda a: a["p"] == 0,
    # what follows the input's size may be zero at one size alone
    "pad": lambda a: not any(n or isinstance(n, Size) for n in a.values()),
    "add": lambda a: a["by"] == 0,
    "sub": lambda a: a["by"] == 0 and not a["swap"],
    "mul": lambda a: a["by"] == 1,
    "div": lambda a: a["by"] == 1 and not a["swap"],
}
"""Ops that may give back their operand, and the attributes with which they do."""

UNDOES: Mapping[str, str] = {"transpose": "transpose", "neg": "neg", "tokens": "to_map", "to_map": "tokens"}
"""Ops that undo another."""


class _Round:
    """What can go from a graph at once: of an op and those that it reads, at most one."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.draft = graph, Draft(graph)
        self.kept = {*graph.outputs, *(f.value for f in graph.features)}
        for region in graph.regions:
            if region.kind != "call":  # a stage, a block or a head has to make what it gives
                self.kept.update(region.results)
        self.shared = shared(graph)

    def run(self) -> Graph:
        touched: set[str] = set()
        for node in self.graph.nodes():
            operands = [v for v in self.graph.operands(node) if v is not None]
            near = {node.path, *(v.node for v in operands)}
            if not operands or near & touched or node.region in self.shared or self.kept.intersection(node.values):
                continue
            if self.replaced(node, operands):
                touched |= near
        self.draft.sweep()
        return self.draft.done()

    def replaced(self, node: Node, operands: Sequence[Value]) -> bool:
        """Whether the op goes; the draft then has what stands in for its results."""
        first = operands[0]
        if len(operands) == len(node.outputs) == 1 and _idle(node):
            return self.stands_in([first], node)
        before = self.graph.node(first.node)
        if before.region != node.region or node.op.name not in ("split", "concat", *UNDOES):
            return False
        source = [v for v in self.graph.operands(before) if v is not None]
        if UNDOES.get(node.op.name) == before.op.name:
            return self.stands_in(source[:1], node)
        if {node.op.name, before.op.name} == {"split", "concat"} and _axis(node) == _axis(before):
            return tuple(operands) == before.values and self.stands_in(source, node)
        return self.joined(node, operands) if node.op.name == "concat" else self.cut(node, first)

    def stands_in(self, values: Sequence[Value], node: Node) -> bool:
        if len(values) != len(node.outputs):
            return False
        pairs = list(zip(values, node.values, strict=True))
        if not all(alike(value.type, result.type) for value, result in pairs):
            return False
        for value, result in pairs:
            self.draft.use(value, instead_of=result)
        return True

    def joined(self, node: Node, operands: Sequence[Value]) -> bool:
        """A concat takes in those that it alone reads."""
        flat: list[Value] = []
        for value in operands:
            inner = self.part_of(node, value)
            flat += [v for v in self.graph.operands(inner) if v is not None] if inner is not None else [value]
        if len(flat) == len(operands) or not alike(op_of(node).infer(*(v.type for v in flat))[0], node.outputs[0]):
            return False
        made = self.draft.put(node.op, flat, node.outputs, at=node, path=node.path.partition("#")[0])
        return self.stands_in(made.values, node)

    def cut(self, node: Node, whole: Value) -> bool:
        """A split of a part that it alone reads is done by the split before it."""
        before = self.part_of(node, whole)
        if before is None or node.op.name != "split" or self.kept.intersection(before.values):
            return False
        parts = [*before.values[: whole.index], *node.values, *before.values[whole.index + 1 :]]
        axis = str(_axis(node))
        sizes = [v.type.dims[axis_of(v.type.kind, axis)] for v in parts]
        if any(isinstance(size, Size) for size in sizes):
            return False
        types = tuple(v.type for v in parts)
        made = self.draft.put(
            split_into(sizes, axis), self.graph.operands(before), types, at=before, path=before.path.partition("#")[0]
        )
        for new, part in zip(made.values, parts, strict=True):
            self.draft.use(new, instead_of=part)
        return True

    def part_of(self, node: Node, value: Value) -> Node | None:
        """The op that makes the value, where it is like `node`, beside it, and read by nothing else."""
        inner = self.graph.node(value.node)
        like = inner.op.name == node.op.name and inner.region == node.region and _axis(inner) == _axis(node)
        return inner if like and len(self.graph.users(value)) == 1 and value not in self.kept else None


def split_into(sizes: Sequence[int], axis: str = "c") -> Split:
    """A split into parts of these sizes."""
    return Split(len(sizes) if len(set(sizes)) == 1 else tuple(sizes), axis)


def _idle(node: Node) -> bool:
    one = NOTHING.get(node.op.name)
    return node.op.name in ("split", "concat") if one is None else one(node.op.attributes())


def _axis(node: Node) -> Static:
    return node.op.attributes()["axis"]


@dataclass(frozen=True)
class ElideConcat(Pass):
    """A split and the concat of its parts cancel, nested ones become one, and ops that do nothing go away."""

    name: ClassVar[str] = "elide_concat"
    breaks: ClassVar[tuple[Property, ...]] = (DISTINCT, FOLDED, JOINED)

    def __call__(self, graph: Graph) -> Graph:
        while (after := _Round(graph).run()) is not graph:
            graph = after
        return graph
