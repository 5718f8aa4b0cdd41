"""Turns a graph into the order of positions that each value is best kept in, and the moves between orders that remain.

Cutting a map into windows and merging them again are moves, not computations. Ops that treat each position alike run in
any order; attention needs its group together; whatever reads neighbours needs raster. Which order every other value is
kept in is chosen by exact assignment, so that moves cost the least: bytes and launches, by a device's rates.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from archdsl.device.model import Device, Work
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ir.layout import Layout
from archdsl.ir.types import TensorType
from archdsl.ops.base import Order, op_of
from archdsl.passes.assignment import Labelling

MOVES = ("windows", "grids", "merge")


@dataclass(frozen=True)
class Move:
    """A value that one op computes in an order and another reads in a different one."""

    source: str
    reader: str
    """The first op that reads it so; others may read the same copy."""
    before: Layout
    after: Layout
    elements: int
    """Per sample, padding included."""


@dataclass(frozen=True)
class Plan:
    """Where each op of a graph computes, and the moves in between, in the graph's order."""

    graph: Graph
    layouts: Mapping[str, Layout]
    """By call path, of the ops whose results are maps."""
    moves: tuple[Move, ...]
    seconds: float
    """What they take, for a batch on the device they were chosen for."""
    asked: int
    """Launches of the moves that the graph itself asks for."""
    asked_elements: int
    """What these read and write, per sample."""
    absorbed: tuple[Move, ...] = ()
    """Moves that are the way in which a generated kernel reads or writes."""

    @property
    def elements(self) -> int:
        """What the moves that remain read and write, per sample."""
        return 2 * sum(m.elements for m in self.moves)


ABSORBED = 1e-3
"""What a move costs that a kernel does while it reads or writes, of what it costs by itself."""


def assign(graph: Graph, device: Device, batch: int, dtype: str, kernels: Collection[str] = ()) -> Plan:
    """The cheapest orders by a device's rates.

    `kernels` are ops for which kernels are generated: they read through any order, and write to any that has each
    position once, for next to nothing.

    Padded orders are kept to where the spec has them, for what stands in the padding then is what the op makes of it.
    Features are left where they are: who asks for them moves them. Raises TooWide where the graph is too entangled for
    an exact answer.
    """
    return _Problem(graph, device, batch, dtype, kernels).solve()


class _Problem:
    def __init__(self, graph: Graph, device: Device, batch: int, dtype: str, kernels: Collection[str] = ()) -> None:
        self.graph, self.device, self.batch, self.dtype, self.kernels = graph, device, batch, dtype, kernels
        self.sources: dict[Value, Value] = {}
        """What a value is once moves are seen through."""
        self.asked = self.asked_elements = 0
        self.options: dict[tuple[int, int], dict[Layout, None]] = {}
        computing = [node for node in graph.nodes() if not self.moves(node)]
        for node in graph.nodes():
            if self.moves(node):
                self.see_through(node)
            for layout in map(home, node.outputs):
                if layout is not None and not layout.padded:
                    known = self.options.setdefault((layout.height, layout.width), {})
                    known |= dict.fromkeys((Layout.raster(layout.height, layout.width), layout.order))
        self.orders: dict[str, list[Layout]] = {n.path: own for n in computing if (own := self.labels(n))}
        """By call path, the orders that an op whose result is a map may compute in."""
        self.readers: dict[Value, list[tuple[Node, Value]]] = {}
        """Of each value that an order is chosen for: the ops that read it, and as which value before moves."""
        for node in computing:
            for value in read(graph, node):
                if value.type.kind == "map" and self.source(value).node in self.orders:
                    self.readers.setdefault(self.source(value), []).append((node, value))
        self.copies: dict[Value, list[Layout]] = {}
        for value, reads in self.readers.items():
            if len(reads) > 1:
                wanted = [need for node, operand in reads for need in self.needs(node, operand)]
                known = dict.fromkeys((*self.orders[value.node], *(need for need in wanted if need is not None)))
                self.copies[value] = list(known)

    def moves(self, node: Node) -> bool:
        """Whether the node only moves positions: a cut without a halo, or a merge of cells that kept their size."""
        if node.op.name not in MOVES:
            return False
        (first, *_) = (v for v in self.graph.operands(node) if v is not None)
        x = first.type
        if node.op.name == "merge":
            return home(x) is not None and x.size == x.frames[-1].inner
        return home(x) is not None and all(home(t) is not None for t in node.outputs if t.kind == "map")

    def see_through(self, node: Node) -> None:
        operands = [v for v in self.graph.operands(node) if v is not None and v.type.kind == "map"]
        for mine, theirs in zip(node.values, operands, strict=False):
            self.sources[mine] = self.source(theirs)
        types = tuple(None if t is None else t.plain() for t in self.graph.operand_types(node))
        outputs = tuple(t.plain() for t in node.outputs)
        launches = op_of(node).launches(types, outputs)
        self.asked += launches
        self.asked_elements += launches * sum(t.elements for t in (*types, *outputs) if t is not None)

    def source(self, value: Value) -> Value:
        return self.sources.get(value, value)

    # -- labels ------------------------------------------------------------------------------------

    def free(self, node: Node) -> bool:
        """Whether an op may compute in any order: nothing in it looks beyond a position, or order does not matter."""
        operands = [v.type for v in self.graph.operands(node) if v is not None]
        ordered = [t for t in (*operands, *node.outputs) if t.kind == "map" and t.batched]
        if node.op.name == "pack":
            return True
        if op_of(node).ordering() not in (Order.FREE, Order.REDUCES) or node.op.name == "input":
            return False
        layouts = [home(t) for t in ordered]
        whole = all(layout is not None and not layout.padded for layout in layouts)
        return whole and len({(a.height, a.width) for a in layouts if a is not None}) == 1

    def labels(self, node: Node) -> list[Layout]:
        """Orders that the node's result may have; none where it is no map."""
        own = next((layout for layout in map(home, node.outputs) if layout is not None), None)
        if own is None:
            return []
        if not self.free(node) or own.padded:
            return [own.order]
        return list(self.options[own.height, own.width])

    def needed(self, node: Node, value: Value, label: Layout) -> Layout | None:
        """The order in which a node whose result is to be in `label` reads an operand."""
        own = home(value.type)
        if own is None:
            return None
        if node.op.name == "pack":
            height, width = value.type.frames[-1].inner
            return label.lifted(int(height), int(width)).order
        return label if self.free(node) and not own.padded else own.order

    def elements(self, value: Value, before: Layout, after: Layout) -> int:
        """What a move of a value writes, per sample."""
        return value.type.channels * max(before.positions, after.positions)

    def seconds(self, value: Value, before: Layout, after: Layout | None, reader: Node | None = None) -> float:
        """What it takes to move a value to another order, None being any, for a reader or for a copy."""
        if after is None or before == after:
            return 0.0
        work = Work(elements=2 * self.elements(value, before, after))
        share = ABSORBED if self.absorbs(value, before, after, reader) else 1.0
        return share * work.seconds(self.device, self.batch, self.dtype)

    def absorbs(self, value: Value, before: Layout, after: Layout, reader: Node | None) -> bool:
        """Whether a kernel reads the value through another order, or writes it to one that holds each position once."""
        stores = self.graph.node(value.node).op.name in self.kernels and not (before.padded or after.padded)
        return stores or (reader is not None and reader.op.name in self.kernels)

    # -- solving -----------------------------------------------------------------------------------

    def solve(self) -> Plan:
        unary, binary = self.costs()
        solution = Labelling(unary, binary).solve()
        layouts = {path: own[solution.labels[path]] for path, own in self.orders.items()}
        copies = {value: own[solution.labels[_copy(value)]] for value, own in self.copies.items()}
        found: dict[bool, list[Move]] = {False: [], True: []}
        for value in self.readers:
            for move, absorbed in self.moved(value, layouts, copies):
                found[absorbed].append(move)
        moves, within = tuple(found[False]), tuple(found[True])
        return Plan(self.graph, layouts, moves, solution.cost, self.asked, self.asked_elements, within)

    def costs(self) -> tuple[dict[str, list[float]], dict[tuple[str, str], list[list[float]]]]:
        """The problem as costs of labels, and of pairs of them.

        Variables are the ops whose results are maps, by call path, labelled with `orders`; and of each value that
        several ops read a copy, labelled with `copies`, in one more order for all of them: one move, not one each.
        """
        unary = {path: [0.0] * len(own) for path, own in self.orders.items()}
        binary: dict[tuple[str, str], list[list[float]]] = {}
        for value, reads in self.readers.items():
            key, have = value.node, self.orders[value.node]
            if value in self.copies:
                key = _copy(value)
                binary[value.node, key] = [[self.seconds(value, a, b) for b in self.copies[value]] for a in have]
                have = self.copies[value]
                unary[key] = [0.0] * len(have)
            tables: dict[str, list[list[float]]] = {}
            for node, operand in reads:
                table = [[self.seconds(value, b, need, node) for need in self.needs(node, operand)] for b in have]
                # One move serves an op that reads a value twice, as another value or as the same.
                tables[node.path] = _joined(max, tables[node.path], table) if node.path in tables else table
            for path, table in tables.items():
                if path not in self.orders:
                    unary[key] = [cost + row[0] for cost, row in zip(unary[key], table, strict=True)]
                else:  # two values of one op may be read by another
                    known = binary.get((key, path))
                    binary[key, path] = table if known is None else _joined(operator.add, known, table)
        return unary, binary

    def needs(self, node: Node, operand: Value) -> list[Layout | None]:
        """The orders in which a node reads an operand, by its own label; None where any will do."""
        own = self.orders.get(node.path)
        if own is None:
            layout = home(operand.type)
            free = layout is None or (op_of(node).ordering() is Order.REDUCES and not layout.padded)
            return [None if free or layout is None else layout.order]
        return [self.needed(node, operand, label) for label in own]

    def moved(
        self, value: Value, layouts: Mapping[str, Layout], copies: Mapping[Value, Layout]
    ) -> Iterator[tuple[Move, bool]]:
        """The moves of one value, and whether kernels absorb them: to its copy, if that differs, and on from there."""
        have, done = layouts[value.node], set[Layout]()
        copy = copies.get(value, have)
        for node, operand in self.readers[value]:
            own = self.orders.get(node.path)
            need = self.needs(node, operand)[0 if own is None else own.index(layouts[node.path])]
            for before, after, reader in ((have, copy, None), (copy, need, node)):
                if after is not None and before != after and after not in done:
                    done.add(after)
                    move = Move(value.node, node.path, before, after, self.elements(value, before, after))
                    yield move, self.absorbs(value, before, after, reader)


def _joined(
    how: Callable[[float, float], float], one: list[list[float]], other: list[list[float]]
) -> list[list[float]]:
    return [[how(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]


def _copy(value: Value) -> str:
    """The variable of a value's copy."""
    return f"{value.node}:{value.index}"


def read(graph: Graph, node: Node) -> Iterator[Value]:
    """The operands whose elements an op reads; of others it asks the size."""
    op = op_of(node)
    for slot, value in enumerate(graph.operands(node)):
        port = op.ports[min(slot, len(op.ports) - 1)].strip("*?")
        if value is not None and port not in op.measured:
            yield value


def home(t: TensorType) -> Layout | None:
    """The order that a map's type puts its positions in; None for other values, halos and frames within frames."""
    if t.kind != "map" or not t.batched:
        return None
    if not t.frames:
        return Layout.raster(int(t.dims[1]), int(t.dims[2]))
    frame = t.frames[-1]
    if len(t.frames) > 1 or frame.kind not in ("window", "grid") or frame.halo or t.size != frame.inner:
        return None
    return Layout.of(frame)
