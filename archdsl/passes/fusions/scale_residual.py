"""scale_residual: a layer scale and the residual behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.scale_residual import ScaleResidual as Kernel
from archdsl.passes.base import Draft
from archdsl.passes.fusions.base import Rule, chain, role, working
from archdsl.passes.fusions.project_residual import Behind, behind, entering, with_act


@dataclass(frozen=True)
class ScaleResidual(Rule):
    """A norm by running statistics, layer scale (2103.17239), dropped branch and residual in one run over the map.

    Inductor does as much: it gains over eager PyTorch alone.
    """

    name: ClassVar[str] = "scale_residual"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        found = chain(graph, node, "scale* add") if role(graph, node) in ("bn", "scale") else None
        return found and with_act(graph, found)

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        found = parts(graph, paths)
        return found if isinstance(found, str) else ""

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = parts(graph, paths)
        assert isinstance(found, Parts)
        op = Kernel(found.times, found.act)
        operands = [found.x, found.residual, *found.held(graph, draft)]
        draft.swap(replace(graph.node(paths[-1]), op=op), operands=operands)
        for path in paths[:-1]:
            if found.drop is None or path != found.drop.path:
                draft.drop(path)


@dataclass(frozen=True)
class Parts(Behind):
    """What is scaled, and what becomes of it."""

    x: Value


def parts(graph: Graph, paths: Sequence[str]) -> Parts | str:
    """What the ops are to the kernel, or why it does not compute them."""
    nodes = working(graph, paths)
    branches = [v for v in entering(graph, nodes[0], paths) if v.type.batched]
    if len(branches) != 1:
        return "it is not of a sample's positions"
    found = behind(graph, branches[0].type, nodes, paths)
    return found if isinstance(found, str) else Parts(**vars(found), x=branches[0])
