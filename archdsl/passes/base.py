"""What a pass is: a Graph in, a Graph out, with the properties that it needs, gives and breaks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Guard, Node, Operation, Parameter, Region, Value
from archdsl.ir.sizes import expr_of
from archdsl.ir.types import Frame, Pair, TensorType
from archdsl.ir.verify import Finding
from archdsl.ops._pooling import Pool
from archdsl.ops.base import Op, Order, op_of, pair
from archdsl.ops.conv import Conv

MOVES = ("windows", "grids", "merge", "regroup", "zero_padding")
"""Ops that put maps in another order, and compute nothing."""


@dataclass(frozen=True)
class Property:
    """What may be true of a graph beyond what the verifier asks of all: a sentence, and a search for what breaks it."""

    name: str
    statement: str
    broken: Callable[[Graph], Iterator[Finding]]


@dataclass(frozen=True)
class Pass:
    """A change of graphs. The graph that comes in is never touched; where nothing changes, it comes out itself.

    The fields of a pass are its options, which `--passes name{option=value}` sets.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[Property, ...]] = ()
    """What must hold before."""
    gives: ClassVar[tuple[Property, ...]] = ()
    """What holds afterwards."""
    breaks: ClassVar[tuple[Property, ...]] = ()
    """What may no longer hold afterwards."""
    exact: ClassVar[bool] = True
    """Computes the same function, in exact arithmetic. What does not is never in a default pipeline."""

    def __call__(self, graph: Graph) -> Graph:
        raise NotImplementedError

    def __str__(self) -> str:
        """As `--passes` takes it."""
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        options = ", ".join(f"{f.name}={getattr(self, f.name)}" for f in changed)
        return f"{self.name}{{{options}}}" if options else self.name


def alike(a: TensorType, b: TensorType) -> bool:
    """Whether types are equal, the expressions of their sizes included."""
    one, other = ([expr_of(d) for d in (*t.dims, *(t.grid or ()))] for t in (a, b))
    return a == b and one == other


def shared(graph: Graph) -> frozenset[int]:
    """The regions of calls that use the weights of other calls, with which they have to stay alike."""
    return frozenset(r.id for r in graph.regions if any(one.share for one in graph.region_chain(r.id)))


def ported(graph: Graph, node: Node) -> list[tuple[str, Value | None]]:
    """What an op reads, each with the name of its port; that of a list is repeated."""
    ports = op_of(node).ports
    return [(ports[min(slot, len(ports) - 1)].strip("?*"), v) for slot, v in enumerate(graph.operands(node))]


def by_cells(op: Op, cell: Pair) -> bool:
    """Whether an op that runs over a whole map reads its cells apart, and gives each its own positions.

    Convolutions and poolings do whose kernels do not overlap and end where cells do.
    """
    if not isinstance(op, Conv | Pool) or op.pad != "zeros" or pair(op.p or 0) != (0, 0):
        return False
    spans = [(op.d if isinstance(op, Conv) else 1) * (k - 1) + 1 for k in pair(op.k)]
    strides = pair(op.k if op.s is None else op.s)
    whole = all(span <= s and n % s == 0 for span, s, n in zip(spans, strides, cell, strict=True))
    return whole and not (isinstance(op, Pool) and op.ceil)


def astray(before: Graph, after: Graph) -> Iterator[Finding]:
    """Ops that look beyond a position and find another order of positions than before a pass.

    Types cannot tell: a convolution inside windows is a convolution, too. `windows`, `merge` and their like are what
    orders are changed by.
    """
    for node in after.nodes():
        order = op_of(node).ordering()
        if order is Order.FREE or node.op.name in MOVES or node.path not in before:
            continue
        was = before.node(node.path)
        if was.op.name == node.op.name:
            frames = [
                [
                    None if v is None or port in op_of(one).measured else (v.type.kind, v.type.frames)
                    for port, v in ported(graph, one)
                ]
                for graph, one in ((before, was), (after, node))
            ]
            if frames[0] != frames[1] and not _put_together(op_of(node), *frames):
                yield node.path, f"`{node.op.name}` {order.value}, and its operands are in another order than before"


Cut = tuple[str, tuple[Frame, ...]] | None
"""The kind of a value, and what it is cut into; None for one whose order an op does not see."""


def _put_together(op: Op, before: Sequence[Cut], after: Sequence[Cut]) -> bool:
    """Whether the windows that an op read are now the map that they tile, of which it reads the same positions."""
    if len(before) != 1 or len(after) != 1 or before[0] is None or after[0] is None:
        return False
    (kind, cut), (now, whole) = before[0], after[0]
    plain = bool(cut) and cut[-1].kind == "window" and not any(cut[-1].shift) and not cut[-1].halo
    return plain and kind == now and cut[:-1] == whole and by_cells(op, cut[-1].inner)


class Draft:
    """Changes of a graph that are noted first and made together: one walk writes the new graph, in the old order.

    Nodes, parameters and regions that do not change are shared with the old graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._instead: dict[Value, Value] = {}
        self._gone: set[str] = set()
        self._ahead: dict[str, list[tuple[Node, tuple[Value | None, ...]]]] = {}
        self._swapped: dict[str, Node] = {}
        self._reads: dict[str, tuple[Value | None, ...]] = {}
        self._params: dict[str, Parameter] = {}
        self._taken: set[str] = set()
        self._guards: list[Guard] = []

    def use(self, new: Value, instead_of: Value) -> None:
        """Lets all who read a value (outputs, features and regions, too) read another of its type."""
        self._instead[instead_of] = new

    def drop(self, path: str) -> None:
        """Takes an op out. Nothing may read it once the draft is done."""
        self._gone.add(path)

    def swap(
        self, node: Node, params: Sequence[Parameter] = (), operands: Sequence[Value | None] | None = None
    ) -> None:
        """Puts a changed node in the place of the one of its path; it reads the same, or `operands`."""
        self._swapped[node.path] = node
        if operands is not None:
            self._reads[node.path] = tuple(operands)
        self._params |= {p.path: p for p in params}

    def put(
        self,
        op: Operation,
        operands: Sequence[Value | None],
        outputs: tuple[TensorType, ...],
        *,
        at: Node,
        path: str,
        region: int | None = None,
        module: str = "",
        params: Sequence[tuple[str, Parameter]] = (),
        names: tuple[str, ...] = (),
    ) -> Node:
        """A new op right above the op `at`, in its region unless another is given, and from its place in the source.

        `params` are the roles and tensors of what it owns, new ones or another op's.
        """
        name, n = path, 2
        while name in self.graph or name in self._taken:
            name, n = f"{path}#{n}", n + 1
        self._taken.add(name)
        self._params |= {p.path: p for _, p in params}
        owned = tuple((role, p.path) for role, p in params)
        node = Node(name, op, outputs, at.region if region is None else region, at.span, module, owned, names)
        self._ahead.setdefault(at.path, []).append((node, tuple(operands)))
        return node

    def require(self, guard: Guard) -> None:
        """Adds a decision that holds at this size of the input, and is asked of others."""
        self._guards.append(guard)

    def sweep(self) -> None:
        """Drops what the changes leave unread. What nothing read before stays: its weights are in the state dict."""
        old = self.graph
        results = (*old.outputs, *(f.value for f in old.features), *old.inputs)
        before = {v.node for v in results}
        reads = Counter(self.now(v).node for v in results)
        for node in old.nodes():
            if node.path not in self._gone:
                reads.update(self.now(v).node for v in self._operands(node) if v is not None)
        for ahead in self._ahead.values():
            reads.update(self.now(v).node for _, operands in ahead for v in operands if v is not None)
        for node in reversed(list(old.nodes())):
            unread = node.path not in self._gone and not reads[node.path]
            if unread and (node.path in before or old.net.out_degree(node.path)):
                self._gone.add(node.path)
                reads.subtract(self.now(v).node for v in self._operands(node) if v is not None)

    def _operands(self, node: Node) -> Sequence[Value | None]:
        """What an op of the old graph reads, replacements apart."""
        return self._reads.get(node.path, self.graph.operands(node))

    def now(self, value: Value) -> Value:
        """What is read in place of a value, however often it was replaced."""
        while value in self._instead:
            value = self._instead[value]
        return value

    def done(self) -> Graph:
        """The graph with the changes, or the graph itself where there are none."""
        old = self.graph
        if not (self._instead or self._gone or self._ahead or self._swapped):
            return old
        new = Graph(old.name, old.mode, old.source, guards=[*old.guards, *self._guards], statics=old.statics)
        for node in old.nodes():
            for added, operands in self._ahead.get(node.path, ()):
                self._add(new, added, operands)
            if node.path not in self._gone:
                self._add(new, self._swapped.get(node.path, node), self._operands(node))
        known = old.params | self._params
        used = dict.fromkeys(path for node in new.nodes() for _, path in node.params)
        order = old.params if used.keys() <= old.params.keys() else used
        new.params = {path: known[path] for path in order if path in used}
        new.regions = [self._region(r) for r in old.regions]
        new.inputs = list(old.inputs)
        new.outputs = tuple(self.now(v) for v in old.outputs)
        new.features = [replace(f, value=self.now(f.value)) for f in old.features]
        return new

    def _add(self, graph: Graph, node: Node, operands: Sequence[Value | None]) -> None:
        """`node` itself, not a copy, in another graph."""
        graph.net.add_node(node.path, node=node)
        for slot, operand in enumerate(operands):
            if operand is not None:
                value = self.now(operand)
                graph.net.add_edge(value.node, node.path, key=slot, index=value.index)

    def _region(self, region: Region) -> Region:
        ports = tuple((name, self.now(v)) for name, v in region.ports if self._lasts(self.now(v)))
        results = tuple(self.now(v) for v in region.results if self._lasts(self.now(v)))
        unchanged = ports == region.ports and results == region.results
        return region if unchanged else replace(region, ports=ports, results=results)

    def _lasts(self, value: Value) -> bool:
        """Whether there still is a value: neither was its op taken out, nor does another give something else there."""
        instead = self._swapped.get(value.node)
        return value.node not in self._gone and (instead is None or value in instead.values)
