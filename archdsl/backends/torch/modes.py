"""Joins a spec's graphs for training and for eval into one: what both compute is there once, eval's result is last."""

from __future__ import annotations

from dataclasses import replace

from archdsl.backends.torch.plan import Unsupported
from archdsl.ir.graph import Graph, Node, Region, Value


def joined(trained: Graph, settled: Graph) -> Graph:
    """`trained` with what `settled`, the eval graph of the same spec, computes otherwise in its head.

    The results are those of `trained`, then those of `settled`. Raises Unsupported where the two differ elsewhere.
    """
    out = replace(
        trained,
        net=trained.net.copy(),
        regions=[replace(r) for r in trained.regions],
        guards=[*trained.guards, *settled.guards],
    )
    known: dict[object, dict[str, Node]] = {}
    for node in trained.nodes():
        known.setdefault(_computation(node, trained.operands(node)), {})[node.path] = node
    head = next((r.id for r in trained.regions if r.kind == "head"), 0)
    made: dict[Value, Value] = {}
    """What stands in `out` for each value of `settled`."""
    added: dict[int, Region] = {}
    """What stands in `out` for the regions of nodes that `settled` alone has."""
    shared: set[int] = set()
    """Regions of `settled` that have nodes which both have."""

    def place(at: int, node: Node) -> int:
        region = settled.regions[at]
        if region.kind == "head":
            return head
        if region.parent is None:
            raise Unsupported("training and eval differ in more than the head", node.span)
        if at not in added:
            parent = place(region.parent, node)
            added[at] = replace(region, id=len(out.regions), parent=parent)
            out.regions.append(added[at])
        return added[at].id

    for node in settled.nodes():
        operands = [None if v is None else made[v] for v in settled.operands(node)]
        alike = known.get(_computation(node, tuple(operands)), {})
        same = alike.get(node.path) or next(iter(alike.values()), None)
        if same is not None:
            shared |= {r.id for r in settled.region_chain(node.region)}
        else:
            region = place(node.region, node)
            if missing := [path for _, path in node.params if path not in trained.params]:
                raise Unsupported(f"`{missing[0]}` is a weight in eval and not in training", node.span)
            path, n = node.path, 2
            while path in out:
                path, n = f"{node.path}#{n}", n + 1
            same = out.add(
                node.op,
                operands,
                node.outputs,
                path=path,
                region=region,
                span=node.span,
                module=node.module,
                params=node.params,
                names=node.names,
            )
        made.update(zip(node.values, same.values, strict=True))
    for at, copy in added.items():
        if at in shared:
            copy.segment = ""  # the module is there, with what training computes; the rest belongs to the head
        copy.ports = tuple((name, made[value]) for name, value in copy.ports)
        copy.results = tuple(made[value] for value in copy.results)
    out.outputs = (*trained.outputs, *(made[value] for value in settled.outputs))
    return out


def _computation(node: Node, operands: tuple[Value | None, ...]) -> object:
    """Equal for nodes that compute the same."""
    return node.op, node.outputs, node.module, node.params, operands
