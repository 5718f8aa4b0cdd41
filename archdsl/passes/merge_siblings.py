"""merge_siblings: layers that read one value become one layer, whose result is split, for deployment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Parameter, Region, Value
from archdsl.ops._arithmetic import Arithmetic
from archdsl.ops._pointwise import Pointwise
from archdsl.ops.base import Op, op_of, pair
from archdsl.passes.base import Draft, Pass, shared
from archdsl.passes.elide_concat import split_into
from archdsl.passes.scale_into_linear import is_layer

IN_PLACE = ("concat", "dropout", "drop_path", "attend", "scores", "mix", "rel_lookup", "rel_coords", "key_count")
"""Ops beside arithmetic and functions of a number that read a part of another tensor where it lies. Attention cuts its
heads out of the channels anyway; the last ones ask for sizes only. Other ops make PyTorch copy it first."""


@dataclass(frozen=True)
class Siblings:
    """Layers that read one value, and where the one that they become belongs."""

    value: Value
    layers: tuple[Node, ...]
    region: Region
    at: Node
    path: str

    @property
    def bias(self) -> bool:
        return any(layer.op.attributes()["bias"] for layer in self.layers)

    @property
    def op(self) -> Op:
        """The one layer, which starts as all did, or as torch's do: it is never trained."""
        dim = sum(int(layer.outputs[0].channels) for layer in self.layers)
        starts = {(layer.op.attributes()["init"], layer.op.attributes()["bias_init"]) for layer in self.layers}
        init, bias_init = starts.pop() if len(starts) == 1 else ("torch", None)
        if not isinstance(init, str) or init == "identity":  # which are for other sizes
            init, bias_init = "torch", None
        return op_of(self.layers[0]).replace(dim=dim, bias=self.bias, init=init, bias_init=bias_init)


def families(graph: Graph) -> Iterator[Siblings]:
    """Linear layers and 1x1 convolutions of a deploy graph that are better one."""
    if graph.mode != "deploy":
        return
    uses = Counter(path for node in graph.weight_nodes() for _, path in node.params)
    together, place = shared(graph), {node.path: i for i, node in enumerate(graph.nodes())}
    chains = [graph.region_chain(r) for r in range(len(graph.regions))]
    first: dict[int, Node] = {}
    found: dict[object, list[Node]] = {}
    for node in graph.nodes():
        for region in chains[node.region]:
            first.setdefault(region.id, node)
        own = node.region not in together and all(uses[path] == 1 for _, path in node.params)
        if own and is_layer(graph, node) and _pointwise(node):
            a = node.op.attributes()
            found.setdefault((graph.operands(node), node.op.name, a.get("s"), a.get("pad")), []).append(node)
    for several in found.values():
        value = graph.operands(several[0])[0]
        assert value is not None
        layers = _worthwhile(graph, value, several)
        home = _common([chains[layer.region] for layer in layers])
        if home is None or not all(layer.module.startswith(f"{home.module}.") for layer in layers):
            continue
        below = next((r for r in chains[layers[0].region] if r.parent == home.id), None)
        at = layers[0] if below is None else first[below.id]
        path = _name(graph, home, layers)
        if place[value.node] < place[at.path] and path is not None:
            yield Siblings(value, tuple(layers), home, at, path)


def _pointwise(node: Node) -> bool:
    a = node.op.attributes()
    if node.op.name == "linear":
        return True
    same = pair(a["k"]) == (1, 1) and a["g"] == 1  # type: ignore[arg-type]
    return same and pair(a["p"] or 0) == (0, 0)  # type: ignore[arg-type]


def _worthwhile(graph: Graph, value: Value, layers: Sequence[Node]) -> list[Node]:
    """Those of the layers that are better one, or none.

    Each but one saves reading the value. A part of the result does not lie in one piece, so who has to copy it first
    reads and writes it once more.
    """
    costs = [2 * layer.outputs[0].elements * copied(graph, layer.value()) for layer in layers]
    chosen = [layer for layer, cost in zip(layers, costs, strict=True) if cost < value.type.elements]
    saved = (len(chosen) - 1) * value.type.elements
    return chosen if saved > sum(cost for cost in costs if cost < value.type.elements) else []


def copied(graph: Graph, value: Value) -> bool:
    """Whether something that reads the value, or a view of it, would have a part of a tensor copied."""
    ahead, seen = [value], {value}
    while ahead:
        for reader, _ in graph.users(ahead.pop()):
            op = op_of(reader)
            if op.view:
                ahead += [v for v in reader.values if v not in seen]
                seen.update(reader.values)
            elif not isinstance(op, Pointwise | Arithmetic) and op.name not in IN_PLACE:
                return True
    return False


def _common(chains: Sequence[list[Region]]) -> Region | None:
    """The innermost region that all are in, where between it and them there are calls alone."""
    if not chains:
        return None
    levels = [regions for regions in zip(*chains, strict=False) if len({r.id for r in regions}) == 1]
    below = [region for chain in chains for region in chain[len(levels) :]]
    region = levels[-1][0]
    return None if region.kind in ("arch", "head") or any(r.kind != "call" for r in below) else region


def _name(graph: Graph, region: Region, layers: Sequence[Node]) -> str | None:
    """The layers' own names, joined; None where the region has that name already."""
    own = (layer.module.removeprefix(f"{region.module}.").replace(".", "_") for layer in layers)
    path = f"{region.module}.{'_'.join(own)}"
    taken = any(r.module == path for r in graph.regions) or f"{path}.weight" in graph.params or path in graph
    return None if taken else path


@dataclass(frozen=True)
class MergeSiblings(Pass):
    """In deploy mode linear layers and 1x1 convs that read one value become one, where no split of it is copied."""

    name: ClassVar[str] = "merge_siblings"

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        for one in families(graph):
            dims = tuple(int(layer.outputs[0].channels) for layer in one.layers)
            op = one.op
            weights = [
                (w.role, Parameter(f"{one.path}.{w.role}", tuple(int(n) for n in w.shape), w.init))
                for w in op.weights(one.value.type)
            ]
            whole = draft.put(
                op,
                (one.value,),
                op.infer(one.value.type),
                at=one.at,
                path=one.path,
                region=one.region.id,
                module=one.path,
                params=weights,
            )
            cut = split_into(dims)
            types = cut.infer(*whole.outputs)
            parts = draft.put(cut, whole.values, types, at=one.at, path=f"{one.path}_split", region=one.region.id)
            for layer, part in zip(one.layers, parts.values, strict=True):
                draft.use(part, instead_of=layer.value())
        draft.sweep()
        return draft.done()
