"""What a pass is: a Graph in, a Graph out, with the properties that it needs, gives and breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Operation, Parameter, Region, Value
from archdsl.ir.types import TensorType
from archdsl.ir.verify import Finding


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
        self._params: dict[str, Parameter] = {}
        self._taken: set[str] = set()

    def use(self, new: Value, instead_of: Value) -> None:
        """Lets all who read a value (outputs, features and regions, too) read another of its type."""
        self._instead[instead_of] = new

    def drop(self, path: str) -> None:
        """Takes an op out. Nothing may read it once the draft is done."""
        self._gone.add(path)

    def swap(self, node: Node, params: Sequence[Parameter] = ()) -> None:
        """Puts a changed node in the place of the one of its path, which reads the same; `params` are new."""
        self._swapped[node.path] = node
        self._params |= {p.path: p for p in params}

    def put(
        self, op: Operation, operands: Sequence[Value | None], outputs: tuple[TensorType, ...], *, at: Node, path: str
    ) -> Node:
        """A new op right above the op `at`, in its region and from its place in the source."""
        name, n = path, 2
        while name in self.graph or name in self._taken:
            name, n = f"{path}#{n}", n + 1
        self._taken.add(name)
        node = Node(name, op, outputs, at.region, at.span)
        self._ahead.setdefault(at.path, []).append((node, tuple(operands)))
        return node

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
        new = Graph(old.name, old.mode, old.source, guards=old.guards, statics=old.statics)
        for node in old.nodes():
            for added, operands in self._ahead.get(node.path, ()):
                self._add(new, added, operands)
            if node.path not in self._gone:
                self._add(new, self._swapped.get(node.path, node), old.operands(node))
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
        ports = tuple((name, self.now(v)) for name, v in region.ports)
        results = tuple(self.now(v) for v in region.results)
        unchanged = ports == region.ports and results == region.results
        return region if unchanged else replace(region, ports=ports, results=results)
