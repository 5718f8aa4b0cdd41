"""Turns a graph into kernels: one an op as eager PyTorch runs it, or ops grouped as TorchInductor does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from archdsl.device.kinds import MATRIX, kind_of
from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ir.types import TensorType
from archdsl.ops.base import Op, Order, op_of


@dataclass(frozen=True)
class Kernel:
    """Ops that run as one, by call path in the graph's order, and what they do together."""

    nodes: tuple[str, ...]
    work: Work


def eager(graph: Graph) -> tuple[Kernel, ...]:
    """Every op by itself. Views, and what acts in training only, run nothing."""
    return tuple(Kernel((n.path,), work) for n in graph.nodes() if (work := alone(graph, n)).launches)


def inductor(graph: Graph) -> tuple[Kernel, ...]:
    """The groups that TorchInductor makes without autotuning, as far as its rules are known.

    Products run alone. Elementwise ops, reductions over channels and moves of whole positions join the ops before
    them that run over as many elements; what reads neighbours, or normalises over a sample, starts anew.
    """
    order = [n for n in graph.nodes() if _runs(graph, n)]
    groups: dict[str, list[str]] = {}
    uses = Uses(graph)
    for node in order:
        into = None if _alone(graph, node) or _starts(graph, node) else _host(node, graph, groups, uses)
        if into is None:
            groups[node.path] = [node.path]
        else:
            into.append(node.path)
            groups[node.path] = into
    found = [groups[n.path] for n in order if groups[n.path][0] == n.path]
    return tuple(Kernel(tuple(group), together(graph, group, uses)) for group in found)


PLANS: Mapping[str, Callable[[Graph], tuple[Kernel, ...]]] = {"eager": eager, "inductor": inductor}


def alone(graph: Graph, node: Node) -> Work:
    """What one op does as a kernel, or kernels, of its own."""
    op = op_of(node)
    if _idle(graph, op):
        return Work(launches=0)
    inputs, outputs = _types(graph, node), _plain(node.outputs)
    launches = op.launches(inputs, outputs)
    if not launches:
        return Work(launches=0)
    moved, weights = _moved(t for t in (*inputs, *outputs) if t is not None)
    matrix, general = _products(graph, node, inputs, outputs)
    instructions = launches * op.instructions(inputs, outputs)
    return Work(matrix, general, instructions, launches * moved, weights + _weights(graph, node), launches)


def together(graph: Graph, paths: Sequence[str], uses: Uses | None = None) -> Work:
    """What ops do as one kernel: they read what others computed, and write what others, or the user, read."""
    if len(paths) == 1:
        return alone(graph, graph.node(paths[0]))
    uses, inside = uses or Uses(graph), set(paths)
    total, read, written = Work(launches=0), dict[tuple[str, int], int](), 0
    for path in paths:
        node = graph.node(path)
        inputs, outputs = _types(graph, node), _plain(node.outputs)
        instructions = op_of(node).instructions(inputs, outputs)
        total += Work(*_products(graph, node, inputs, outputs), instructions, 0, _weights(graph, node), launches=0)
        for value in graph.operands(node):
            if value is not None:
                root, size = uses.root(value), value.type.plain()
                if root.node not in inside:
                    key = (root.node, root.index)
                    most = root.type.plain().elements
                    read[key] = min(most, read.get(key, 0) + (size.elements if size.batched else 0))
                    if not size.batched:
                        total += Work(weights=size.elements, launches=0)
        written += sum(t.elements for i, t in enumerate(outputs) if uses.outside(path, i, inside))
    return total + Work(elements=sum(read.values()) + written)


class Uses:
    """Who reads a value, views seen through."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.roots: dict[tuple[str, int], Value] = {}
        self.readers: dict[tuple[str, int], set[str]] = {}
        for node in graph.nodes():
            values = [v for v in graph.operands(node) if v is not None]
            if not _runs(graph, node) and values:
                for i in range(len(node.outputs)):
                    self.roots[node.path, i] = self.root(values[0])
            else:
                for value in values:
                    root = self.root(value)
                    self.readers.setdefault((root.node, root.index), set()).add(node.path)
        for value in (*graph.outputs, *(f.value for f in graph.features)):
            root = self.root(value)
            self.readers.setdefault((root.node, root.index), set()).add("")

    def root(self, value: Value) -> Value:
        """The value that a view is a view of."""
        return self.roots.get((value.node, value.index), value)

    def outside(self, path: str, index: int, inside: set[str]) -> bool:
        """Whether someone outside reads a result."""
        return not self.readers.get((path, index), set()) <= inside


def _runs(graph: Graph, node: Node) -> bool:
    """Whether an op runs a kernel at all."""
    op = op_of(node)
    return not _idle(graph, op) and bool(op.launches(_types(graph, node), _plain(node.outputs)))


def _idle(graph: Graph, op: Op) -> bool:
    """Views run nothing, nor does dropout outside training."""
    return op.view or (op.training and graph.mode != "train")


def _alone(graph: Graph, node: Node) -> bool:
    """Whether an op runs in a library's kernel: products do."""
    op = op_of(node)
    return bool(op.macs(_types(graph, node), _plain(node.outputs))) or op.name in ("fft_filter", "lstm", "extern")


def _starts(graph: Graph, node: Node) -> bool:
    """Whether an op cannot read what is computed in its own kernel: it reads neighbours, or a whole sample twice."""
    op = op_of(node)
    statistics = op.name in ("evonorm", "gn") or (op.name == "bn" and graph.mode == "train")
    return statistics or op.ordering() is Order.SENSITIVE


def _host(node: Node, graph: Graph, groups: Mapping[str, list[str]], uses: Uses) -> list[str] | None:
    """The group of an operand that an op may join: one that runs over as many elements and that no other waits for."""
    operands = [uses.root(v).node for v in graph.operands(node) if v is not None]
    hosts = {id(groups[p]): groups[p] for p in operands if p in groups and not _alone(graph, graph.node(p))}
    for group in sorted(hosts.values(), key=lambda g: -len(g)):
        if _size(graph, graph.node(group[0])) != _size(graph, node):
            continue
        others = [groups[p] for p in operands if p in groups and groups[p] is not group]
        if not any(_waits(other, group, graph, groups, uses) for other in others):
            return group
    return None


def _waits(group: list[str], other: list[str], graph: Graph, groups: Mapping[str, list[str]], uses: Uses) -> bool:
    """Whether a group runs after another, by way of any third."""
    stack, seen = [group], {id(group)}
    while stack:
        for path in stack.pop():
            for value in graph.operands(graph.node(path)):
                before = None if value is None else groups.get(uses.root(value).node)
                if before is other:
                    return True
                if before is not None and id(before) not in seen:
                    seen.add(id(before))
                    stack.append(before)
    return False


def _size(graph: Graph, node: Node) -> int:
    """Elements of the largest operand or result that belongs to a sample."""
    types = (*_types(graph, node), *_plain(node.outputs))
    return max((t.elements for t in types if t is not None and t.batched), default=0)


def _products(
    graph: Graph, node: Node, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]
) -> tuple[int, int]:
    """Multiply-adds of the matrix units and of the general cores."""
    macs = int(op_of(node).macs(inputs, outputs))
    if not macs:
        return 0, 0
    return (macs, 0) if kind_of(graph, node.path) in MATRIX else (0, macs)


def _moved(types: Iterable[TensorType]) -> tuple[int, int]:
    """Elements per sample, and elements that do not belong to one."""
    sample = shared = 0
    for t in types:
        if t.batched:
            sample += t.elements
        else:
            shared += t.elements
    return sample, shared


def _weights(graph: Graph, node: Node) -> int:
    return sum(graph.params[path].elements for _, path in node.params if not graph.params[path].dtype)


def _types(graph: Graph, node: Node) -> tuple[TensorType | None, ...]:
    return tuple(None if t is None else t.plain() for t in graph.operand_types(node))


def _plain(types: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
    return tuple(t.plain() for t in types)
