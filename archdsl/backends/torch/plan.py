"""Turns a graph's regions into instances of modules: ordered steps with local operands, loops recognised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from archdsl.diagnostics import Span
from archdsl.ir.graph import Graph, Node, Region, Value
from archdsl.ops._held import Held
from archdsl.ops.base import Torch


class Unsupported(Exception):
    """The graph has something the PyTorch backend cannot write yet; the message is a sentence saying what.

    `span` is where the spec asks for it, where one place does.
    """

    def __init__(self, message: str, span: Span | None = None, help: str = "") -> None:
        super().__init__(message)
        self.span, self.help = span, help


@dataclass(eq=False)
class Instance:
    """One module to be: the steps of its forward in order, what comes in and what goes out."""

    region: Region
    name: str
    """Name of the def, or the kind of region."""
    path: str
    """Weight path, "" for the whole model."""
    steps: list[Step] = field(default_factory=list)
    inputs: list[tuple[str, Value]] = field(default_factory=list)
    """(port name, value)."""
    outputs: list[Value] = field(default_factory=list)
    nodes: frozenset[str] = frozenset()
    """Call paths of every node inside."""
    returned: list[Value] = field(default_factory=list)
    """What its def returns, whether or not something reads it."""

    def walk(self) -> Iterator[Instance]:
        """This instance and all below it, children first."""
        for step in self.steps:
            for child in step.children:
                yield from child.walk()
        yield self


@dataclass(eq=False)
class Step:
    """One statement of a forward: an op (`node`), a call of one child, or a loop over several."""

    results: list[Value]
    operands: list[Value | None]
    node: Node | None = None
    children: list[Instance] = field(default_factory=list)
    loop: bool = False
    carried: int = 0
    """In a loop, how many leading operands are the previous iteration's results."""
    attr: str = ""
    """Name under which the module, parameter or list of modules is kept on self."""
    lowered: dict[str, Torch] = field(default_factory=dict)
    """The op's PyTorch by axis order, filled as it is asked for."""

    @property
    def span(self) -> Span | None:
        """Where in the spec it was written."""
        return self.node.span if self.node is not None else self.children[0].region.span


class Planner:
    """Builds the instance tree of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers: dict[Value, list[str]] = {}
        for node in graph.nodes():
            for value in graph.operands(node):
                if value is not None:
                    self.readers.setdefault(value, []).append(node.path)
        self.kept = {*graph.outputs, *(f.value for f in graph.features)}
        self.inlined = _inlined(graph)
        self.chains = [self.homes(r) for r in range(len(graph.regions))]

    def plan(self) -> Instance:
        """The instance of the whole model."""
        root = self.graph.regions[0]
        nodes = [n for n in self.graph.nodes() if n.op.name != "input"]
        out = self.instance(root.id, nodes)
        out.outputs = list(self.graph.outputs)
        return out

    def homes(self, region: int) -> list[int]:
        """The regions from the root to `region` that are instances; others belong to the region they stand in."""
        chain = self.graph.region_chain(region)
        return [r.id for r in chain if r.id == 0 or (r.segment and r.id not in self.inlined)]

    def instance(self, home: int, nodes: Sequence[Node]) -> Instance:
        region = self.graph.regions[home]
        inner = _only_call(self.graph, region, nodes)
        named = inner if inner is not None else region
        name = named.name if named.kind == "call" else named.kind
        inside = frozenset(n.path for n in nodes)
        out = Instance(region, name, region.module, nodes=inside)
        groups: list[tuple[int, list[Node]]] = []
        for node in nodes:
            chain = self.chains[node.region]
            below = chain[chain.index(home) + 1 :]
            target = below[0] if below else -1
            if target >= 0 and groups and groups[-1][0] == target:
                groups[-1][1].append(node)
            else:
                groups.append((target, [node]))
        self.fill(out, groups)
        self.boundary(out, named, nodes, inside)
        _name_attributes(out)
        return out

    def fill(self, out: Instance, groups: list[tuple[int, list[Node]]]) -> None:
        calls: dict[int, int] = {}
        for target, _ in groups:
            calls[target] = calls.get(target, 0) + 1
        pending: list[Instance] = []
        for target, nodes in groups:
            child = None
            if target >= 0:
                if calls[target] > 1:
                    raise Unsupported(
                        f"the parts of {self.graph.regions[target].module} do not stand together",
                        self.graph.regions[target].span,
                    )
                child = self.instance(target, nodes)
            if pending and (child is None or not _continues(pending[-1], child)):
                out.steps += self.loop(pending)
                pending = []
            if child is not None and child.region.index is not None:
                pending.append(child)
            elif child is not None:
                out.steps.append(_call(child))
            else:
                node = nodes[0]
                out.steps.append(Step(list(node.values), list(self.graph.operands(node)), node))
        if pending:
            out.steps += self.loop(pending)

    def loop(self, children: list[Instance]) -> list[Step]:
        """One loop step for consecutive iterations, or a call for each where the data flow is not a loop's."""
        first, last = children[0], children[-1]
        if len(last.outputs) < len(last.returned) and first.outputs == first.returned:
            last.outputs = last.returned  # one class for all, though nothing reads some of the last one's results
        order = self.wiring(children)
        if order is None:
            return [_call(c) for c in children]
        for child in children:
            child.inputs = [child.inputs[i] for i in order]
        return [
            Step(list(children[-1].outputs), [v for _, v in first.inputs], None, children, True, len(first.outputs))
        ]

    def wiring(self, children: list[Instance]) -> list[int] | None:
        """The order of inputs (carried ones first, in the order of results) under which iterations form a loop.

        Every iteration's k-th input must be the previous one's k-th result, or a value all iterations share, and
        no result but the last iteration's may be used elsewhere (features of stages excepted). None where not.
        """
        first, following = children[0], children[1:]
        n, m = len(first.inputs), len(first.outputs)
        if any(len(c.inputs) != n or len(c.outputs) != m for c in children):
            return None
        if not following:
            return list(range(n)) if n == m else None
        carried = [[i for i, (_, v) in enumerate(children[1].inputs) if v == r] for r in first.outputs]
        if any(len(hits) != 1 for hits in carried):
            return None
        order = [hits[0] for hits in carried]
        order += [i for i in range(n) if i not in order]
        for before, after in zip(children, following, strict=False):
            if any(after.inputs[i][1].type.kind != v.type.kind for i, v in zip(order, after.outputs, strict=False)):
                return None  # a map has another order of axes than tokens
            for k, i in enumerate(order):
                if after.inputs[i][1] != (before.outputs[k] if k < m else before.inputs[i][1]):
                    return None
            for value in before.outputs:
                if value in self.kept and first.region.kind != "stage":
                    return None
                if not before.nodes | after.nodes >= {*self.readers.get(value, ())}:
                    return None
        return order

    def boundary(self, out: Instance, named: Region, nodes: Sequence[Node], inside: frozenset[str]) -> None:
        """Values that cross the instance's border: ports and declared results first, frames last."""
        used: dict[Value, None] = {}
        made: dict[Value, None] = {}
        for node in nodes:
            for value in self.graph.operands(node):
                if value is not None and value.node not in inside:
                    used.setdefault(value)
            for value in node.values:
                if value in self.kept or any(r not in inside for r in self.readers.get(value, ())):
                    made.setdefault(value)
        names = {v: n for n, v in reversed(named.ports)}
        ports = [(n, v) for n, v in named.ports if v in used and names[v] == n]
        ported = {v for _, v in ports}
        inputs = ports + [(self.name_of(v), v) for v in used if v not in ported]
        out.inputs = sorted(inputs, key=lambda port: port[1].type.kind == "frame")
        results = [v for v in dict.fromkeys(named.results) if v in made]
        out.outputs = sorted(results + [v for v in made if v not in set(results)], key=lambda v: v.type.kind == "frame")
        out.returned = [v for v in named.results if v.node in inside]

    def name_of(self, value: Value) -> str:
        node = self.graph.node(value.node)
        if node.names and node.names[value.index]:
            return node.names[value.index]
        if isinstance(node.op, Held):
            return layer_name(node)
        return "frame" if value.type.kind == "frame" else "x"


def layer_name(node: Node) -> str:
    """What a layer is called where it is handed on."""
    last = node.module.rpartition(".")[2]
    return last if last.isidentifier() else "layer"


def _inlined(graph: Graph) -> set[int]:
    """Calls that own no weights but use shared ones from outside: their steps belong to the block around them."""
    out: set[int] = set()
    for node in graph.nodes():
        if node.module:
            for region in graph.region_chain(node.region)[1:]:
                inside = node.module.startswith(f"{region.module}.")
                if region.module and not inside:  # a shared module's, or a collapsed def that *is* one op
                    out.add(region.id)
    return out


def _only_call(graph: Graph, region: Region, nodes: Sequence[Node]) -> Region | None:
    """The elided call that is all there is in a region, so that the region's class is the def's."""
    if region.kind == "call" or not nodes:
        return None
    found: set[int] = set()
    for node in nodes:
        chain = [r.id for r in graph.region_chain(node.region)]
        below = chain[chain.index(region.id) + 1 :]
        if not below or graph.regions[below[0]].segment:
            return None
        found.add(below[0])
    return graph.regions[found.pop()] if len(found) == 1 else None


def _call(child: Instance) -> Step:
    return Step(list(child.outputs), [v for _, v in child.inputs], None, [child])


def _continues(before: Instance, after: Instance) -> bool:
    a, b = before.region, after.region
    return (
        a.index is not None and b.index is not None and a.kind == b.kind and a.span == b.span and a.parent == b.parent
    )


def _own_name(path: str) -> str:
    """The last segment of a call path that is a name, and the numbers of the loops it was called in."""
    parts = path.replace("#", "_").split(".")
    first = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[first:])


def _name_attributes(out: Instance) -> None:
    """Names under which steps keep their modules on self: weight paths' segments, or the call path's own name.

    Raises Unsupported for a shared module that belongs to another instance than the one that calls it.
    """
    prefix = out.path + "." if out.path else ""
    for step in out.steps:
        if step.node is not None and not step.node.module:
            step.attr = _own_name(step.node.path)
            continue
        path = step.node.module if step.node is not None else step.children[0].path
        if not path.startswith(prefix):
            raise Unsupported(f"`{path}` is shared with `{out.path}`, which PyTorch code cannot say yet")
        path = path.removeprefix(prefix)
        step.attr = path.rsplit(".", 1)[0] if step.loop else path
        if any(not part.isdigit() for part in step.attr.split(".")[1:]):
            raise Unsupported(
                f"`{prefix}{path}` belongs to a block that is written out in `{out.path}`, so it has no place"
            )
