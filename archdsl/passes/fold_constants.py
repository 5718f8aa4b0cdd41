"""fold_constants: what is computed of parameters alone becomes a parameter itself, for deployment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from archdsl.ir.graph import Graph, Guard, Node, Parameter, Region, Value
from archdsl.ir.sizes import Condition, Size, pins
from archdsl.ir.types import TensorType
from archdsl.ir.verify import Finding
from archdsl.ops._held import Held
from archdsl.ops.base import Call, op_of
from archdsl.ops.constant import Constant
from archdsl.passes.base import Draft, Pass, Property, shared

TENSORS = ("param", "constant")
"""Ops that are a parameter and compute nothing."""


@dataclass(frozen=True)
class Folded:
    """A value of parameters that others read, what it becomes, and what it asks of the input's size."""

    value: Value
    path: str
    asked: tuple[Condition, ...]

    @property
    def op(self) -> Constant:
        t = self.value.type
        return Constant(t.kind, t.dims, t.grid)


@dataclass(frozen=True)
class _Origin:
    """What an op without samples rests on, itself included."""

    parameters: bool = False
    asked: frozenset[Condition] = field(default_factory=frozenset)


def constants(graph: Graph) -> Iterator[Folded]:
    """The values of a deploy graph that parameters alone decide and that something else reads.

    Where their sizes follow the input's, the module must refuse other sizes. That is done where a parameter of the
    graph asks for the same anyway, as a table of relative positions does, or for a bound (an input that is not smaller
    than its windows).
    """
    if graph.mode != "deploy":
        return
    granted = {g.condition.plain() for g in graph.guards}
    for node in graph.nodes():
        if node.op.name in TENSORS:
            granted |= _asked(graph, node.outputs)
    known: dict[str, _Origin] = {}
    places, alike = _Places(graph), shared(graph)
    for node in graph.nodes():
        if node.region in alike or not node.outputs or any(t.batched for t in node.outputs):
            continue
        if origin := _origin(graph, node, known):
            known[node.path] = origin
            if node.op.name in TENSORS or not origin.parameters:
                continue
            asked = origin.asked - granted
            if any(c.op != ">=" for c in asked):
                continue
            for value in node.values:
                if not value.type.frames and any(t.batched for user, _ in graph.users(value) for t in user.outputs):
                    yield Folded(value, places.path(value), tuple(sorted(asked, key=str)))


def _origin(graph: Graph, node: Node, known: dict[str, _Origin]) -> _Origin | None:
    """None where a value is another at each run, is no tensor, or is not there in all calls of shared weights."""
    operands = [v for v in graph.operands(node) if v is not None]
    before = [known.get(v.node) for v in operands if not v.type.batched]
    op = op_of(node)
    lowered = op.torch(Call(graph.operand_types(node), node.outputs, op.axes[0]))
    if op.training or isinstance(op, Held) or isinstance(lowered, str) or None in before:
        return None
    origins = [o for o in before if o is not None]
    asked = _asked(graph, (*node.outputs, *(v.type for v in operands)))
    return _Origin(bool(node.params) or any(o.parameters for o in origins), asked.union(*(o.asked for o in origins)))


def _asked(graph: Graph, types: tuple[TensorType, ...]) -> frozenset[Condition]:
    """The conditions under which values have the sizes they have."""
    sizes = {d for t in types for d in t.dims if isinstance(d, Size)}
    return frozenset(c.plain() for d in sizes for c in pins(d, graph.axes))


class _Places:
    """Where parameters that take the place of values belong."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.open: set[int] = set()
        """Regions that compute something of the samples."""
        self.read: dict[int, set[Value]] = {}
        """By region, the values made in it that are read outside."""
        self.taken = {*graph.params, *(n.module for n in graph.nodes()), *(r.module for r in graph.regions)}
        chains = [{r.id for r in graph.region_chain(i)} for i in range(len(graph.regions))]
        for node in graph.nodes():
            if any(t.batched for t in node.outputs):
                self.open |= chains[node.region]
            for value in graph.operands(node):
                if value is not None and not value.type.batched:
                    for left in chains[graph.node(value.node).region] - chains[node.region]:
                        self.read.setdefault(left, set()).add(value)

    def path(self, value: Value) -> str:
        """Of the call that does nothing but make the value, else a name of its own in its region."""
        node = self.graph.node(value.node)
        home = self._call(self.graph.regions[node.region], value)
        if home is not None:
            return home.module
        parent = next(r.module for r in reversed(self.graph.region_chain(node.region)) if r.module or r.parent is None)
        name = node.path.rpartition(".")[2].replace("#", "_")
        path, n = f"{parent}.{name}".lstrip("."), 2
        while path in self.taken:
            path, n = f"{parent}.{name}_{n}".lstrip("."), n + 1
        self.taken.add(path)
        return path

    def _call(self, region: Region, value: Value) -> Region | None:
        """The outermost call with a module of its own that the value is all there is of."""
        found = None
        while region.kind == "call" and region.results == (value,) and region.id not in self.open:
            if self.read.get(region.id) != {value}:
                break
            if region.segment:
                found = region
            assert region.parent is not None
            region = self.graph.regions[region.parent]
        return found


def _unfolded(graph: Graph) -> Iterator[Finding]:
    for one in constants(graph):
        yield one.value.node, "could be a parameter"


CONSTANT = Property("constant", "No value of a deploy graph is computed of parameters alone.", _unfolded)


@dataclass(frozen=True)
class FoldConstants(Pass):
    """In deploy mode what is computed of parameters alone is computed once: Swin's table becomes the bias it makes."""

    name: ClassVar[str] = "fold_constants"
    gives: ClassVar[tuple[Property, ...]] = (CONSTANT,)

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        for one in constants(graph):
            node = graph.node(one.value.node)
            made = draft.put(
                one.op,
                (),
                (one.value.type,),
                at=node,
                path=one.path,
                module=one.path,
                params=[("", Parameter(one.path, tuple(int(d) for d in one.value.type.dims)))],
            )
            draft.use(made.value(), instead_of=one.value)
            for condition in one.asked:
                draft.require(Guard(condition, f"the shape of {one.path}", node.span))
        draft.sweep()
        return draft.done()
