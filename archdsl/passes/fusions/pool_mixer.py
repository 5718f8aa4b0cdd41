"""pool_mixer: a norm, an average pooling of it less itself, and the residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.avg_pool import AvgPool
from archdsl.ops.gn import Gn
from archdsl.ops.held_drop_path import HeldDropPath
from archdsl.ops.pool_mixer import PoolMixer as Kernel
from archdsl.passes.base import Draft
from archdsl.passes.fusions.base import Rule, chain, first, hold, of_role, readers, refused, role, too_far

ORDER = ("gn", "avg_pool", "sub", "mul", "drop_path", "add")
POOL = AvgPool(k=(3, 3), s=(1, 1), p=(1, 1))


@dataclass(frozen=True)
class PoolMixer(Rule):
    """PoolFormer's token mixer (2111.11418) with its norm and residual, on one tile of the map, and the norm behind it.

    Pooling and norm commute but for the borders, so the norm is a factor and a shift on the pooled tile. Statistics
    of a whole sample (`gn`) take a first run over it, unless the kernel that wrote it left their sums: counted is
    the run. For the second norm this kernel leaves them; PyTorch's wants channels first, and copies the map to and fro.
    """

    name: ClassVar[str] = "pool_mixer"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if role(graph, node) not in ("gn", "bn", "norm"):
            return None
        after = readers(graph, node.value())
        pools = [n for n in after if n.op.name == "avg_pool"]
        if len(after) != 2 or len(pools) != 1:
            return None
        found = chain(graph, pools[0], "sub scale* add?")
        if not found or graph.node(found[1]) not in after:
            return None
        return (node.path, *found, *(n.path for n in _behind(graph, graph.node(found[-1]))))

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        def kernel() -> str:
            found = parts(graph, paths)
            return found if isinstance(found, str) else ""

        sums = [path for path in paths if graph.node(path).op.name == "add"]
        return first(too_far(graph.node(paths[1]), stride=1), lambda: refused(graph, paths, leaving=sums), kernel)

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = parts(graph, paths)
        assert isinstance(found, Parts)
        operands = [found.x, hold(graph, draft, found.norm), found.scale, None]
        if found.drop is not None:
            attributes: dict[str, Any] = {**found.drop.op.attributes(), "channels": int(found.x.type.channels)}
            dropping = HeldDropPath(**attributes)
            module = replace(found.drop, op=dropping, outputs=dropping.infer(), names=())
            draft.swap(module, operands=())
            operands[3] = module.value()
        op, last = Kernel(found.include_pad), found.last
        if found.then is not None:
            operands.append(hold(graph, draft, found.then, ahead=last))
            last = replace(last, outputs=(*last.outputs, *found.then.outputs), names=())
            draft.use(last.value(1), instead_of=found.then.value())
        draft.swap(replace(last, op=op), operands=operands)
        for path in paths:
            if path != last.path and (found.drop is None or path != found.drop.path):
                draft.drop(path)

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        """A run for the first norm's statistics, and the second norm's, which reads the sum."""
        whole = list(of_role(graph, paths, "gn"))
        return Work(elements=sum(n.outputs[0].plain().elements for n in whole), launches=len(whole))


@dataclass(frozen=True)
class Parts:
    """A mixer as its kernel takes it."""

    x: Value
    norm: Node
    include_pad: bool
    scale: Value | None
    drop: Node | None
    last: Node
    then: Node | None
    """The norm that reads the sum."""


def parts(graph: Graph, paths: Sequence[str]) -> Parts | str:
    """What the ops are to the kernel, or why it does not compute them."""
    tail = _behind(graph, graph.node(paths[-2]))
    paths = paths[: len(paths) - len(tail)]
    nodes = {n.op.name: n for n in map(graph.node, paths)}
    odd = next((name for name in nodes if name not in ORDER), "")
    if odd:
        return f"its kernel does not compute `{odd}`"
    if [graph.node(p).op.name for p in paths] != [name for name in ORDER if name in nodes] or "add" not in nodes:
        return "its kernel scales once, drops, then adds"
    norm, pool, difference, scale, drop, last = (nodes.get(name) for name in ORDER)
    assert norm is not None and pool is not None and difference is not None and last is not None
    (x,) = graph.operands(norm)
    assert x is not None and isinstance(norm.op, Gn) and isinstance(pool.op, AvgPool)
    if x.type.kind != "map" or not x.type.batched or norm.op.groups > 1:
        return "its kernel norms whole samples"
    if pool.op.replace(include_pad=True) != POOL:
        return "its kernel pools 3 x 3 positions around each, at each"
    if graph.operands(difference) != (pool.value(), norm.value()):
        return "its kernel takes what is pooled from the mean"
    if [v for v in graph.operands(last) if v is not None and v.node not in paths] != [x]:
        return "its kernel adds what the norm took"
    if pool.op.include_pad and not norm.op.bias:
        return "its kernel needs the norm's bias where padding counts"
    if drop is not None and x.type.frames:
        return "it is dropped in windows"
    factors = [] if scale is None else [v for v in graph.operands(scale) if v is not None and v.node not in paths]
    vectors = [v for v in factors if (v.type.kind, v.type.batched, v.type.dims) == ("vec", False, x.type.dims[:1])]
    if scale is not None and len(vectors) != 1:
        return "its kernel scales by a number a channel"
    return Parts(x, norm, pool.op.include_pad, next(iter(vectors), None), drop, last, next(iter(tail), None))


def _behind(graph: Graph, node: Node) -> tuple[Node, ...]:
    """The norm of whole samples that reads a sum."""
    norms = [n for n in readers(graph, node.value()) if isinstance(n.op, Gn) and n.op.groups == 1]
    return tuple(norms) if node.op.name == "add" and len(norms) == 1 else ()
