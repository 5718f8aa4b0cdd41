"""attend_in_place: attention finds the positions of its windows in maps that are not cut."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Value
from archdsl.ir.types import Pair, TensorType
from archdsl.ops.attend import Attend
from archdsl.ops.base import Order, op_of, pair
from archdsl.ops.complete import Complete
from archdsl.ops.corner import Corner
from archdsl.ops.grids import Grids
from archdsl.ops.merge import Merge
from archdsl.ops.split import Split
from archdsl.ops.tile import Tile
from archdsl.ops.window_attention import WindowAttention
from archdsl.ops.windows import Windows
from archdsl.passes.base import Draft, Pass, ported

HEAD = (8, 128)
"""Channels of a head: as many as a matrix unit takes at once, and as a row of a tile holds."""
AREA = 1024
"""Positions of a window. Above, attention is by far most of the work, and libraries' is better at it."""


@dataclass(frozen=True)
class AttendInPlace(Pass):
    """What is computed between cutting a map into windows and merging them is computed on the map, if it can be.

    Around one attention, ops have to treat each position by itself. Attention becomes `window_attention`, which
    a kernel computes from q, k and v as they lie. Ops that ask how large a window is are given a corner of the map.
    """

    name: ClassVar[str] = "attend_in_place"

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        taken: set[str] = set()
        for node in graph.nodes():
            found = framed(graph, node)
            if isinstance(found, Framed) and not taken & found.paths:
                found.rewrite(graph, draft)
                taken |= found.paths
        draft.sweep()
        return draft.done()


@dataclass
class Framed:
    """The ops that work in the windows around one attention."""

    attention: Node
    cuts: dict[str, Node] = field(default_factory=dict)
    ahead: dict[str, Node] = field(default_factory=dict)
    """Between the cuts and the attention."""
    behind: dict[str, Node] = field(default_factory=dict)
    """Between the attention and the merges."""
    merges: dict[str, Node] = field(default_factory=dict)
    asking: dict[str, Node] = field(default_factory=dict)
    """What reads a window for its size alone."""
    tile: Node | None = None
    """What gives every window the same queries."""

    @property
    def paths(self) -> set[str]:
        tiles = () if self.tile is None else (self.tile.path,)
        return {self.attention.path, *tiles, *self.cuts, *self.ahead, *self.behind, *self.merges}

    @property
    def cut(self) -> Windows | Grids:
        op = next(iter(self.cuts.values())).op
        assert isinstance(op, Windows | Grids)
        return op

    def rewrite(self, graph: Graph, draft: Draft) -> None:
        """Notes the changes."""
        first = next(iter(self.cuts.values()))
        like = graph.operands(first)[0]
        assert like is not None
        extent = like.type.size
        size = pair(self.cut.size)
        clamp = not isinstance(self.cut, Windows) or self.cut.clamp
        completes = isinstance(self.cut, Windows) and self.cut.pad != "none"
        entered: dict[Value, Value] = {}
        for node in self.cuts.values():
            for i, x in enumerate(v for v in graph.operands(node) if v is not None):
                if x not in entered:
                    complete = Complete(size, clamp)
                    path = f"{node.path}.complete"
                    made = [draft.put(complete, [x], complete.infer(x.type), at=node, path=path)] if completes else []
                    entered[x] = made[0].value() if made else x
                draft.use(entered[x], node.value(i))
            draft.drop(node.path)
        whole = entered[like].type.size
        for one, sides in (*((n, whole) for n in self.ahead.values()), *((n, extent) for n in self.behind.values())):
            moved = replace(one, outputs=tuple(_outside(t, sides) for t in one.outputs))
            draft.swap(moved)
            for old, new in zip(one.values, moved.values, strict=True):
                draft.use(new, old)
        if self.asking:
            corner = Corner(size, clamp)
            operand = like if clamp else entered[like]
            put = draft.put(corner, [operand], corner.infer(operand.type), at=first, path=f"{first.path}.corner")
        for node in self.asking.values():
            reads = [
                put.value() if v is not None and self.inside(v) and port in op_of(node).measured else v
                for port, v in ported(graph, node)
            ]
            draft.swap(node, operands=reads)
        self.attend(graph, draft, like, extent)
        for node in self.merges.values():
            (x,) = (v for v in graph.operands(node) if v is not None and v.type.kind != "frame")
            draft.use(x, node.value())
            draft.drop(node.path)

    def attend(self, graph: Graph, draft: Draft, like: Value, extent: Pair) -> None:
        op, operands = op_of(self.attention), list(graph.operands(self.attention))
        assert isinstance(op, Attend)
        cut = self.cut
        shift = cut.shift if isinstance(cut, Windows) else None
        new = WindowAttention(
            op.heads,
            op.scale,
            pair(cut.size),
            None if shift is None else pair(shift),
            isinstance(cut, Grids),
            isinstance(cut, Windows) and cut.pad == "before_roll",
            not isinstance(cut, Windows) or cut.clamp,
            self.tile is not None,
        )
        q, k, v = self.packed(graph, operands)
        if self.tile is not None:
            q = graph.operands(self.tile)[0]
            draft.drop(self.tile.path)
        bias, tau = (*operands, None, None)[3:5]
        (out,) = self.attention.outputs
        node = replace(self.attention, op=new, outputs=(_outside(out, extent),))
        draft.swap(node, operands=[q, k, v, bias, tau, like])
        draft.use(node.value(), self.attention.value())

    def packed(self, graph: Graph, operands: list[Value | None]) -> tuple[Value | None, ...]:
        """q, k and v, or the one map that they are thirds of; or q and the map that k and v are halves of."""
        q, k, v = operands[:3]
        assert q is not None and k is not None and v is not None
        for parts, values in ((3, (q, k, v)), (2, (k, v))):
            node = graph.node(v.node)
            if not isinstance(node.op, Split) or node.op.axis != "c" or node.op.parts != parts:
                continue
            readers = {n.path for one in values for n, _ in graph.users(one)} - self.asking.keys()
            if values == tuple(node.values) and readers == {self.attention.path}:
                (x,) = graph.operands(node)
                return (x, None, None) if parts == 3 else (q, x, None)
        return q, k, v

    def inside(self, value: Value) -> bool:
        return value.node in self.paths


def left(graph: Graph) -> dict[str, str]:
    """By path, the attentions in windows that stay in windows that are cut, and why."""
    found = {n.path: framed(graph, n) for n in graph.nodes() if isinstance(n.op, Attend) and n.outputs[0].frames}
    return {path: why for path, why in found.items() if isinstance(why, str)}


def framed(graph: Graph, attention: Node) -> Framed | str:
    """The ops around an attention, or why it stays in windows that are cut."""
    if not isinstance(attention.op, Attend) or len(attention.outputs[0].frames) != 1:
        return "it is not in windows"
    q, k, v = graph.operand_types(attention)[:3]
    frame = attention.outputs[0].frames[0]
    assert q is not None and k is not None and v is not None
    if frame.kind not in ("window", "grid") or any(t.kind != "map" or not t.batched for t in (q, k, v)):
        return "it is not in windows of a map"
    if any(t.frames != (frame,) or t.size != frame.inner for t in (q, k, v)):
        return "its queries or keys are not the windows' own positions"
    if any(t is not None and t.batched for t in graph.operand_types(attention)[3:5]):
        return "its bias is of each sample"
    op = attention.op
    odd = next((w for t in (q, v) if not HEAD[0] <= (w := int(t.channels) // op.heads) <= HEAD[1]), 0)
    if odd:
        return f"a head of {odd} channels is not within {HEAD[0]} to {HEAD[1]}"
    if int(q.positions) > AREA:
        return f"{int(q.positions)} positions of a window are too many ({AREA})"
    found = Framed(attention)
    return _ahead(graph, found) or _behind(graph, found) or _readers(graph, found) or found


def _ahead(graph: Graph, found: Framed) -> str:
    """Fills in what is computed before the attention. Why it cannot be moved, or ""."""
    waiting = [v for v in graph.operands(found.attention)[:3] if v is not None]
    first = graph.node(waiting[0].node)
    if isinstance(first.op, Tile) and graph.operand_types(first)[0] == replace(first.outputs[0], frames=()):
        found.tile = first
        waiting.pop(0)
    while waiting:
        node = graph.node(waiting.pop().node)
        if node.path in found.ahead or node.path in found.cuts:
            continue
        if isinstance(node.op, Windows | Grids):
            found.cuts[node.path] = node
            continue
        operands = [v for v in graph.operands(node) if v is not None and v.type.batched]
        if op_of(node).ordering() is not Order.FREE or any(not v.type.frames for v in operands):
            return f"`{node.op.name}` is not of each position of a window by itself"
        found.ahead[node.path] = node
        waiting += operands
    cuts = list(found.cuts.values())
    sizes = {v.type.size for n in cuts for v in graph.operands(n) if v is not None}
    if not cuts or any(n.op != cuts[0].op for n in cuts) or len(sizes) > 1:
        return "what it reads is cut in several ways"
    if isinstance(found.cut, Windows) and found.cut.halo:
        return "windows overlap"
    return ""


def _behind(graph: Graph, found: Framed) -> str:
    waiting = [found.attention.value()]
    while waiting:
        value = waiting.pop()
        if _kept(graph, value):
            return "its result is read in windows"
        for node, _ in graph.users(value):
            if isinstance(node.op, Merge):
                if graph.operand_types(node)[0].size != value.type.frames[0].inner:  # type: ignore[union-attr]
                    return "windows shrank"
                found.merges[node.path] = node
                continue
            operands = [v for v in graph.operands(node) if v is not None and v.type.batched]
            if op_of(node).ordering() is not Order.FREE or len(operands) != 1:
                return f"`{node.op.name}` reads its result in windows"
            found.behind[node.path] = node
            waiting += node.values
    return ""


def _readers(graph: Graph, found: Framed) -> str:
    tiles = () if found.tile is None else (found.tile,)
    for node in (*found.cuts.values(), *found.ahead.values(), *tiles):
        for value in node.values:
            if _kept(graph, value):
                return "what it reads is handed on in windows"
            for reader, slot in graph.users(value):
                if reader.path in found.paths:
                    continue
                port = ported(graph, reader)[slot][0]
                if value.type.kind == "frame" or port not in op_of(reader).measured:
                    return f"others read the result of its `{node.op.name}`"
                found.asking[reader.path] = reader
    return ""


def _kept(graph: Graph, value: Value) -> bool:
    return value in graph.outputs or any(f.value == value for f in graph.features)


def _outside(t: TensorType, sides: Pair) -> TensorType:
    """A type in a frame on a map of so many rows and columns."""
    return replace(t, dims=(t.dims[0], *sides), frames=()) if t.kind == "map" else t
