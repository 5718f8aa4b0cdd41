"""Turns a graph and another library's tensor names into links: by a table, by name, by structure and order.

What a table says holds. Of the rest, equal names in equal shapes are linked; then, stage by stage and block by
block, modules of equal roles and shapes, where there is one of them, or where data flow puts them in an order that
the other library's execution repeats. Anything else is ambiguous. That what is left comes in turn, in the order of the
spec's text as in that of the other library's execution, is a conjecture: `in_turn` makes it, who asks for it proves it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import networkx as nx

from archdsl.ir.graph import Graph, Node
from archdsl.weights.families import Bound, Family
from archdsl.weights.transforms import Rows, Squeeze, Transform, Unsqueeze

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

ROLES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Link:
    """One weight path, the keys it is made of, and how."""

    path: str
    keys: tuple[str, ...]
    via: tuple[Transform, ...] = ()
    by: str = "table"
    """What decided: table, name, shape or order; "turn" is a conjecture."""

    @property
    def changes(self) -> bool:
        return len(self.keys) > 1 or any(not isinstance(t, Squeeze) or t.axes for t in self.via)


@dataclass(frozen=True)
class Ambiguity:
    """Weights and keys of equal shape, in one place, that nothing tells apart."""

    paths: tuple[str, ...]
    keys: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True)
class Matching:
    """Links by weight path, in the graph's order, and everything that has none."""

    links: tuple[Link, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    ambiguous: tuple[Ambiguity, ...] = ()


@dataclass
class _Open:
    """What is still to be linked, on both sides."""

    graph: Graph
    keys: dict[str, Shape]
    paths: dict[str, Shape]
    links: dict[str, Link] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def link(self, link: Link) -> None:
        self.links[link.path] = link
        self.paths.pop(link.path)
        self.used.update(link.keys)

    @property
    def free(self) -> dict[str, Shape]:
        return {k: s for k, s in self.keys.items() if k not in self.used}


def match(
    graph: Graph,
    keys: Shapes,
    family: Family | None = None,
    order: Mapping[str, int] | None = None,
    *,
    in_turn: bool = False,
) -> Matching:
    """Links the graph's parameters with `keys` (shapes by name).

    `order` is when the other library's model first uses each key, where that is known; without it data flow on our
    side decides nothing. With `in_turn` modules that nothing tells apart are linked in the two orders.
    """
    indices = set(family.indexed(graph.params).values()) if family is not None else set()
    dropped = tuple(k for k in keys if k in indices or (family is not None and family.drops(k)))
    at = _Open(
        graph, {k: s for k, s in keys.items() if k not in dropped}, {p: x.shape for p, x in graph.params.items()}
    )
    if family is not None:
        _by_table(at, family)
    for path, shape in list(at.paths.items()):
        if path in at.free and bare(at.keys[path]) == bare(shape):
            at.link(Link(path, (path,), squeezed(at.keys[path], shape), "name"))
    ambiguous = _by_structure(at, order)
    if in_turn and order is not None:
        _by_turn(at, order)
        ambiguous = tuple(a for a in ambiguous if at.paths.keys() & {*a.paths})
    for path in list(at.paths):
        if path in at.free:  # of another shape: one to be resized, or a fault to be told
            at.link(Link(path, (path,), (), "name"))
    doubtful = {p for a in ambiguous for p in a.paths}, {k for a in ambiguous for k in a.keys}
    return Matching(
        tuple(at.links[p] for p in graph.params if p in at.links),
        tuple(p for p in at.paths if p not in doubtful[0]),
        tuple(k for k in at.free if k not in doubtful[1]),
        dropped,
        ambiguous,
    )


def bare(shape: Shape) -> Shape:
    """A shape without its axes of size 1: the same numbers in the same order."""
    return tuple(n for n in shape if n != 1)


def squeezed(stored: Shape, wanted: Shape) -> tuple[Transform, ...]:
    """What takes one shape to another that differs in axes of size 1 only."""
    if stored == wanted:
        return ()
    if len(stored) > len(wanted):
        return (Squeeze(_ones(stored, wanted)),)
    if len(stored) < len(wanted):
        return (Unsqueeze(_ones(wanted, stored)),)
    a, b = (tuple(i for i, n in enumerate(s) if n == 1) for s in (stored, wanted))
    return (Squeeze(a), Unsqueeze(b))


def _ones(longer: Shape, shorter: Shape) -> tuple[int, ...]:
    """Which axes of size 1 the longer shape has more, counted from the end where that is not decided."""
    left, out = list(shorter), []
    for axis in range(len(longer)):
        if left and longer[axis] == left[0]:
            left.pop(0)
        else:
            out.append(axis)
    return tuple(out)


# -- by a table ----------------------------------------------------------------------------------


def _by_table(at: _Open, family: Family) -> None:
    claims: dict[str, list[tuple[str, Bound]]] = defaultdict(list)
    bounds: dict[str, Bound] = {}
    for path in at.paths:
        bound = family.bind(path)
        if bound.explicit and all(key in at.keys for key in bound.keys):
            bounds[path] = bound
            for key in bound.keys:
                claims[key].append((path, bound))
    for path, bound in bounds.items():
        sharers = [b for key in bound.keys for p, b in claims[key] if p != path]
        if all(_shares(b) for b in (bound, *sharers)) or not sharers:
            at.link(Link(path, bound.keys, bound.via, "table"))


def _shares(bound: Bound) -> bool:
    """Whether a key may also serve other weights: parts of its rows, or a norm folded into kernel and bias."""
    return any(isinstance(t, Rows) or t.name == "fold_bn" for t in bound.via)


# -- by structure --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Module:
    """Tensors that belong together: the weight and bias of a layer, or one parameter on its own."""

    name: str
    roles: tuple[tuple[str, str], ...]
    """(role, full name) pairs."""


Numbers = tuple[int, ...]
"""Of a stage, and of a block in it."""
Place = tuple[Numbers, tuple[tuple[str, Shape], ...]]
"""Where a module stands, and the roles and shapes of its tensors."""
Modules = dict[Place, list[_Module]]


def _by_structure(at: _Open, order: Mapping[str, int] | None) -> tuple[Ambiguity, ...]:
    ours = _modules(at.paths, list(at.graph.params))
    theirs = _modules(at.free, list(at.keys), _staged(list(at.graph.params), list(at.keys)))
    ambiguous = []
    for place, mine in ours.items():
        found = theirs.get(place, [])
        pairs, left, right = _paired(mine, found)
        if len(left) == len(right) == 1:
            pairs += [(left[0], right[0], "shape")]
        elif left and right:
            flow = None if order is None else _chain(at.graph, left)
            run = None if order is None else _sequence(right, order)
            if flow is None or run is None or len(flow) != len(run):
                shape = place[1][0][1]
                ambiguous.append(Ambiguity(tuple(m.name for m in left), tuple(m.name for m in right), shape))
            else:
                pairs += [(a, b, "order") for a, b in zip(flow, run, strict=True)]
        for a, b, by in pairs:
            for (_, path), (_, key) in zip(a.roles, b.roles, strict=True):
                at.link(Link(path, (key,), squeezed(at.keys[key], at.paths[path]), by))
    return _named(at, ambiguous, ours, theirs)


def _by_turn(at: _Open, order: Mapping[str, int]) -> None:
    """Links modules of equal roles and shapes in turn where there are as many on both sides."""
    ours, theirs = _modules(at.paths, ()), _modules(at.free, ())
    written = {path: i for i, path in enumerate(at.graph.params)}
    for place, modules in ours.items():
        found = theirs.get(place, [])
        if len(found) == len(modules) and all(full in order for m in found for _, full in m.roles):
            for a, b in zip(_ranked(modules, written), _ranked(found, order), strict=True):
                for (_, path), (_, key) in zip(a.roles, b.roles, strict=True):
                    at.link(Link(path, (key,), squeezed(at.keys[key], at.paths[path]), "turn"))


def _ranked(modules: Sequence[_Module], rank: Mapping[str, int]) -> list[_Module]:
    return sorted(modules, key=lambda m: min(rank[full] for _, full in m.roles))


def _named(at: _Open, found: Iterable[Ambiguity], ours: Modules, theirs: Modules) -> tuple[Ambiguity, ...]:
    """Ambiguities with full names of tensors instead of modules."""
    of = {m.name: m for modules in ours.values() for m in modules}
    other = {m.name: m for modules in theirs.values() for m in modules}
    return tuple(
        Ambiguity(
            tuple(name for m in a.paths for _, name in of[m].roles),
            tuple(name for m in a.keys for _, name in other[m].roles),
            a.shape,
        )
        for a in found
    )


def _paired(
    mine: Sequence[_Module], found: Sequence[_Module]
) -> tuple[list[tuple[_Module, _Module, str]], list[_Module], list[_Module]]:
    """Pairs with one name inside their block, and what is left of both."""
    names = {_tail(m.name): m for m in found}
    by_name = {_tail(m.name): m for m in mine}
    if len(names) < len(found) or len(by_name) < len(mine):
        return [], list(mine), list(found)
    same = by_name.keys() & names.keys()
    pairs = [(m, names[t], "name") for t, m in by_name.items() if t in same]
    return (
        pairs,
        [m for t, m in by_name.items() if t not in same],
        [m for t, m in names.items() if t not in same],
    )


def _tail(name: str) -> str:
    """What follows the last number of a name: `attn.proj` of `layers.0.blocks.1.attn.proj`."""
    parts = name.split(".")
    last = max((i for i, p in enumerate(parts) if p.isdigit()), default=-1)
    return ".".join(parts[last + 1 :])


def _modules(open: Shapes, all: Sequence[str], staged: Mapping[Numbers, Numbers] | None = None) -> Modules:
    """The open tensors as modules, by place; `all` names tell which numbers count stages and blocks."""
    counted = _counted(all)
    grouped: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in open:
        head, _, role = name.rpartition(".")
        grouped[head if role in ROLES and head else name].append((role if role in ROLES else "", name))
    out: Modules = defaultdict(list)
    for name, roles in grouped.items():
        roles = sorted(roles)
        numbers = _numbers(name, counted)
        place = (staged or {}).get(numbers, numbers), tuple((role, bare(open[full])) for role, full in roles)
        out[place].append(_Module(name, tuple(roles)))
    return out


def _staged(ours: Sequence[str], theirs: Sequence[str]) -> dict[Numbers, Numbers]:
    """Our numbers of their blocks where these count through all stages, and our stages hold nothing but blocks."""
    nested, flat = _places(ours), _places(theirs)
    if len(nested) != len(flat) or {len(n) for n in nested} != {2} or {len(n) for n in flat} != {1}:
        return {}
    return dict(zip(sorted(flat), sorted(nested), strict=True))


def _places(names: Sequence[str]) -> set[Numbers]:
    counted = _counted(names)
    return {_numbers(name, counted) for name in names} - {()}


def _counted(names: Sequence[str]) -> frozenset[str]:
    """Prefixes such as `layers.0` that hold modules of modules: what counts, unlike the 0 of a list of layers."""
    out = set()
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts):
            below = parts[i + 1 :]
            if part.isdigit() and len(below) > 1 and not below[0].isdigit():
                out.add(".".join(parts[: i + 1]))
    return frozenset(out)


def _numbers(name: str, counted: frozenset[str]) -> Numbers:
    parts = name.split(".")
    return tuple(int(p) for i, p in enumerate(parts) if p.isdigit() and ".".join(parts[: i + 1]) in counted)


def _chain(graph: Graph, modules: Sequence[_Module]) -> list[_Module] | None:
    """The modules in the order in which data must pass them; None where two of them are parallel."""
    readers = {m: [n for n in graph.weight_nodes() if _owns(n, m)] for m in modules}
    below = {m: set().union(*(nx.descendants(graph.net, n.path) for n in nodes)) for m, nodes in readers.items()}
    # A parameter that is read by an op has no operands itself: it stands where it is read.
    uses = {m: {n.path for n in nodes if graph.operands(n)} | _users(graph, nodes) for m, nodes in readers.items()}

    def before(a: _Module, b: _Module) -> bool:
        return bool(uses[b] & below[a]) and not uses[a] & below[b]

    ranked = sorted(modules, key=lambda m: sum(before(other, m) for other in modules))
    linear = all(before(a, b) for a, b in pairwise(ranked))
    return ranked if linear else None


def _owns(node: Node, module: _Module) -> bool:
    names = {full for _, full in module.roles}
    return any(path in names for _, path in node.params)


def _users(graph: Graph, nodes: Sequence[Node]) -> set[str]:
    return {user.path for n in nodes if not graph.operands(n) for v in n.values for user, _ in graph.users(v)}


def _sequence(modules: Sequence[_Module], order: Mapping[str, int]) -> list[_Module] | None:
    """The modules as they are executed; None where that is not known, or is the same for two."""
    times = {m: min((order[full] for _, full in m.roles if full in order), default=-1) for m in modules}
    if -1 in times.values() or len(set(times.values())) < len(times):
        return None
    return sorted(modules, key=lambda m: times[m])
