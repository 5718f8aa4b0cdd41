"""fold_affines: a norm or layer and the scaling of channels behind it become one, for deployment.

RIFormer (2304.05659) trains a branch `affine(x) - x` where PoolFormer pools. As a `rep def` it is a depthwise
convolution with kernels of 1, which the norm before it does with other weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Parameter
from archdsl.ir.verify import Finding
from archdsl.ops.base import op_of, pair
from archdsl.passes.base import Draft, Pass, Property

NORMS = ("bn", "gn", "ln", "rms")


def scalable(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """(op, scaling) pairs of a deploy graph where nothing else reads the op, and both own their weights alone."""
    if graph.mode != "deploy":
        return
    uses = Counter(path for node in graph.weight_nodes() for _, path in node.params)
    read = {*graph.outputs, *(f.value for f in graph.features)}
    for scaling in graph.weight_nodes():
        if not _scales(graph, scaling):
            continue
        (value,) = graph.operands(scaling)
        assert value is not None
        before = graph.node(value.node)
        alone = value not in read and len(graph.users(value)) == 1
        own = all(uses[path] == 1 for _, path in (*before.params, *scaling.params))
        if alone and own and _able(before, moves=len(scaling.params) == 2):
            yield before, scaling


def _scales(graph: Graph, node: Node) -> bool:
    """Whether an op maps each channel of a position by itself, to one channel."""
    a = node.op.attributes()
    if node.op.name != "conv" or (a["k"], a["s"], pair(a["p"] or 0), a["pad"]) != ((1, 1), (1, 1), (0, 0), "zeros"):  # type: ignore[arg-type]
        return False
    (value,) = graph.operands(node)
    assert value is not None
    return a["g"] == value.type.channels == node.value().type.channels


def _able(node: Node, moves: bool) -> bool:
    """Whether an op has a number for each channel to scale its result by, and, where it `moves`, one to add."""
    if node.op.name in NORMS:
        return not moves or node.op.name != "rms"
    return node.op.name == "conv" or (node.op.name == "linear" and node.op.attributes()["axis"] == "c")


def _apart(graph: Graph) -> Iterator[Finding]:
    for before, scaling in scalable(graph):
        yield scaling.path, f"could be part of %{before.path}"


JOINED = Property("joined", "No channels of a deploy graph are scaled by a convolution where an op could.", _apart)


@dataclass(frozen=True)
class FoldAffines(Pass):
    """In deploy mode a norm or layer scales and moves channels itself: RIFormer's affine branch goes into its norm."""

    name: ClassVar[str] = "fold_affines"
    gives: ClassVar[tuple[Property, ...]] = (JOINED,)

    def __call__(self, graph: Graph) -> Graph:
        return next((after for _, after in reversed(list(turns(graph)))), graph)


def turns(graph: Graph) -> Iterator[tuple[Graph, Graph]]:
    """Graphs before and after: an op takes in one scaling a turn. archdsl.weights.deploy makes the weights of each."""
    while True:
        draft, touched = Draft(graph), set[str]()
        for before, scaling in scalable(graph):
            if touched & {before.path, scaling.path}:
                continue
            touched |= {before.path, scaling.path}
            op = op_of(before)
            if len(scaling.params) == 2 and op.attributes().get("bias") is False:
                op = op.replace(bias=True)
            paths = dict(before.params)
            weights = [
                (w, paths.get(w.role, f"{before.module}.{w.role}")) for w in op.weights(*graph.operand_types(before))
            ]
            made = [Parameter(p, tuple(map(int, w.shape)), w.init, w.kind) for w, p in weights if p not in graph.params]
            params = tuple((w.role, p) for w, p in weights)
            draft.swap(replace(before, op=op, params=params, names=scaling.names or before.names), made)
            draft.use(before.value(), instead_of=scaling.value())
            draft.drop(scaling.path)
        after = draft.done()
        if after is graph:
            return
        yield graph, after
        graph = after
