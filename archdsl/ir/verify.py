"""Turns a Graph into a list of broken invariants: what every pass may rely on and has to keep."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, cast

from archdsl.ir import sizes
from archdsl.ir.graph import Graph, Node, Operation, Static, Value
from archdsl.ir.sizes import Size
from archdsl.ir.types import TensorType


class Declared(Operation, Protocol):
    """What the verifier needs to know of an op beyond what the graph does (archdsl.ops.base.Op has it)."""

    ports: ClassVar[tuple[str, ...]]

    def resolve(self, *types: TensorType | None) -> Operation:
        """The op with everything that was left to be inferred filled in."""

    def wants_frame(self, *types: TensorType | None) -> bool:
        """Whether these operands need the port "frame?"."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant, and the call path of the node that breaks it ("" where no node is to blame)."""

    number: int
    node: str
    message: str

    def __str__(self) -> str:
        at = f" at %{self.node}" if self.node else ""
        return f"V{self.number}{at}: {self.message}"


class BrokenInvariant(Exception):
    """Our mistake, never the user's: a graph that no pass may produce. `after` names the pass before."""

    def __init__(self, violations: tuple[Violation, ...], after: str = "") -> None:
        self.violations, self.after = violations, after
        made = f"after `{after}`" if after else "as it came"
        super().__init__(f"the graph {made} is broken\n" + "\n".join(f"  {v}" for v in violations))


Finding: TypeAlias = tuple[str, str]
"""(call path or "", message)."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """A numbered statement and the search for what breaks it.

    Invariants are asked level by level: where one of level 0 is broken the net cannot be walked, where one of
    level 1 is, operands and their types mean nothing.
    """

    number: int
    statement: str
    broken: Callable[[Graph], Iterator[Finding]]
    level: int = 2


def verify(graph: Graph) -> list[Violation]:
    """Everything that breaks an invariant, by invariant and then in graph order."""
    for level in range(3):
        found = [
            Violation(invariant.number, node, message)
            for invariant in INVARIANTS
            if invariant.level == level
            for node, message in invariant.broken(graph)
        ]
        if found:
            return found
    return []


def check(graph: Graph, after: str = "") -> None:
    """Raises BrokenInvariant where `verify` finds anything; `after` names the pass that has just run."""
    violations = verify(graph)
    if violations:
        raise BrokenInvariant(tuple(violations), after)


# -- edges -----------------------------------------------------------------------------------


def _order(graph: Graph) -> Iterator[Finding]:
    seen: set[str] = set()
    for node in graph.nodes():
        for source in graph.net.predecessors(node.path):
            if source not in seen:
                yield node.path, f"reads %{source}, which stands below it"
        seen.add(node.path)


def _edges(graph: Graph) -> Iterator[Finding]:
    for path, data in graph.net.nodes(data=True):
        if "node" not in data or data["node"].path != path:
            yield path, "is in the net without its node"
            return
    for source, path, slot, index in graph.net.edges(keys=True, data="index"):
        results = len(graph.node(source).outputs)
        if not isinstance(slot, int) or not isinstance(index, int) or not 0 <= index < results:
            yield path, f"reads result {index} of %{source} in slot {slot}, which has {results} results"
    for node in graph.nodes():
        slots = [slot for *_, slot in graph.net.in_edges(node.path, keys=True)]
        for slot in sorted({s for s in slots if slots.count(s) > 1}):
            yield node.path, f"reads two values in slot {slot}"


def _slots(graph: Graph) -> Iterator[Finding]:
    for node in graph.nodes():
        ports, operands = _op(node).ports, graph.operands(node)
        variadic = bool(ports) and ports[-1].startswith("*")
        if len(operands) > len(ports) and not variadic:
            yield node.path, f"has {len(operands)} operands, `{node.op.name}` takes {len(ports)}"
        for slot in range(max(len(ports), len(operands))):
            port = ports[min(slot, len(ports) - 1)] if ports else ""
            absent = slot >= len(operands) or operands[slot] is None
            if absent and port and not port.endswith("?"):
                yield node.path, f"has no operand for `{port}`"


# -- types -----------------------------------------------------------------------------------


def _types(graph: Graph) -> Iterator[Finding]:
    inputs = {value.node for value in graph.inputs}
    for node in graph.nodes():
        if node.path in inputs:
            continue
        try:
            inferred = node.op.infer(*_operand_types(graph, node))
        except Exception as e:  # a refusal and a crash of the op break the same promise
            yield node.path, f"`{node.op.name}` refuses its operands: {str(e) or type(e).__name__}"
            continue
        if _sized(inferred) != _sized(node.outputs):
            yield node.path, f"is {_listing(node.outputs)}, `{node.op.name}` gives {_listing(inferred)}"


def _resolved(graph: Graph) -> Iterator[Finding]:
    for node in graph.nodes():
        try:
            resolved = _op(node).resolve(*_operand_types(graph, node))
        except Exception as e:
            yield node.path, f"`{node.op.name}` does not resolve: {str(e) or type(e).__name__}"
            continue
        if resolved != node.op:
            yield node.path, f"`{node.op.name}` still resolves to {resolved}"


def _frames(graph: Graph) -> Iterator[Finding]:
    for node in graph.nodes():
        ports, values = _op(node).ports, graph.operands(node)
        if "frame?" not in ports:
            continue
        slot = ports.index("frame?")
        frame = values[slot] if slot < len(values) else None
        others = [v.type for i, v in enumerate(values) if v is not None and i != slot]
        wanted = _op(node).wants_frame(*(None if v is None else v.type for v in values))
        framed = [t for t in others if t.frames]
        if frame is None:
            if wanted and framed:
                yield node.path, f"`{node.op.name}` is without the frame of {framed[0].short()}"
        elif frame.type.kind != "frame":
            yield node.path, f"takes {frame.type} for a frame"
        elif all(frame.type.frames != t.frames for t in framed):
            yield node.path, f"takes {frame.type}, in which none of its operands is"


def _sizes(graph: Graph) -> Iterator[Finding]:
    axes = _axes(graph)
    for node in graph.nodes():
        kept: list[tuple[str, int]] = [("a result", d) for t in node.outputs for d in _numbers(t)]
        kept += [(f"attribute {k}", d) for k, v in node.op.attributes().items() for d in _integers(v)]
        for where, size in kept:
            try:
                now = sizes.evaluate(sizes.expr_of(size), axes)
            except (KeyError, ZeroDivisionError):
                yield node.path, f"{where} has size {sizes.text(size)}, which has no value at this input"
                continue
            if now != size:
                yield node.path, f"{where} has size {int(size)}, but {sizes.text(size)} is {now}"


# -- weights ---------------------------------------------------------------------------------


def _weights(graph: Graph) -> Iterator[Finding]:
    for node in graph.nodes():
        try:
            owned = node.op.weights(*_operand_types(graph, node))
        except Exception as e:
            yield node.path, f"`{node.op.name}` does not name its weights: {str(e) or type(e).__name__}"
            continue
        roles, given = [w.role for w in owned], [role for role, _ in node.params]
        if roles != given:
            yield node.path, f"has weights {given}, `{node.op.name}` owns {roles}"
            continue
        for weight, (role, path) in zip(owned, node.params, strict=True):
            param = graph.params.get(path)
            if param is None:
                yield node.path, f"its {role or 'weight'} @{path} does not exist"
                continue
            asked = (tuple(map(int, weight.shape)), weight.kind, weight.dtype)
            found = (tuple(map(int, param.shape)), param.kind, param.dtype)
            if asked != found:
                yield node.path, f"its {role or 'weight'} @{path} is {found}, `{node.op.name}` owns {asked}"


def _used(graph: Graph) -> Iterator[Finding]:
    used = {path for node in graph.nodes() for _, path in node.params}
    for path in graph.params:
        if path not in used:
            yield "", f"no node uses @{path}"


def _parameters(graph: Graph) -> Iterator[Finding]:
    for path, param in graph.params.items():
        if param.path != path:
            yield "", f"@{path} is filed as @{param.path}"
        if param.kind not in ("param", "buffer"):
            yield "", f"@{path} is a `{param.kind}`"
        if any(d < 1 for d in param.shape):
            yield "", f"@{path} has shape {tuple(map(int, param.shape))}"


# -- regions, names, results -----------------------------------------------------------------


def _regions(graph: Graph) -> Iterator[Finding]:
    for i, region in enumerate(graph.regions):
        if region.id != i:
            yield "", f"region {region.id} is filed as {i}"
        if (region.parent is None) != (i == 0) or (region.parent is not None and not 0 <= region.parent < i):
            yield "", f"region {i} is in {region.parent}"
        for name, value in (*region.ports, *(("its result", r) for r in region.results)):
            yield from (("", f"region {i}: {name} {why}") for why in _lost(graph, value))
    for node in graph.nodes():
        if not 0 <= node.region < len(graph.regions):
            yield node.path, f"is in region {node.region} of {len(graph.regions)}"


def _results(graph: Graph) -> Iterator[Finding]:
    if not graph.outputs:
        yield "", "the graph has no output"
    for value in graph.outputs:
        yield from (("", f"output {why}") for why in _lost(graph, value))
    for feature in graph.features:
        yield from (("", f"feature {feature.stage} {feature.name} {why}") for why in _lost(graph, feature.value))


_CALL_PATH = re.compile(r"\w+(\.\w+)*(#\d+)?", re.ASCII)


def _paths(graph: Graph) -> Iterator[Finding]:
    for node in graph.nodes():
        if not _CALL_PATH.fullmatch(node.path):
            yield node.path, f"the call path {node.path!r} is not words joined by dots"
        if node.names and len(node.names) != len(node.outputs):
            yield node.path, f"names {len(node.names)} of {len(node.outputs)} results"


def _guards(graph: Graph) -> Iterator[Finding]:
    axes = _axes(graph)
    for guard in graph.guards:
        try:
            holds = guard.condition.holds(axes)
        except (KeyError, ZeroDivisionError):
            holds = False
        if not holds:
            yield "", f"the guard {guard.condition} does not hold at {axes}"


def _inputs(graph: Graph) -> Iterator[Finding]:
    if not graph.inputs:
        yield "", "the graph has no input"
    for value in graph.inputs:
        if value.node not in graph:
            yield "", f"input {value} does not exist"
            continue
        node = graph.node(value.node)
        if graph.net.in_degree(node.path) or node.outputs != (value.type,):
            yield node.path, "an input reads nothing and has the one result that the graph lists"
        elif value.type.frames or not value.type.batched or value.type.kind != "map":
            yield node.path, f"an input is a map per sample, not {value.type}"


def _mode(graph: Graph) -> Iterator[Finding]:
    if graph.mode not in ("train", "eval", "tune", "deploy"):
        yield "", f"the mode is {graph.mode!r}"


INVARIANTS: tuple[Invariant, ...] = (
    Invariant(1, "A node stands below everything that it reads.", _order, level=1),
    Invariant(2, "A node has an operand for every port that needs one, and none that has no port.", _slots, level=1),
    Invariant(3, "Result types are what the op infers from its operands, expressions of sizes included.", _types),
    Invariant(4, "Ops are resolved: nothing is left to be inferred.", _resolved),
    Invariant(5, "A node has the weights its op owns, and their shape, kind and dtype.", _weights),
    Invariant(6, "Every parameter is used.", _used),
    Invariant(7, "A frame operand is the frame that another operand of the node is in.", _frames),
    Invariant(8, "Regions form a tree, parents first, over existing nodes and values.", _regions, level=1),
    Invariant(9, "Outputs and features are values of the graph, and there is an output.", _results, level=1),
    Invariant(10, "Call paths are words joined by dots; names are given to all results or none.", _paths),
    Invariant(11, "Guards hold at the declared input.", _guards),
    Invariant(12, "Inputs are maps without frames, made by nodes that read nothing.", _inputs, level=1),
    Invariant(13, "An edge joins an existing result to a slot of its own.", _edges, level=0),
    Invariant(14, "A parameter is filed under its path, is a param or a buffer, and is not empty.", _parameters),
    Invariant(15, "A size is what its expression gives at the declared input.", _sizes),
    Invariant(16, "The mode is train, eval, tune or deploy.", _mode),
)


# -- shared ----------------------------------------------------------------------------------


def _op(node: Node) -> Declared:
    return cast(Declared, node.op)


def _operand_types(graph: Graph, node: Node) -> tuple[TensorType | None, ...]:
    return tuple(None if v is None else v.type for v in graph.operands(node))


def _lost(graph: Graph, value: Value) -> Iterator[str]:
    if value.node not in graph or not 0 <= value.index < len(graph.node(value.node).outputs):
        yield f"{value} does not exist"
    elif graph.node(value.node).outputs[value.index] != value.type:
        yield f"{value} is kept as {value.type}, the node gives {graph.node(value.node).outputs[value.index]}"


def _axes(graph: Graph) -> dict[str, int]:
    return {
        d.expr: int(d) for v in graph.inputs for d in v.type.dims if isinstance(d, Size) and isinstance(d.expr, str)
    }


def _sized(types: tuple[TensorType, ...]) -> list[object]:
    """The types and the expressions of their sizes, which comparing ints does not see."""
    return [types, *([sizes.expr_of(d) for d in _numbers(t)] for t in types)]


def _numbers(t: TensorType) -> Iterator[int]:
    yield from t.dims
    yield from t.grid or ()
    for f in t.frames:
        yield from (*f.grid, *f.inner, *f.extent, *f.shift, f.halo)


def _integers(value: Static) -> Iterator[int]:
    if isinstance(value, tuple):
        for item in value:
            yield from _integers(item)
    elif isinstance(value, Size):
        yield value


def _listing(types: tuple[TensorType, ...]) -> str:
    shown = ", ".join(map(str, types))
    expressions = ", ".join(sizes.text(d) for t in types for d in _numbers(t) if isinstance(d, Size))
    return f"{shown} ({expressions})" if expressions else shown
