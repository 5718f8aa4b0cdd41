"""pool_mixer: a norm, an average pooling of it less itself, and the residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import Rule, chain, first, of_role, readers, refused, role, too_far


@dataclass(frozen=True)
class PoolMixer(Rule):
    """PoolFormer's token mixer (2111.11418) with its norm and residual, on one tile of the map.

    Pooling and norm commute but for the borders, so the norm is a factor and a shift on the pooled tile. Statistics
    of a whole sample (`gn`) take a first run over it, unless the kernel that wrote it left their sums: counted is
    the run.
    """

    name: ClassVar[str] = "pool_mixer"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if role(graph, node) not in ("gn", "bn", "norm"):
            return None
        after = readers(graph, node.value())
        pools = [n for n in after if n.op.name == "avg_pool"]
        if len(after) != 2 or len(pools) != 1:
            return None
        found = chain(graph, pools[0], "sub scale* add?")
        return (node.path, *found) if found and graph.node(found[1]) in after else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        return first(too_far(graph.node(paths[1]), stride=1), lambda: refused(graph, paths))

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        whole = list(of_role(graph, paths[:1], "gn"))
        return Work(elements=sum(n.outputs[0].plain().elements for n in whole), launches=len(whole))
