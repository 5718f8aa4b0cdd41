"""relayout: maps stay in windows from one attention to the next, and go from windows to windows in one gather."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias, cast

from archdsl.ir.graph import Graph, Node, Operation, Region, Value
from archdsl.ir.text import static_text
from archdsl.ir.types import Pair
from archdsl.ops.base import Op, Order, ShapeError, op_of, pair
from archdsl.ops.drop_path import DropPath
from archdsl.ops.grids import Grids
from archdsl.ops.merge import Merge
from archdsl.ops.regroup import Regroup
from archdsl.ops.windows import Windows
from archdsl.ops.zero_padding import ZeroPadding
from archdsl.passes.base import MOVES, Pass
from archdsl.passes.layouts import home
from archdsl.passes.placing import Item, Placing

Cut: TypeAlias = "Windows | Grids"
"""What puts a map in an order. Two cuts whose frames are equal at one size may differ at another."""
Loop: TypeAlias = tuple[int | None, str, str]
"""The iterations of one loop have one parent, kind and place in the spec."""

RASTER = None
UNDEFINED = ("div", "log")
"""Ops that may make infinities of padding, which gradients would meet again."""


@dataclass(frozen=True)
class Relayout(Pass):
    """Cuts maps into windows where a residual stream first needs it, and keeps all of the stream in them.

    A cut moves up through ops that treat each position by itself to the stream, a merge moves down past them, and what
    is merged and cut anew is moved from windows to windows at once. Where windows may pad, what attention sees in the
    padding is made zero again. A stage whose result is read in windows again carries them on to the next.
    """

    name: ClassVar[str] = "relayout"

    def __call__(self, graph: Graph) -> Graph:
        if not any(_cuts(node) for node in graph.nodes()):
            return graph
        whole: set[Loop] = set()
        while True:
            walk = _Walk(graph, whole)
            after = walk.run()
            if not walk.whole - whole:
                break
            whole |= walk.whole
        return after if _launches(after) < _launches(graph) else graph


@dataclass(frozen=True)
class Version:
    """A map of the old graph in the new one, in raster order or in a frame."""

    value: Value
    cut: Cut | None
    """What made its frame; none for raster order."""
    frame: Value | None
    """The frame it is in."""
    region: int
    native: bool
    """Computed in this order, so that whoever reads the map may read it; others are of use in their region only."""
    clean: bool = False
    """Whether what is padding is zero."""


@dataclass
class _Walk:
    """One walk through the old graph, in its order, that writes the new one."""

    old: Graph
    bound: set[Loop]
    """Loops whose iterations hand on maps in raster order."""
    whole: set[Loop] = field(default_factory=set)
    """Those that turned out to have to."""

    def __post_init__(self) -> None:
        graph = self.old
        self.chains = [[r.id for r in graph.region_chain(i)] for i in range(len(graph.regions))]
        self.kept = {*graph.outputs, *(f.value for f in graph.features)}
        self.readers: dict[Value, list[Node]] = {}
        for node in graph.nodes():
            for value in graph.operands(node):
                if value is not None:
                    self.readers.setdefault(value, []).append(node)
        self.placing = Placing(self.chains)
        self.taken = {node.path for node in graph.nodes()}
        self.versions: dict[Value, list[Version]] = {}
        """The latest last. One is native, at least."""
        self.others: dict[Value, Value] = {}
        """Frames of the old graph, and what else is no map, in the new one."""
        self.frames: dict[Value, Cut] = {}
        """What the old graph's frames are made by."""
        self.hoisted: dict[str, Node] = {}
        """By path, ops that move below the cut of what they compute."""
        self.entries: dict[Loop, dict[int, Cut]] = {}
        """How the iterations of a loop cut what comes in."""
        self.cuts: dict[str, Cut] = {}
        """By path, what cuts a map: one object for cuts that are alike at every size."""
        alike: dict[str, Cut] = {}
        for node in graph.nodes():
            if _cuts(node):
                assert isinstance(node.op, Windows | Grids)
                text = f"{node.op.name}{static_text(tuple(node.op.attributes().items()))}"
                self.cuts[node.path] = alike.setdefault(text, node.op)
                self.hoist(node)
        self.parts: list[set[int]] = [set() for _ in graph.regions]
        """Of each region, those right below it that ops are in, and itself where an op is in none."""
        self.handed: dict[int, list[Value]] = {}
        """The maps that are read outside of the iteration in which they are computed."""
        for node in graph.nodes():
            chain = self.chains[node.region]
            for region, below in zip(chain, [*chain[1:], chain[-1]], strict=True):
                self.parts[region].add(below)
            for value in node.values:
                if value.type.kind == "map" and value.type.batched and not value.type.frames:
                    for region in chain:
                        if graph.regions[region].index is not None and self.leaves(value, region):
                            self.handed.setdefault(region, []).append(value)
        if not graph.features:  # what each block gives is what features are taken from
            self.bound |= {self.loop(r) for r in graph.regions if r.kind == "blocks" and len(self.chains[r.id]) == 2}

    # -- before the walk ------------------------------------------------------------------------------

    def hoist(self, cut: Node) -> None:
        """Notes which ops below a cut's root are to be computed in its frame."""
        (value,) = _maps(self.old, cut)
        region = cut.region
        while True:
            node = self.old.node(value.node)
            maps = _maps(self.old, node)
            alone = len(self.readers.get(value, ())) == 1 and value not in self.kept and len(node.outputs) == 1
            if not (alone and self.free(node) and len(maps) == 1 and maps[0].type.channels <= value.type.channels):
                break
            self.hoisted[node.path] = cut
            value, region = maps[0], node.region
        loops = [r for r in self.chains[region] if self.old.regions[r].index is not None]
        if loops and loops[-1] not in self.chains[self.old.node(value.node).region]:
            found = self.cuts[cut.path]
            self.entries.setdefault(self.loop(self.old.regions[loops[-1]]), {})[id(found)] = found

    def leaves(self, value: Value, region: int) -> bool:
        """Whether a map is read outside of a region."""
        return value in self.kept or any(region not in self.chains[n.region] for n in self.readers.get(value, ()))

    def free(self, node: Node) -> bool:
        """Whether an op treats every position of its maps by itself, outside of frames."""
        op = op_of(node)
        if op.ordering() is not Order.FREE or op.name in UNDEFINED or op.name == "input":
            return False
        types = [t for t in (*self.old.operand_types(node), *node.outputs) if t is not None and t.kind == "map"]
        whole = all(t.batched and not t.frames for t in types)
        return bool(node.outputs) and whole and len({t.size for t in types}) == 1

    def loop(self, region: Region) -> Loop:
        return region.parent, region.kind, str(region.span)

    # -- the walk -------------------------------------------------------------------------------------

    def run(self) -> Graph:
        inside: list[int] = []
        for node in self.old.nodes():
            chain = self.chains[node.region]
            for left in reversed([r for r in inside if r not in chain]):
                self.leave(left)
            inside = chain
            self.visit(node)
        for left in reversed(inside):
            self.leave(left)
        return self.graph()

    def visit(self, node: Node) -> None:
        if _cuts(node):
            self.cut(node)
        elif self.undoes(node):
            self.undo(node)
        elif self.in_head(node) or not (self.free(node) and self.move(node)):
            self.stay(node)

    def in_head(self, node: Node) -> bool:
        """Whether an op belongs to the head, which takes features in raster order."""
        return any(self.old.regions[r].kind == "head" for r in self.chains[node.region])

    def cut(self, node: Node) -> None:
        (value,) = _maps(self.old, node)
        version = self.version(value, self.cuts[node.path], node)
        if not (version.clean or _tiles(node)):
            assert version.frame is not None
            x = self.put(ZeroPadding(), (version.value, version.frame), node.region, node, node.names[:1])
            version = replace(version, value=x.value(), region=node.region, clean=True)
        self.versions[node.value()] = [replace(version, native=True)]
        assert version.frame is not None
        self.others[node.value(1)], self.frames[node.value(1)] = version.frame, self.cuts[node.path]

    def undoes(self, node: Node) -> bool:
        """Whether a merge puts back a map that was cut here and kept its size."""
        if node.op.name != "merge":
            return False
        x, *frame = (v for v in self.old.operands(node) if v is not None)
        return home(x.type) is not None and x.type.size == x.type.frames[-1].inner and frame[0] in self.frames

    def undo(self, node: Node) -> None:
        x, frame = (v for v in self.old.operands(node) if v is not None)
        held = self.native(x).value
        self.versions[node.value()] = [
            Version(held, self.frames[frame], self.others[frame], self.old.node(x.node).region, native=True)
        ]

    def move(self, node: Node) -> bool:
        """Computes an op in the frame that its maps are in, if any; tells whether it did."""
        maps = _maps(self.old, node)
        if node.path in self.hoisted:
            cut: Cut | None = self.cuts[self.hoisted[node.path].path]
        else:
            cut = self.common(maps, node)
        if cut is RASTER:
            return False
        op = op_of(node)
        if isinstance(op, DropPath):
            op = op.replace(whole=True)
        held = {v: self.version(v, cut, node) for v in maps}
        operands: list[Value | None] = [
            held[v].value if v is not None and v in held else self.other(v) for v in self.old.operands(node)
        ]
        first = held[maps[0]]
        if isinstance(op, DropPath):
            operands.append(first.frame)
        try:
            outputs = op.infer(*(None if v is None else v.type for v in operands))
        except ShapeError:
            return False
        new = replace(node, op=op, outputs=outputs)
        self.placing.append(new, operands)
        for was, now in zip(node.values, new.values, strict=True):
            self.versions[was] = [Version(now, cut, first.frame, node.region, native=True)]
        return True

    def common(self, maps: Sequence[Value], node: Node) -> Cut | None:
        """The order in which the fewest of an op's maps have to be moved; that of its last one, of equals."""
        known = [{id(v.cut): v.cut for v in reversed(self.versions[m]) if self.usable(v, node)} for m in maps]
        own = {id(cut): cut for cut in (self.native(m).cut for m in reversed(maps))}
        choices = own | {key: cut for each in reversed(known) for key, cut in each.items()}
        return choices[min(choices, key=lambda choice: sum(choice not in each for each in known))]

    def stay(self, node: Node) -> None:
        """An op that runs in the order in which the spec has it."""
        operands: list[Value | None] = []
        for value in self.old.operands(node):
            if value is not None and value in self.versions:
                known = self.native(value) if value.type.frames else self.version(value, RASTER, node)
                operands.append(known.value)
            else:
                operands.append(self.other(value))
        self.placing.append(node, operands)
        for value in node.values:
            if value.type.kind == "map" and value.type.batched:
                self.versions[value] = [Version(value, RASTER, None, node.region, native=True)]
            else:
                self.others[value] = value

    def other(self, value: Value | None) -> Value | None:
        return None if value is None else self.others[value]

    # -- versions -------------------------------------------------------------------------------------

    def usable(self, version: Version, node: Node) -> bool:
        return version.native or version.region in self.chains[node.region]

    def version(self, value: Value, cut: Cut | None, node: Node) -> Version:
        """The map as `node` reads it: in raster order or in a frame."""
        iteration, held = self.entered(value, cut, node), self.held(value, cut, node)
        if held is not None and (iteration is None or iteration in self.chains[held.region]):
            return held
        if cut is RASTER:
            found = self.merged(value, node)
        elif iteration is not None:
            found = self.enter(value, cut, node, iteration)
        else:
            found = self.moved(value, cut, node, self.place(value, node))
        self.versions[value].append(found)
        return found

    def native(self, value: Value) -> Version:
        """The map as it was computed."""
        return next(v for v in self.versions[value] if v.native)

    def held(self, value: Value, cut: Cut | None, node: Node) -> Version | None:
        """The latest version in an order that a node may read."""
        known = reversed(self.versions[value])
        return next((v for v in known if v.cut is cut and self.usable(v, node)), None)

    def entered(self, value: Value, cut: Cut | None, node: Node) -> int | None:
        """The iteration whose first op the move of its input is to be, so that all iterations are alike."""
        if cut is RASTER or not (_cuts(node) or node.path in self.hoisted):
            return None
        loops = [r for r in self.chains[self.place(value, node)] if self.old.regions[r].index is not None]
        if not loops or loops[-1] in self.chains[self.old.node(value.node).region]:
            return None
        loop = self.loop(self.old.regions[loops[-1]])
        return loops[-1] if loop not in self.bound and len(self.entries.get(loop, ())) > 1 else None

    def enter(self, value: Value, cut: Cut, node: Node, iteration: int) -> Version:
        """The move at the start of an iteration, from the windows of the one before; the first is cut before it."""
        source, loop = self.source(value, cut, node), self.old.regions[iteration]
        if source.cut is RASTER:
            if loop.index:  # not all iterations hand on windows
                self.whole.add(self.loop(loop))
            outer = self.first(value, iteration)
            parent = self.old.regions[outer].parent
            assert parent is not None
            source = self.moved(value, cut, node, parent, before=outer)
            self.versions[value].append(source)
        same = source.cut is cut
        op = Regroup.into(cut, self.period(loop, cut) if same else None)
        place = self.place(value, node)
        x = self.put(op, (source.value, source.frame), place, node, self.name(value))
        return Version(x.value(), cut, x.value(1), place, native=False, clean=source.clean or not same)

    def first(self, value: Value, iteration: int) -> int:
        """The outermost iteration that a value enters as a loop's first, of loops that hand on windows."""
        made = self.chains[self.old.node(value.node).region]
        for region in reversed(self.chains[iteration]):
            at = self.old.regions[region]
            if at.index is not None:
                if at.index or region in made or self.loop(at) in self.bound:
                    break
                iteration = region
        return iteration

    def period(self, region: Region, cut: Cut) -> Pair | None:
        """The shift that a later iteration undoes in the place of the first one, which finds its own windows."""
        others = [c.shift for c in self.entries[self.loop(region)].values() if isinstance(c, Windows) and c is not cut]
        return pair(others[0]) if len(others) == 1 and others[0] is not None else None

    def source(self, value: Value, cut: Cut | None, node: Node) -> Version:
        """What to make a version of: one in the same order, else the one that was computed."""
        return self.held(value, cut, node) or self.native(value)

    def moved(self, value: Value, cut: Cut, node: Node, region: int, before: int | None = None) -> Version:
        """A map in a frame, cut or moved from another one at the start of what contains `node` in the region."""
        source = self.source(value, cut, node)
        op: Op = cut if source.cut is RASTER else Regroup.into(cut)
        x = self.put(op, (source.value, source.frame)[: len(op.ports)], region, node, self.name(value), before)
        return Version(x.value(), cut, x.value(1), region, native=False, clean=True)

    def merged(self, value: Value, node: Node) -> Version:
        """A map in raster order, merged where it was computed: at the end of the largest part without the reader."""
        source = self.source(value, RASTER, node)
        made, reads = self.chains[source.region], self.chains[node.region]
        depth = next(
            (i for i, (a, b) in enumerate(zip(made, reads, strict=False)) if a != b), min(len(made), len(reads))
        )
        if depth == len(made):
            x = self.put(Merge(), (source.value, source.frame), made[-1], node, self.name(value))
            return Version(x.value(), RASTER, None, made[-1], native=True)
        region = self.old.regions[made[depth]]
        if region.index is None:
            return self.end(value, source, made[depth])
        following = self.old.regions[reads[depth]] if depth < len(reads) else None
        if following is not None and following.index is not None and self.loop(following) == self.loop(region):
            self.whole.add(self.loop(region))
        x = self.put(Merge(), (source.value, source.frame), made[depth - 1], node, self.name(value))
        return Version(x.value(), RASTER, None, made[depth - 1], native=True)

    def end(self, value: Value, source: Version, region: int) -> Version:
        """A map in raster order, merged at the end of a region that is over."""
        region = self.body(region)
        x = self.put(Merge(), (source.value, source.frame), region, None, self.name(value))
        return Version(x.value(), RASTER, None, region, native=True)

    def body(self, region: int) -> int:
        """The call that is all there is in a region, if one is: that of a block's definition."""
        below = self.parts[region]
        only = next(iter(below)) if len(below) == 1 else region
        return region if only == region or self.old.regions[only].segment else self.body(only)

    def leave(self, region: int) -> None:
        """At the end of an iteration whose loop hands on raster maps: puts back what is read outside."""
        if self.old.regions[region].index is None or self.loop(self.old.regions[region]) not in self.bound:
            return
        for value in self.handed.get(region, ()):
            known = self.versions[value]
            found = next((v for v in known if v.cut is RASTER), None)
            known[:] = [replace(found or self.end(value, self.native(value), region), native=True)]

    def place(self, value: Value, node: Node) -> int:
        """The region where the map is moved: the innermost that all who read it there share with `node`."""
        chain = self.chains[node.region]
        loops = [r for r in chain if self.old.regions[r].index is not None]
        within = loops[-1] if loops else 0
        depth = len(chain)
        for reader in self.readers.get(value, ()):
            other = self.chains[reader.region]
            if within in other:
                depth = min(depth, _shared(chain, other))
        made = self.chains[self.old.node(value.node).region]
        return chain[max(depth, _shared(chain, made)) - 1]

    def name(self, value: Value) -> tuple[str, ...]:
        node = self.old.node(value.node)
        return (node.names[value.index],) if node.names else ()

    # -- writing --------------------------------------------------------------------------------------

    def put(
        self,
        op: Operation,
        operands: Sequence[Value | None],
        region: int,
        reader: Node | None,
        names: tuple[str, ...] = (),
        before: int | None = None,
    ) -> Node:
        """A new op in a region: ahead of `before`, or of what the reader is in there; without a reader behind all."""
        op = cast(Op, op).resolve(*(None if v is None else v.type for v in operands))
        outputs = op.infer(*(None if v is None else v.type for v in operands))
        module = self.old.regions[region].module
        path = stem = f"{module}.{op.name}" if module else op.name
        n = 2
        while path in self.taken:
            path, n = f"{stem}#{n}", n + 1
        self.taken.add(path)
        span = reader.span if reader is not None else self.old.regions[region].span
        node = Node(
            path, op, outputs, region, span, names=(*names, *[""] * (len(outputs) - len(names))) if any(names) else ()
        )
        if reader is None:
            self.placing.behind(region, node, operands)
            return node
        chain = self.chains[reader.region]
        inner = before if before is not None or chain[-1] == region else chain[chain.index(region) + 1]
        if inner is None:
            self.placing.append(node, operands)
        else:
            self.placing.ahead(inner, node, operands)
        return node

    def graph(self) -> Graph:
        old = self.old
        new = Graph(old.name, old.mode, old.source, guards=old.guards, statics=old.statics)
        read: list[set[Value]] = [set() for _ in old.regions]
        for node, operands in self.needed():
            new.net.add_node(node.path, node=node)
            for slot, value in enumerate(operands):
                if value is not None:
                    new.net.add_edge(value.node, node.path, key=slot, index=value.index)
            for region in self.chains[node.region]:
                read[region] |= {v for v in operands if v is not None}
        new.params, new.inputs = old.params, list(old.inputs)
        new.outputs = tuple(self.result(v) for v in old.outputs)
        stages = {r.module: r.id for r in reversed(old.regions)}
        new.features = [replace(f, value=self.given(f.value, stages[f.stage])) for f in old.features]
        new.regions = [
            replace(
                r,
                ports=tuple((name, self.seen(v, read[r.id])) for name, v in r.ports),
                results=tuple(self.given(v, r.id) for v in r.results),
            )
            for r in old.regions
        ]
        return new

    def needed(self) -> list[Item]:
        """The ops of the new graph, without moves that nothing reads."""
        items = list(self.placing)
        read = {v.node for _, operands in items for v in operands if v is not None}
        read |= {v.value.node for value in self.kept for v in self.versions.get(value, ())}
        return [(n, operands) for n, operands in items if n.path in read or n.op.name not in MOVES]

    def result(self, value: Value) -> Value:
        """What stands for a value of the old graph at the end: in raster order, if it is there."""
        if value not in self.versions:
            return self.others[value]
        raster = (v for v in self.versions[value] if v.cut is RASTER and v.native)
        return next(raster, self.native(value)).value

    def given(self, value: Value, region: int) -> Value:
        """A region's result as the region gives it: in raster order, or in windows."""
        known = self.versions.get(value, ())
        made = [v.value for v in known if v.native and region in self.chains[v.region]]
        return next((v for v in made if not v.type.frames), made[0]) if made else self.result(value)

    def seen(self, value: Value, read: set[Value]) -> Value:
        """What stands for a region's operand: the version that is read there."""
        known = (v.value for v in self.versions.get(value, ()))
        return next((v for v in known if v in read), None) or self.result(value)


def _maps(graph: Graph, node: Node) -> list[Value]:
    return list(
        dict.fromkeys(v for v in graph.operands(node) if v is not None and v.type.kind == "map" and v.type.batched)
    )


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _cuts(node: Node) -> bool:
    """Whether an op cuts one map, in raster order, into windows or grids without a halo."""
    if node.op.name not in ("windows", "grids") or len(node.outputs) != 2:
        return False
    frames = node.outputs[0].frames
    return len(frames) == 1 and not frames[0].halo and home(node.outputs[0]) is not None


def _tiles(cut: Node) -> bool:
    """Whether a cut never pads, whatever the size of the map."""
    return isinstance(cut.op, Grids) or (isinstance(cut.op, Windows) and cut.op.pad == "none")


def _launches(graph: Graph) -> int:
    """Kernels that move positions and compute nothing."""
    moves = (n for n in graph.nodes() if n.op.name in MOVES)
    return sum(op_of(n).launches(graph.operand_types(n), n.outputs) for n in moves)
