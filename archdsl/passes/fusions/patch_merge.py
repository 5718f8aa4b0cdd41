"""patch_merge: patches that become positions, the layer that maps them, and its norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.device.plan import alone
from archdsl.ir.graph import Graph, Node
from archdsl.ir.sizes import Size
from archdsl.ops.base import op_of, pair
from archdsl.ops.conv import Conv
from archdsl.ops.pack import Pack
from archdsl.ops.patch_merge import PatchMerge as Kernel
from archdsl.ops.windows import Windows
from archdsl.passes.base import Draft, shared
from archdsl.passes.fusions.base import Rule, chain, first, hold, kept, readers, refused, role, too_wide

PACKED = 1536
"""Channels of a patch, which run through: a norm's moments are taken in a run before, about means of their own."""
BEHIND = 384
"""Channels that a norm behind is of: they stand in registers until their mean is known."""
NARROW = 16
"""Channels of a position that a matrix unit takes at once."""

LAYERS = ("linear", "conv")
"""What the product is of: these ops themselves, and none that a pass made of them."""


@dataclass(frozen=True)
class PatchMerge(Rule):
    """Swin's patch merging (2103.14030) as one product, whose load gathers the positions of a patch.

    So is a convolution whose stride is its kernel, with the norm of positions before it (2201.03545) or one behind: no
    two patches share a position. The norm is applied as the channels run through; its sums are taken in a run ahead,
    whose second load of a tile finds it in the cache.
    """

    name: ClassVar[str] = "patch_merge"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if role(graph, node) == "cut":
            found = chain(graph, node, "pack norm? pointwise")
            return _ended(graph, found) if found and graph.node(found[-1]).op.name in LAYERS else None
        if role(graph, node) == "norm":
            found = chain(graph, node, "dense")
            return _ended(graph, found) if found and _patches(graph.node(found[-1])) else None
        found = _ended(graph, (node.path,)) if _patches(node) else None
        return found if found and len(found) > 1 else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        return first(too_wide(_packed(graph, paths), PACKED), lambda: refused(graph, paths))

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        nodes = [graph.node(path) for path in paths]
        x, layer = graph.operand_types(nodes[0])[0], _layer(nodes)
        assert x is not None
        odd = next((n.op.name for n in nodes if n.op.name not in ("windows", "pack", "ln", "linear", "conv")), "")
        outside = any(r.path not in paths for n in nodes[:-1] for v in n.values for r in readers(graph, v))
        cut = next((n for n in nodes if isinstance(n.op, Windows)), None)
        return first(
            f"its kernel does not compute `{odd}`" if odd else "",
            "" if x.kind == "map" and x.batched and not x.frames else "it is not of a whole map of each sample",
            "" if cut is None else _uneven(cut, layer),
            "others read what is in its midst" if outside or any(kept(graph, n.value()) for n in nodes[:-1]) else "",
            f"{int(layer.outputs[0].channels)} channels are too few for a matrix unit ({NARROW})"
            if layer.outputs[0].channels < NARROW
            else "",
            lambda: "its weights are another call's, too" if any(n.region in shared(graph) for n in nodes) else "",
        )

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        nodes = [graph.node(path) for path in paths]
        layer, last = _layer(nodes), nodes[-1]
        at = nodes.index(layer)
        norms = [next((n for n in part if role(graph, n) == "norm"), None) for part in (nodes[:at], nodes[at + 1 :])]
        dim = int(layer.outputs[0].channels)
        if isinstance(layer.op, Conv):
            op = Kernel(layer.op.k, dim, crop=layer.op.pad == "zeros")
        else:
            cut, pack = nodes[0].op, next(n.op for n in nodes if isinstance(n.op, Pack))
            assert isinstance(cut, Windows)
            op = Kernel(pair(cut.size), dim, pack.layout, cut.clamp)
        operands = [graph.operands(nodes[0])[0], hold(graph, draft, layer)]
        operands += [None if n is None else hold(graph, draft, n) for n in norms]
        draft.swap(replace(last, op=op, module="", params=()), operands=operands)
        for path in paths[:-1]:
            draft.drop(path)

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        """The loads and norms of patches, for all but one of the tiles of a wide result."""
        nodes = [graph.node(path) for path in paths]
        layer, x = _layer(nodes), graph.operand_types(nodes[0])[0]
        assert x is not None
        more = -(-int(layer.outputs[0].channels) // BEHIND) - 1
        norms = sum(alone(graph, n).instructions for n in nodes[: nodes.index(layer)] if role(graph, n) == "norm")
        return Work(instructions=more * norms, elements=more * x.plain().elements, launches=0)


def _patches(node: Node) -> bool:
    """Whether an op is a convolution whose kernels touch, and neither overlap nor leave anything out between them."""
    op = op_of(node)
    if not isinstance(op, Conv) or op.name not in LAYERS or op.g != 1 or op.d != 1:
        return False
    if pair(op.k) != pair(op.s) or pair(op.k) == (1, 1):
        return False
    return pair(op.p or 0) == (0, 0) or op.pad != "zeros"


def _ended(graph: Graph, paths: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """With the norm behind, where all of its channels fit into a tile."""
    if paths is None or graph.node(paths[-1]).outputs[0].channels > BEHIND:
        return paths
    return (*paths[:-1], *(chain(graph, graph.node(paths[-1]), "norm?") or ()))


def _layer(nodes: Sequence[Node]) -> Node:
    return next(n for n in nodes if n.op.name in LAYERS)


def _packed(graph: Graph, paths: Sequence[str]) -> int:
    """Channels of a patch."""
    layer = _layer([graph.node(path) for path in paths])
    x = graph.operand_types(layer)[0]
    assert x is not None
    height, width = pair(layer.op.k) if isinstance(layer.op, Conv) else (1, 1)
    return int(x.channels) * height * width


def _uneven(cut: Node, layer: Node) -> str:
    """Why windows are no patches of the size that they were asked for, or their layer not a linear one."""
    op, frame = op_of(cut), cut.outputs[-1].frames[-1]
    assert isinstance(op, Windows)
    if layer.op.name != "linear":
        return f"its kernel takes windows to a linear layer, not `{layer.op.name}`"
    if any(isinstance(n, Size) for n in pair(op.size)) or tuple(map(int, frame.inner)) != tuple(pair(op.size)):
        return "its windows change with the map"
    return "its windows are shifted" if any(frame.shift) or frame.shifts else ""
