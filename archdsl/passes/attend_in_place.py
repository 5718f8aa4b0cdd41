"""attend_in_place: attention finds the positions of its windows in maps that are not cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Value
from archdsl.ir.types import Pair, TensorType
from archdsl.ops._pooling import Pool
from archdsl.ops.attend import Attend
from archdsl.ops.base import Order, op_of, pair
from archdsl.ops.complete import Complete
from archdsl.ops.conv import Conv
from archdsl.ops.corner import Corner
from archdsl.ops.grids import Grids
from archdsl.ops.map_attention import MapAttention
from archdsl.ops.merge import Merge
from archdsl.ops.rel_pos_axes import RelPosAxes
from archdsl.ops.rel_pos_q import RelPosQ
from archdsl.ops.split import Split
from archdsl.ops.tile import Tile
from archdsl.ops.window_attention import WindowAttention
from archdsl.ops.windows import Windows
from archdsl.passes.base import Draft, Pass, by_cells, ported

HEAD = (8, 128)
"""Channels of a head: as many as a matrix unit takes at once, and as a row of a tile holds."""
AREA = 1024
"""Positions of a window. Above, attention is by far most of the work, and libraries' is better at it."""
SIDE = 64
"""Rows and columns of keys whose positions add to scores: a tile holds what a query adds for each of them."""


@dataclass(frozen=True)
class AttendInPlace(Pass):
    """What is computed between cutting a map into windows and merging them is computed on the map, if it can be.

    Around one attention, ops have to treat each position by itself. Attention becomes `window_attention`, which
    a kernel computes from q, k and v as they lie, or `map_attention`, where keys have a halo, queries were pooled or
    add to scores by rows and columns of keys; that also where nothing is cut, for the scores' bias is never written.
    Ops that ask how large a window is are given a corner of the map.
    """

    name: ClassVar[str] = "attend_in_place"

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        taken: set[str] = set()
        for node in graph.nodes():
            found = framed(graph, node)
            if isinstance(found, Framed) and not taken & {*found.paths, *found.beside}:
                found.rewrite(graph, draft)
                taken |= {*found.paths, *found.beside}
            elif whole(graph, node):
                _on_maps(graph, draft, node, MapAttention(), graph.operands(node)[:3], None)
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
    reaching: dict[str, Node] = field(default_factory=dict)
    """Cuts of keys and values with a halo."""
    positions: Node | None = None
    """What queries add to scores by rows and columns of keys."""
    pooled: bool = False
    """Whether queries are thinned out in their windows."""
    beside: dict[str, Node] = field(default_factory=dict)
    """Others that read what was cut: for them it stays cut."""
    added: dict[str, Value] = field(default_factory=dict)
    """By op behind the attention, what it reads beside its result, in the same windows: that is merged."""

    @property
    def paths(self) -> set[str]:
        single = {n.path for n in (self.attention, self.tile, self.positions) if n is not None}
        return single.union(self.cuts, self.reaching, self.ahead, self.behind, self.merges)

    @property
    def apart(self) -> bool:
        """Whether queries and keys are not the same positions, or positions add to scores."""
        return bool(self.reaching or self.positions or self.pooled)

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
        frame = self.cut_again(graph, draft)
        for node in self.cuts.values():
            for i, x in enumerate(v for v in graph.operands(node) if v is not None):
                if x not in entered:
                    complete = Complete(size, clamp)
                    path = f"{node.path}.complete"
                    made = [draft.put(complete, [x], complete.infer(x.type), at=node, path=path)] if completes else []
                    entered[x] = made[0].value() if made else x
                draft.use(entered[x], node.value(i))
            draft.drop(node.path)
        for node in self.reaching.values():
            for i, x in enumerate(v for v in graph.operands(node) if v is not None):
                draft.use(x, node.value(i))
            draft.drop(node.path)
        for one in (n for n in graph.nodes() if n.path in self.ahead):
            types = (None if v is None else draft.now(v).type for v in graph.operands(one))
            self.move(draft, one, op_of(one).infer(*types), graph.operands(one))
        if self.pooled:
            extent = next(iter(self.merges.values())).outputs[0].size
        for one in self.behind.values():
            reads = list(graph.operands(one))
            if one.path in self.added:
                assert frame is not None
                x = self.added[one.path]
                outputs = Merge().infer(x.type, frame.type)
                merge = draft.put(Merge(), [x, frame], outputs, at=one, path=f"{one.path}.merge")
                reads = [merge.value() if v == x else v for v in reads]
            self.move(draft, one, tuple(_outside(t, extent) for t in one.outputs), reads)
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
        if self.apart:
            halo = next((n.op.halo for n in self.reaching.values() if isinstance(n.op, Windows)), 0)
            op = MapAttention(size=size, halo=halo, clamp=clamp, pooled=extent if self.pooled else None)
            whole = None if self.pooled or not completes else like
            _on_maps(graph, draft, self.attention, op, graph.operands(self.attention)[:3], whole)
        else:
            self.attend(graph, draft, like, extent)
        for node in self.merges.values():
            (x,) = (v for v in graph.operands(node) if v is not None and v.type.kind != "frame")
            draft.use(x, node.value())
            draft.drop(node.path)

    def cut_again(self, graph: Graph, draft: Draft) -> Value | None:
        """Cuts for others what only they read cut from here on. The frame they are in, if there are any."""
        frame, found = None, dict[Value, Value]()
        for node in self.cuts.values():
            operands = [v for v in graph.operands(node) if v is not None]
            reads = {v for one in self.beside.values() for v in graph.operands(one)}
            cut = [(x, old) for x, old in zip(operands, node.values, strict=False) if old in reads]
            if cut:
                types = op_of(node).infer(*(x.type for x, _ in cut))
                made = draft.put(node.op, [x for x, _ in cut], types, at=node, path=f"{node.path}.beside")
                found |= {old: new for (_, old), new in zip(cut, made.values, strict=False)}
                frame = frame or made.values[-1]
        for one in self.beside.values():
            draft.swap(one, operands=[None if v is None else found.get(v, v) for v in graph.operands(one)])
        return frame

    def move(self, draft: Draft, node: Node, outputs: tuple[TensorType, ...], operands: Sequence[Value | None]) -> None:
        """Lets an op compute on the map what it did in windows."""
        moved = replace(node, outputs=outputs)
        draft.swap(moved, operands=operands)
        for old, new in zip(node.values, moved.values, strict=True):
            draft.use(new, old)

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
    halo = k.frames[0].halo
    reach = frame.inner[0] + 2 * halo, frame.inner[1] + 2 * halo
    if q.frames != (frame,) or any(t.frames != (replace(frame, halo=halo),) or t.size != reach for t in (k, v)):
        return "its keys are not the windows' own positions"
    found = Framed(attention, pooled=q.size != frame.inner)
    if any(t is not None and t.batched for t in graph.operand_types(attention)[3:5]):
        found.positions = by_position(graph, attention)
        if found.positions is None:
            return "its bias is of each sample"
    if odd := _odd_head(attention, q, v):
        return odd
    if int(q.positions) > AREA and found.positions is None:
        return f"{int(q.positions)} positions of a window are too many ({AREA})"
    return _ahead(graph, found) or _behind(graph, found) or _readers(graph, found) or _apart(graph, found) or found


def whole(graph: Graph, attention: Node) -> bool:
    """Whether queries, in no windows, add to scores by rows and columns of keys, so that a kernel saves the bias."""
    if not isinstance(attention.op, Attend) or attention.outputs[0].frames:
        return False
    q, k, v = graph.operand_types(attention)[:3]
    if q is None or k is None or v is None or any(t.kind != "map" or not t.batched for t in (q, k, v)):
        return False
    if k.size != v.size or by_position(graph, attention) is None:
        return False
    return not _odd_head(attention, q, v) and max(k.size) <= SIDE and len(graph.operands(attention)) == 4


def by_position(graph: Graph, attention: Node) -> Node | None:
    """What adds to an attention's scores by rows and columns of keys, if it does so for its own queries alone."""
    q, k, _, bias = (*graph.operands(attention), None)[:4]
    if q is None or k is None or bias is None:
        return None
    node = graph.node(bias.node)
    if type(node.op) is not RelPosQ or _kept(graph, bias) or len(graph.users(bias)) != 1:
        return None
    like = graph.operand_types(node)
    sizes = [None if t is None else (t.kind, t.frames, t.size) for t in like]
    return node if sizes == [(v.type.kind, v.type.frames, v.type.size) for v in (q, k)] else None


def _odd_head(attention: Node, q: TensorType, v: TensorType) -> str:
    assert isinstance(attention.op, Attend)
    heads = attention.op.heads
    odd = next((w for t in (q, v) if not HEAD[0] <= (w := int(t.channels) // heads) <= HEAD[1]), 0)
    return f"a head of {odd} channels is not within {HEAD[0]} to {HEAD[1]}" if odd else ""


def _on_maps(
    graph: Graph,
    draft: Draft,
    attention: Node,
    op: MapAttention,
    operands: Sequence[Value | None],
    like: Value | None,
) -> None:
    """Puts `map_attention` in the place of an attention whose operands are maps by now, in the windows of `op`."""
    old = op_of(attention)
    assert isinstance(old, Attend)
    rows = columns = None
    node = by_position(graph, attention)
    if node is not None:
        assert isinstance(node.op, RelPosQ)
        axes = RelPosAxes(node.op.heads, node.op.init, op.size, op.halo, op.clamp)
        reads = (None if v is None else draft.now(v).type for v in graph.operands(node))
        made = replace(node, op=axes, outputs=axes.infer(*reads), names=())
        draft.swap(made)
        rows, columns = made.values
        draft.use(rows, node.value())
    op = replace(op, heads=old.heads, scale=old.scale)
    reads = (None if v is None else draft.now(v).type for v in (*operands, rows, columns, like))
    new = replace(attention, op=op, outputs=op.infer(*reads))
    draft.swap(new, operands=[*operands, rows, columns, like])
    if new.value() != attention.value():
        draft.use(new.value(), attention.value())


def _ahead(graph: Graph, found: Framed) -> str:
    """Fills in what is computed before the attention. Why it cannot be moved, or ""."""
    waiting = [v for v in graph.operands(found.attention)[:3] if v is not None]
    first = graph.node(waiting[0].node)
    if isinstance(first.op, Tile) and graph.operand_types(first)[0] == replace(first.outputs[0], frames=()):
        found.tile = first
        waiting.pop(0)
    if found.positions is not None:
        waiting += [v for v in graph.operands(found.positions) if v is not None]
    thinning: list[Node] = []
    while waiting:
        value = waiting.pop()
        node = graph.node(value.node)
        if node.path in found.ahead or node.path in found.cuts or node.path in found.reaching:
            continue
        if isinstance(node.op, Windows | Grids):
            (found.reaching if isinstance(node.op, Windows) and node.op.halo else found.cuts)[node.path] = node
            continue
        operands = [v for v in graph.operands(node) if v is not None and v.type.batched]
        if value.type.frames and value.type.frames[0].halo and not isinstance(node.op, Split):
            return f"`{node.op.name}` reads keys in their halo"
        if found.pooled and isinstance(node.op, Conv | Pool) and op_of(node).ordering() is not Order.FREE:
            thinning.append(node)
        elif op_of(node).ordering() is not Order.FREE:
            return f"`{node.op.name}` is not of each position of a window by itself"
        if any(not v.type.frames for v in operands):
            return f"`{node.op.name}` is not of each position of a window by itself"
        found.ahead[node.path] = node
        waiting += operands
    cuts = list(found.cuts.values())
    sizes = {v.type.size for n in (*cuts, *found.reaching.values()) for v in graph.operands(n) if v is not None}
    if not cuts or any(n.op != cuts[0].op for n in cuts) or len(sizes) > 1:
        return "what it reads is cut in several ways"
    cells = pair(found.cut.size), found.attention.outputs[0].frames[0].inner
    if odd := next((n for n in thinning if not all(by_cells(op_of(n), cell) for cell in cells)), None):
        return f"`{odd.op.name}` is not of each position of a window by itself"
    return ""


def _apart(graph: Graph, found: Framed) -> str:
    """Why keys that are not the queries' own positions keep windows cut, or ""."""
    if not found.apart:
        return ""
    _, k, _, bias, tau = (*graph.operand_types(found.attention), None, None)[:5]
    assert k is not None
    cut = found.cut
    if not isinstance(cut, Windows) or cut.shift is not None:
        return "keys of their own are computed in windows that are neither shifted nor spread"
    if any(not isinstance(n.op, Windows) or replace(n.op, halo=0, pad=cut.pad) != cut for n in found.reaching.values()):
        return "what it reads is cut in several ways"
    if tau is not None or (bias is not None and found.positions is None) or found.tile or found.asking:
        return "its keys are not the windows' own positions"
    if found.positions and max(k.size) > SIDE:
        return f"keys in {max(k.size)} rows or columns are too many ({SIDE})"
    return ""


def _behind(graph: Graph, found: Framed) -> str:
    waiting = [found.attention.value()]
    while waiting:
        value = waiting.pop()
        if _kept(graph, value):
            return "its result is read in windows"
        for node, _ in graph.users(value):
            if isinstance(node.op, Merge):
                if graph.operand_types(node)[0].size != value.type.frames[0].inner and not found.pooled:  # type: ignore[union-attr]
                    return "windows shrank"
                found.merges[node.path] = node
                continue
            others = [v for v in graph.operands(node) if v is not None and v.type.batched and v != value]
            alike = len(others) == 1 and others[0].type.frames == value.type.frames and others[0].type.kind == "map"
            known = found.pooled or node.path in found.behind or any(v.node in found.paths for v in others)
            if op_of(node).ordering() is not Order.FREE or (others and (known or not alike)):
                return f"`{node.op.name}` reads its result in windows"
            if others:
                found.added[node.path] = others[0]
            found.behind[node.path] = node
            waiting += node.values
    return ""


def _readers(graph: Graph, found: Framed) -> str:
    tiles = () if found.tile is None else (found.tile,)
    for node in (*found.cuts.values(), *found.reaching.values(), *found.ahead.values(), *tiles):
        for value in node.values:
            if _kept(graph, value):
                return "what it reads is handed on in windows"
            for reader, slot in graph.users(value):
                if reader.path in found.paths:
                    continue
                port = ported(graph, reader)[slot][0]
                if value.type.kind != "frame" and port in op_of(reader).measured:
                    found.asking[reader.path] = reader
                elif value.type.kind == "frame" or not isinstance(node.op, Windows) or node.op.shift is not None:
                    return f"others read the result of its `{node.op.name}`"
                elif node.op.halo:
                    return "what it reads is handed on in windows"
                else:
                    found.beside[reader.path] = reader
    if found.asking.keys() & found.beside.keys():
        return "others read its windows, and their size"
    if found.added and not found.beside:
        return f"`{graph.node(next(iter(found.added))).op.name}` reads its result in windows"
    return ""


def _kept(graph: Graph, value: Value) -> bool:
    return value in graph.outputs or any(f.value == value for f in graph.features)


def _outside(t: TensorType, sides: Pair) -> TensorType:
    """A type in a frame on a map of so many rows and columns."""
    return replace(t, dims=(t.dims[0], *sides), frames=()) if t.kind == "map" else t
