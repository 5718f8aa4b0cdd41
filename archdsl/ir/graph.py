"""The graph: ops joined by typed values, with the regions they came from and parameters of their own identity.

One `networkx.MultiDiGraph` whose edge keys are operand slots. Nodes are named by their call path, are kept in
a topological insertion order, and all mutation goes through `Graph`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import networkx as nx

from archdsl.diagnostics import Span
from archdsl.ir.sizes import Condition
from archdsl.ir.types import TensorType, Weight

Static: TypeAlias = "int | float | bool | str | tuple[Static, ...] | None"
"""A compile-time value as the graph stores it; functions are stored as their text."""


class Operation(Protocol):
    """What the graph needs to know of an op (archdsl.ops.base.Op is the one implementation)."""

    @property
    def name(self) -> str: ...

    def attributes(self) -> dict[str, Static]:
        """Attribute values by name, in declaration order."""

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        """Result types; raises ShapeError."""

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        """The weights one instance owns."""


@dataclass(frozen=True, slots=True)
class Value:
    """The `index`-th result of the node at call path `node`."""

    node: str
    index: int
    type: TensorType

    def __str__(self) -> str:
        return f"%{self.node}" + (f":{self.index}" if self.index else "")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A learnable tensor or a buffer of the state dict, by its weight path. Sharing is two nodes naming one."""

    path: str
    shape: tuple[int, ...]
    init: str = "zeros"
    kind: str = "param"
    dtype: str = ""
    resize: str = ""

    @property
    def elements(self) -> int:
        n = 1
        for d in self.shape:
            n *= int(d)
        return n


@dataclass(frozen=True, slots=True)
class Node:
    """One op call. `module` is the weight path its parameters live under, "" where it owns none."""

    path: str
    op: Operation
    outputs: tuple[TensorType, ...]
    region: int
    span: Span | None = None
    module: str = ""
    params: tuple[tuple[str, str], ...] = ()
    """(role, parameter path) pairs."""
    names: tuple[str, ...] = ()
    """The spec's variable names for the results, "" where it gave none."""

    def value(self, index: int = 0) -> Value:
        return Value(self.path, index, self.outputs[index])

    @property
    def values(self) -> tuple[Value, ...]:
        return tuple(self.value(i) for i in range(len(self.outputs)))


@dataclass(slots=True)
class Region:
    """A piece of the program that nodes belong to: the arch, a stem, stage, blocks iteration, head, or def call.

    `segment` is what it adds to weight paths ("" when it is elided), `module` the whole weight path. `statics`
    are the compile-time arguments of a call. `index` is the iteration of a stage or blocks loop. `share` is the
    weight path of the shared instance that this call uses, "" for a call that owns its weights.
    """

    id: int
    parent: int | None
    kind: str
    name: str
    segment: str = ""
    module: str = ""
    span: Span | None = None
    index: int | None = None
    statics: tuple[tuple[str, Static], ...] = ()
    ports: tuple[tuple[str, Value], ...] = ()
    results: tuple[Value, ...] = ()
    share: str = ""


@dataclass(frozen=True, slots=True)
class Guard:
    """A decision elaboration took because of the input's size: it holds while `condition` does."""

    condition: Condition
    decision: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """A stage's declared result: what a features-only module returns."""

    stage: str
    name: str
    value: Value


@dataclass
class Graph:
    """A whole architecture at one input size, in one mode ("train", "eval", "tune" or "deploy")."""

    name: str
    mode: str = "eval"
    source: str = ""
    """Name of the spec file it came from."""
    net: nx.MultiDiGraph = field(default_factory=nx.MultiDiGraph)
    params: dict[str, Parameter] = field(default_factory=dict)
    regions: list[Region] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: tuple[Value, ...] = ()
    features: list[Feature] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    statics: dict[str, Static] = field(default_factory=dict)
    """The arch's parameters, as resolved."""

    def add(
        self,
        op: Operation,
        operands: Sequence[Value | None],
        outputs: tuple[TensorType, ...],
        *,
        path: str,
        region: int,
        span: Span | None = None,
        module: str = "",
        params: tuple[tuple[str, str], ...] = (),
        names: tuple[str, ...] = (),
    ) -> Node:
        """Appends a node; operands must exist already. The path must be new."""
        if path in self.net:
            raise ValueError(f"call path {path!r} is taken")
        node = Node(path, op, outputs, region, span, module, params, names)
        self.net.add_node(path, node=node)
        for slot, value in enumerate(operands):
            if value is not None:
                self.net.add_edge(value.node, path, key=slot, index=value.index)
        return node

    def replace_node(self, node: Node) -> None:
        """Puts a changed node (same path, same operands) in the old one's place."""
        self.net.nodes[node.path]["node"] = node

    def mark(self) -> tuple[int, int, int]:
        """How much there is now, for `since` and `rollback`."""
        return len(self.net), len(self.regions), len(self.params)

    def since(self, mark: tuple[int, int, int]) -> list[Node]:
        """The nodes added after `mark`."""
        return [data["node"] for _, data in list(self.net.nodes(data=True))[mark[0] :]]

    def rollback(self, mark: tuple[int, int, int]) -> None:
        """Takes back every node, region and parameter added after `mark`."""
        self.net.remove_nodes_from([n.path for n in self.since(mark)])
        del self.regions[mark[1] :]
        for path in list(self.params)[mark[2] :]:
            del self.params[path]

    def rename_result(self, value: Value, name: str) -> None:
        """Records the spec's variable name for a result, for the emitted code to use."""
        node = self.node(value.node)
        names = list(node.names or ("",) * len(node.outputs))
        names[value.index] = name
        n = node  # not dataclasses.replace, which takes longer than all the rest of an assignment
        self.replace_node(Node(n.path, n.op, n.outputs, n.region, n.span, n.module, n.params, tuple(names)))

    def __len__(self) -> int:
        return len(self.net)

    def __contains__(self, path: str) -> bool:
        return path in self.net

    def node(self, path: str) -> Node:
        return self.net._node[path]["node"]  # type: ignore[no-any-return]  # a view takes five times as long

    def nodes(self) -> Iterator[Node]:
        """All nodes in insertion order, which is a topological order."""
        for data in self.net._node.values():
            yield data["node"]

    def operands(self, node: Node) -> tuple[Value | None, ...]:
        """Operand values by slot; None where an optional operand is absent."""
        slots: dict[int, Value] = {}
        for source, edges in self.net._pred[node.path].items():  # its views take five times as long
            producer = self.node(source)
            for slot, data in edges.items():
                slots[slot] = producer.value(data["index"])
        return tuple([slots.get(i) for i in range(max(slots, default=-1) + 1)])

    def operand_types(self, node: Node) -> tuple[TensorType | None, ...]:
        return tuple(None if v is None else v.type for v in self.operands(node))

    def users(self, value: Value) -> list[tuple[Node, int]]:
        """(node, operand slot) pairs that read the value."""
        return [
            (self.node(target), slot)
            for _, target, slot, index in self.net.out_edges(value.node, keys=True, data="index")
            if index == value.index
        ]

    def weight_nodes(self) -> Iterator[Node]:
        return (n for n in self.nodes() if n.params)

    def region_chain(self, region: int) -> list[Region]:
        """A region and its ancestors, outermost first."""
        chain: list[Region] = []
        at: int | None = region
        while at is not None:
            chain.append(self.regions[at])
            at = self.regions[at].parent
        return chain[::-1]

    @property
    def axes(self) -> dict[str, int]:
        """Height and width of the (first) input, by axis name."""
        _, height, width = self.inputs[0].type.dims
        return {"H": int(height), "W": int(width)}
