"""Prices a graph: parameters, multiply-accumulates, activations and bytes, by stage, block and op.

All numbers are per sample at the graph's input size. Imports nothing heavy, so that `import archdsl` stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from archdsl.ir.graph import Graph, Node, Region
    from archdsl.ir.types import TensorType
    from archdsl.ops.base import Op

CONVENTIONS: dict[str, str] = {
    "macs": "one multiply-add = 1 FLOP, as in the papers: conv, linear and matmul only",
    "timm": "timm's tables (fvcore's rule): one multiply-add = 1 FLOP, and 2 per element of bn, 5 of ln and gn",
}
"""What `--count` may say, and the sentence that every table carries."""

LEVELS = ("stage", "block", "op")

OUTSIDE = "(outside)"
"""The group of ops that belong to no stem, stage, blocks loop or head."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of one op or of a group of them. `timm` counts as timm's tables do; `bytes` is memory traffic."""

    params: int = 0
    macs: int = 0
    timm: int = 0
    activations: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.timm + other.timm,
            self.activations + other.activations,
            self.bytes + other.bytes,
        )

    def flops(self, count: str = "macs") -> int:
        """Multiply-accumulates by the convention `count`, a key of CONVENTIONS."""
        return self.timm if count == "timm" else self.macs

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("params", "macs", "timm", "activations", "bytes")}


@dataclass(frozen=True, slots=True)
class OpCost:
    """One op call: its call path, the op's name, its first result, where it stands, what it costs."""

    path: str
    op: str
    result: TensorType | None
    stage: str
    block: str
    blocks: int | None
    """The innermost blocks iteration it belongs to, by region id."""
    cost: Cost


@dataclass(frozen=True, slots=True)
class Row:
    """A group's costs. `resolution` and `width` are those of the last value it computes.

    `depth` is its number of block iterations. In the listing by block, a stage's row holds what the stage
    computes outside its blocks.
    """

    name: str
    cost: Cost
    resolution: str = ""
    width: int | None = None
    depth: int = 0
    op: str = ""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one sample costs a graph: totals, and rows by stage, block or op.

    A shared weight counts once, where it is first used; buffers are not parameters. `bytes` adds up what every
    op reads (operands, weights) and writes at `width` bytes an element, views being free: the traffic of an
    unfused eager run.
    """

    name: str
    mode: str
    input: tuple[int, ...]
    width: int
    ops: tuple[OpCost, ...]
    total: Cost

    @property
    def params(self) -> int:
        return self.total.params

    @property
    def macs(self) -> int:
        return self.total.macs

    @property
    def timm(self) -> int:
        return self.total.timm

    @property
    def activations(self) -> int:
        return self.total.activations

    @property
    def bytes(self) -> int:
        return self.total.bytes

    def flops(self, count: str = "macs") -> int:
        return self.total.flops(count)

    def per(self, level: str) -> tuple[Row, ...]:
        """Rows at `level` ("stage", "block" or "op"), in the order the network computes them."""
        if level == "op":
            return tuple(_row(o.path, [o]) for o in self.ops)
        name: Callable[[OpCost], str] = (lambda o: o.stage) if level == "stage" else (lambda o: o.block)
        groups: dict[str, list[OpCost]] = {}
        for o in self.ops:
            groups.setdefault(name(o), []).append(o)
        return tuple(_row(group, members) for group, members in groups.items())

    @property
    def stages(self) -> tuple[Row, ...]:
        """What has blocks, in the order it is computed."""
        return tuple(row for row in self.per("stage") if row.depth)

    @property
    def picture(self) -> str:
        """`56x56·96 ×2 → 28x28·192 ×2`: resolution, channels and number of blocks of each stage."""
        return " → ".join(f"{row.resolution}·{row.width} ×{row.depth}" for row in self.stages)

    def as_dict(self, level: str = "stage", count: str = "macs") -> dict[str, object]:
        """For JSON: totals, the convention in words, and the rows at `level`."""
        rows = []
        for row in self.per(level):
            entry: dict[str, object] = {"name": row.name}
            if row.op:
                entry["op"] = row.op
            entry |= {"resolution": row.resolution, "width": row.width, "depth": row.depth}
            rows.append(entry | row.cost.as_dict() | {"flops": row.cost.flops(count)})
        return {
            "name": self.name,
            "mode": self.mode,
            "input": list(self.input),
            "count": count,
            "convention": CONVENTIONS[count],
            "bytes_per_element": self.width,
            "total": self.total.as_dict() | {"flops": self.flops(count)},
            "per": level,
            "rows": rows,
        }

    def convention(self, count: str = "macs") -> str:
        """In words, what the numbers count; every table is printed with it."""
        return f"{CONVENTIONS[count]}; per sample; {self.width} bytes an element"

    def table(self, level: str = "stage", count: str = "macs") -> Table:
        """The rows at `level` and their total as a rich table."""
        from rich import box
        from rich.table import Table

        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"{self.name}, input {'x'.join(map(str, self.input))}, {self.mode}",
            title_justify="left",
            show_footer=True,
        )
        total = self.total
        table.add_column(level, "total", no_wrap=True)
        if level == "op":
            table.add_column("op", no_wrap=True)
        table.add_column("resolution", justify="right", no_wrap=True)
        table.add_column("width", justify="right")
        if level == "stage":
            table.add_column("depth", justify="right")
        table.add_column("params", human(total.params), justify="right")
        table.add_column("MACs" if count == "macs" else "FLOPs (timm)", human(total.flops(count)), justify="right")
        table.add_column("activations", human(total.activations), justify="right")
        table.add_column("bytes", human(total.bytes), justify="right")
        for row in self.per(level):
            cells = [row.name]
            if level == "op":
                cells.append(row.op)
            cells += [row.resolution, "" if row.width is None else str(row.width)]
            if level == "stage":
                cells.append(str(row.depth or ""))
            cost = row.cost
            numbers = (cost.params, cost.flops(count), cost.activations, cost.bytes)
            table.add_row(*cells, *(human(n) for n in numbers))
        return table

    def summary(self, count: str = "macs") -> str:
        """One line: `28.29M params, 4.49G MACs, 17.06M activations`."""
        unit = "MACs" if count == "macs" else "FLOPs (timm)"
        parts = f"{human(self.params)} params", f"{human(self.flops(count))} {unit}"
        return ", ".join((*parts, f"{human(self.activations)} activations"))


def price(graph: Graph, width: int = 4) -> Costs:
    """The costs of a graph whose elements are `width` bytes wide."""
    stages, blocks, innermost = _places(graph)
    counted: set[str] = set()
    plain: dict[str, tuple[TensorType, ...]] = {}
    """Result types by node, their sizes plain integers: formulas of sizes would slow every product down."""
    ops = []
    images = {value.node for value in graph.inputs}
    for node in graph.nodes():
        outputs = plain[node.path] = tuple(t.plain() for t in node.outputs)
        if node.path in images:
            continue
        inputs = tuple(None if v is None else plain[v.node][v.index] for v in graph.operands(node))
        cost = _price(graph, node, inputs, outputs, width, counted)
        result = node.outputs[0] if node.outputs else None
        at = node.region
        ops.append(OpCost(node.path, node.op.name, result, stages[at], blocks[at], innermost[at], cost))
    image = graph.inputs[0].type.dims if graph.inputs else ()
    total = sum((o.cost for o in ops), Cost())
    return Costs(graph.name, graph.mode, tuple(int(d) for d in image), width, tuple(ops), total)


def _price(
    graph: Graph,
    node: Node,
    inputs: tuple[TensorType | None, ...],
    outputs: tuple[TensorType, ...],
    width: int,
    counted: set[str],
) -> Cost:
    op: Op = node.op  # type: ignore[assignment]
    params = weights = 0
    for _, path in node.params:
        parameter = graph.params[path]
        elements = parameter.elements
        if not parameter.dtype:  # a counter kept in integers is neither learned nor read at inference
            weights += elements
        if parameter.kind == "param" and path not in counted:
            counted.add(path)
            params += elements
    moved = 0
    if not op.view:
        moved = weights + sum(t.elements for t in (*inputs, *outputs) if t is not None)
    return Cost(
        params,
        int(op.macs(inputs, outputs)),
        int(op.timm_flops(inputs, outputs)),
        int(op.activations(inputs, outputs)),
        moved * width,
    )


def _places(graph: Graph) -> tuple[list[str], list[str], list[int | None]]:
    """For each region: the stage and the block it belongs to by name, and its innermost blocks iteration."""
    stages: list[str] = []
    blocks: list[str] = []
    innermost: list[int | None] = []
    nesting: set[int | None] = set()  # iterations that contain others: depth counts the innermost
    for region in graph.regions:
        parent = region.parent
        stage = OUTSIDE if parent is None else stages[parent]
        block = OUTSIDE if parent is None else blocks[parent]
        inner = None if parent is None else innermost[parent]
        if region.kind in ("stem", "stage", "head") and inner is None:
            stage = block = _name(region)
        elif region.kind == "blocks":
            name = _name(region)
            stage = name.rpartition(".")[0] if stage == OUTSIDE and region.index is not None else stage
            block = name if inner is None else block
            nesting.add(inner)
            inner = region.id
        stages.append(stage)
        blocks.append(block)
        innermost.append(inner)
    return stages, blocks, [None if i in nesting else i for i in innermost]


def _name(region: Region) -> str:
    own = region.name or region.kind
    return region.module or (own if region.index is None else f"{own}.{region.index}")


def _row(name: str, members: Iterable[OpCost]) -> Row:
    cost, op, blocks = Cost(), "", set()
    last: TensorType | None = None
    members = list(members)
    for member in members:
        cost += member.cost
        op = member.op
        if member.blocks is not None:
            blocks.add(member.blocks)
        if member.result is not None and member.result.batched and member.result.kind in ("map", "tokens", "vec"):
            last = member.result
    if last is not None and len(members) > 1:
        last = _whole(last)
    resolution, width = ("", None) if last is None else (_resolution(last), last.channels)
    return Row(name, cost, resolution, width, len(blocks), op)


def _whole(t: TensorType) -> TensorType:
    """The map that is in windows or cells, where a part of the network hands it on so."""
    frame = t.frames[0] if len(t.frames) == 1 else None
    if t.kind != "map" or frame is None or frame.kind not in ("window", "grid") or frame.halo or t.size != frame.inner:
        return t
    return replace(t, dims=(t.channels, *frame.extent), frames=())


def _resolution(t: TensorType) -> str:
    if t.kind == "vec":
        return ""
    inner = "x".join(str(int(n)) for n in t.size) if t.kind == "map" else str(int(t.positions))
    return inner if t.cells == 1 else f"{t.cells} of {inner}"


def human(number: int) -> str:
    """Four significant digits with k, M, G or T: 28288354 -> 28.29M."""
    for unit, scale in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale:
            value = number / scale
            return f"{value:.{2 if value < 100 else 1}f}{unit}"
    return str(number)
