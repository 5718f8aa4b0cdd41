"""Turns a Graph into a hash of what it computes: one for graphs that differ only in names and origin."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from archdsl.ir.graph import Graph, Node, Static, Value
from archdsl.ir.sizes import text
from archdsl.ir.text import static_text
from archdsl.ir.types import TensorType


def canonical_hash(graph: Graph) -> str:
    """A SHA-256 in hexadecimal over the mode and the graph's structure.

    Graphs that differ in call paths, weight paths, regions, spans, variable names, statics, guards or the
    order of independent nodes hash alike. Graphs that differ in an op, an attribute, a type, an edge, an input,
    output or feature, or in which nodes share a parameter do not. Nodes and parameters are numbered as a walk
    from the inputs, the outputs and the features, through operands in order, first meets them.
    """
    numbers: dict[str, int] = {}
    weights: dict[str, int] = {}
    digest = hashlib.sha256(graph.mode.encode())

    def reference(value: Value | None) -> str:
        return "_" if value is None else f"{numbers[value.node]}:{value.index}"

    given = {node.path: graph.operands(node) for node in graph.nodes()}
    for node in _walk(graph, given):
        numbers[node.path] = len(numbers)
        operands = " ".join(map(reference, given[node.path]))
        line = [node.op.name, _attributes(node), operands, *map(_type, node.outputs)]
        for role, path in node.params:
            known = path in weights
            param = graph.params.get(path)
            line.append(f"{role} {weights.setdefault(path, len(weights))}")
            if not known and param is not None:
                line.append(static_text((param.shape, param.init, param.kind, param.dtype, param.resize)))
        digest.update(("\n" + "\t".join(line)).encode())
    ends = (graph.inputs, graph.outputs, [f.value for f in graph.features])
    digest.update(" | ".join(" ".join(map(reference, values)) for values in ends).encode())
    return digest.hexdigest()


def _walk(graph: Graph, operands: Mapping[str, Sequence[Value | None]]) -> Iterator[Node]:
    """Every node once, operands first: from inputs, outputs and features, then what those do not reach."""
    done: set[str] = set()
    starts = [v.node for v in (*graph.inputs, *graph.outputs, *(f.value for f in graph.features))]
    for start in (*starts, *(node.path for node in graph.nodes())):
        stack = [start]
        while stack:
            path = stack[-1]
            missing = [v.node for v in operands[path] if v is not None and v.node not in done]
            if path in done or not missing:
                stack.pop()
                if path not in done:
                    done.add(path)
                    yield graph.node(path)
            else:
                stack.append(missing[0])


def _attributes(node: Node) -> str:
    attributes: tuple[tuple[str, Static], ...] = tuple(node.op.attributes().items())
    return static_text(attributes)


def _type(t: TensorType) -> str:
    parts: list[str] = [t.kind, "batched" if t.batched else "const", _sizes(t.dims), _sizes(t.grid or ())]
    for f in t.frames:
        parts += [f.kind, *map(_sizes, (f.grid, f.inner, f.extent, f.shift)), text(f.halo), str(f.shifts)]
    return " ".join(parts)


def _sizes(values: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(text, values)) + "]"
