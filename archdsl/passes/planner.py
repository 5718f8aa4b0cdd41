"""Turns a graph and a device into a plan: which ops would gain as one generated kernel, and which others run.

Every op that runs is priced three ways: by itself (eager PyTorch), in the group that TorchInductor makes of it, and in
the kernels that the rules of archdsl.passes.fusions would give. Chosen is a set of kernels that share no op, with the
least predicted time of the whole: what they take, and what is left of the better of the two others' kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import networkx as nx

from archdsl.cost import human
from archdsl.device.model import PICO, Device, Work
from archdsl.device.plan import PLANS, Uses, together
from archdsl.device.roofline import duration
from archdsl.ir.graph import Graph
from archdsl.passes.fusions import RULES
from archdsl.passes.fusions.base import Rule
from archdsl.passes.selection import STATES, pieces, select

if TYPE_CHECKING:
    from rich.table import Table

CIRCULAR = "it and another kernel would wait for each other"
NOTE = """\
predicted, not measured; launches and bytes: eager > inductor > as kernel. `--target triton` writes kernels for all but
those in brackets, which no kernel is written for yet. A row says what its ops take by themselves; the last one is the
whole network, in which Inductor's kernels reach across rows"""


@dataclass(frozen=True)
class Price:
    """What kernels take for a batch."""

    launches: int = 0
    bytes: int = 0
    picoseconds: int = 0

    def __add__(self, other: Price) -> Price:
        return Price(self.launches + other.launches, self.bytes + other.bytes, self.picoseconds + other.picoseconds)

    def __mul__(self, count: int) -> Price:
        return Price(self.launches * count, self.bytes * count, self.picoseconds * count)

    @property
    def seconds(self) -> float:
        return self.picoseconds * PICO

    def as_dict(self) -> dict[str, object]:
        return {"launches": self.launches, "bytes": self.bytes, "seconds": self.seconds}


@dataclass(frozen=True)
class Match:
    """Ops that a rule would make one kernel of. `runs` are those among `paths` that run at all, in graph order."""

    rule: Rule
    paths: tuple[str, ...]
    runs: tuple[str, ...]
    refused: str

    def written(self, graph: Graph) -> bool:
        """Whether there is a kernel that computes it."""
        rule = self.rule
        return bool(rule.made_by) or (rule.generated and not rule.beyond(graph, self.paths))


@dataclass(frozen=True)
class Region:
    """Ops that run together: as a rule's kernel, or, where `rule` is "", as in the plan that they are left to.

    What the others take is counted for the region by itself: their kernels are cut where it ends.
    """

    rule: str
    runs: tuple[str, ...]
    eager: Price
    inductor: Price
    planned: Price
    written: bool = False
    """Whether there is a kernel that computes these ops, or only a rule that says what one would."""


@dataclass(frozen=True)
class Declined:
    """Ops that a rule matched, and why no kernel of them was chosen."""

    rule: str
    runs: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Row:
    """Regions that are alike: of one def, of the same ops, shapes and prices. The prices are one region's."""

    region: Region
    within: str
    ops: tuple[str, ...]
    shape: str
    count: int

    @property
    def saved(self) -> int:
        """Picoseconds that all of them save over the better of the others."""
        others = min(self.region.eager.picoseconds, self.region.inductor.picoseconds)
        return self.count * (others - self.region.planned.picoseconds)


@dataclass(frozen=True)
class FusionPlan:
    """Which kernels would be generated for a graph, and what the whole would take."""

    graph: Graph
    device: Device
    batch: int
    dtype: str
    other: str
    """The better of the other plans, a key of PLANS: what is left runs as it does there."""
    regions: tuple[Region, ...]
    chosen: tuple[Match, ...]
    """Those of the regions that a rule's kernel computes, in the graph's order."""
    declined: tuple[Declined, ...]
    eager: Price
    inductor: Price
    exact: bool
    """Whether no set of the matches that can be put in an order takes less."""

    @property
    def planned(self) -> Price:
        return _sum(r.planned for r in self.regions)

    def rows(self) -> tuple[Row, ...]:
        """Regions that are alike as one, in the order in which the first of each runs."""
        found: dict[object, list[Region]] = {}
        for region in self.regions:
            nodes = [self.graph.node(p) for p in region.runs]
            shapes = tuple(str(t) for n in nodes for t in (*self.graph.operand_types(n), *n.outputs))
            ops = tuple(n.op.name for n in nodes)
            key = region.rule, _within(self.graph, region.runs), ops, shapes, region.planned, region.inductor
            found.setdefault(key, []).append(region)
        return tuple(self._row(alike) for alike in found.values())

    def _row(self, alike: Sequence[Region]) -> Row:
        nodes = [self.graph.node(p) for p in alike[0].runs]
        operands = (t for n in nodes for t in self.graph.operand_types(n) if t is not None and t.batched)
        x = next(operands, nodes[0].outputs[0])
        names = tuple(n.op.name for n in nodes)
        return Row(alike[0], _within(self.graph, alike[0].runs), names, x.short(), len(alike))

    def reasons(self) -> dict[tuple[str, str], list[Declined]]:
        """What was declined, by rule and reason."""
        found: dict[tuple[str, str], list[Declined]] = {}
        for one in self.declined:
            found.setdefault((one.rule, one.reason), []).append(one)
        return found

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.graph.name,
            "mode": self.graph.mode,
            "input": list(self._input),
            "device": self.device.name,
            "batch": self.batch,
            "dtype": self.dtype,
            "left_to": self.other,
            "exact": self.exact,
            "total": {
                "eager": self.eager.as_dict(),
                "inductor": self.inductor.as_dict(),
                "planned": self.planned.as_dict(),
            },
            "regions": [
                {
                    "rule": row.region.rule or None,
                    "generated": row.region.written,
                    "in": row.within,
                    "ops": list(row.ops),
                    "first": row.region.runs[0],
                    "count": row.count,
                    "eager": row.region.eager.as_dict(),
                    "inductor": row.region.inductor.as_dict(),
                    "planned": row.region.planned.as_dict(),
                }
                for row in self.rows()
            ],
            "declined": [
                {"rule": rule, "reason": reason, "count": len(alike), "first": alike[0].runs[0]}
                for (rule, reason), alike in self.reasons().items()
            ],
        }

    @property
    def _input(self) -> tuple[int, ...]:
        return tuple(int(d) for d in self.graph.inputs[0].type.dims)

    def table(self) -> Table:
        """The kernels that would be generated, those that save most first, and the rest in one row."""
        from rich import box
        from rich.table import Table

        size, e, i, k = "x".join(map(str, self._input)), self.eager, self.inductor, self.planned
        title = f"{self.graph.name}, input {size}, {self.graph.mode}: {self.device.title}, batch {self.batch}"
        table = Table(box=box.SIMPLE_HEAD, title=f"{title}, {self.dtype}", title_justify="left", show_footer=True)
        table.add_column("kernel", "the whole network", no_wrap=True)
        table.add_column("of", no_wrap=True)
        table.add_column("first operand", no_wrap=True)
        table.add_column("times", justify="right")
        launches, moved = _moved((e, i, k))
        table.add_column("launches", launches, justify="right", no_wrap=True)
        table.add_column("bytes", moved, justify="right", no_wrap=True)
        for name, total in (("eager", e), ("inductor", i), ("as kernel", k)):
            table.add_column(name, duration(total.seconds), justify="right", no_wrap=True)
        saved = min(e.picoseconds, i.picoseconds) - k.picoseconds
        table.add_column("saved", duration(saved * PICO), justify="right", no_wrap=True)
        for row in sorted((r for r in self.rows() if r.region.rule), key=lambda r: -r.saved):
            prices = row.region.eager, row.region.inductor, row.region.planned
            times = [duration(p.seconds) for p in prices]
            table.add_row(
                row.region.rule if row.region.written else f"({row.region.rule})",
                row.within,
                row.shape,
                str(row.count),
                *_moved(prices),
                *times,
                duration(row.saved * PICO),
            )
        left = [r for r in self.regions if not r.rule]
        prices = _sum(r.eager for r in left), _sum(r.inductor for r in left), _sum(r.planned for r in left)
        times = [duration(p.seconds) for p in prices[:2]]
        table.add_row(f"(left to {self.other})", "", "", str(len(left)), *_moved(prices), *times)
        return table

    def text(self) -> str:
        """What was matched and declined, and how the numbers are to be read."""
        lines = ["matched, but declined:"] if self.declined else []
        for (rule, reason), alike in self.reasons().items():
            lines.append(f"  {rule} ({len(alike)}, the first at %{alike[0].runs[0]}): {reason}")
        note = NOTE if self.graph.mode != "train" else f"{NOTE}. Counted is the forward run alone"
        return "\n".join((*lines, note if self.exact else f"{note}. Of the choices {STATES} were kept side by side"))


def matches(
    graph: Graph, runs: Collection[str], rules: Sequence[Rule] = RULES, written: bool = False
) -> Iterator[Match]:
    """What rules find among the ops that run, one op alone apart, which is no fusion.

    `written`: what a kernel could compute, but the one that is written does not, is refused.
    """
    place = {n.path: i for i, n in enumerate(graph.nodes())}
    for node in graph.nodes():
        for rule in rules:
            paths = rule.pattern(graph, node)
            if paths is not None:
                running = sorted((p for p in paths if p in runs), key=place.__getitem__)
                if len(running) > 1:
                    refused = rule.check(graph, paths) or (rule.beyond(graph, paths) if written else "")
                    yield Match(rule, paths, tuple(running), refused)


def plan(
    graph: Graph, device: Device, batch: int, dtype: str, rules: Sequence[Rule] = RULES, written: bool = False
) -> FusionPlan:
    """The kernels of `rules`, or those `written`, that are worth it for a graph on a device.

    Of a training graph the forward run only.
    """
    pricing = _Pricing(graph, device, batch, dtype, Uses(graph))
    plans = {name: make(graph) for name, make in PLANS.items()}
    totals = {name: _sum(pricing.of(k.work) for k in kernels) for name, kernels in plans.items()}
    other = min(PLANS, key=lambda name: (totals[name].picoseconds, name != "inductor"))
    place = {n.path: i for i, n in enumerate(graph.nodes())}
    found = list(matches(graph, {p for k in plans[other] for p in k.nodes}, rules, written))
    able = [m for m in found if not m.refused]
    costs = [pricing.kernel(m) for m in able]
    apart = [pricing.eager(m.runs).picoseconds for m in able]
    barred: set[int] = set()
    while True:
        allowed = [i for i in range(len(able)) if i not in barred]
        groups = [tuple(sorted(k.nodes, key=place.__getitem__)) for k in plans[other]]
        chosen, rest, exact = _choose(pricing, groups, [able[i].runs for i in allowed], [costs[i] for i in allowed])
        taken = [allowed[i] for i in chosen]
        loop = _loop(pricing, [*(able[i].runs for i in taken), *rest], len(taken))
        if not loop:
            break
        barred.add(max((taken[i] for i in loop), key=lambda i: costs[i].picoseconds - apart[i]))
    inside = {p: i for i, k in enumerate(plans["inductor"]) for p in k.nodes}
    regions = [
        replace(pricing.region(able[i].rule.name, able[i].runs, inside, costs[i]), written=able[i].written(graph))
        for i in taken
    ]
    regions += [pricing.region("", runs, inside, pricing.one(runs)) for runs in rest]
    declined = [Declined(m.rule.name, m.runs, m.refused) for m in found if m.refused]
    used = {path: able[i].rule.name for i in taken for path in able[i].runs}
    for i in set(range(len(able))) - set(taken):
        rule = next((used[p] for p in able[i].runs if p in used), "")
        name = able[i].rule.name
        whose = f"another `{rule}`" if rule == name else f"`{rule}`"
        reason = f"the whole takes less with {whose}, which shares ops with it" if rule else f"{other} takes no more"
        declined.append(Declined(name, able[i].runs, CIRCULAR if i in barred else reason))
    return FusionPlan(
        graph,
        device,
        batch,
        dtype,
        other,
        tuple(sorted(regions, key=lambda r: place[r.runs[0]])),
        tuple(able[i] for i in sorted(taken, key=lambda i: place[able[i].runs[0]])),
        tuple(sorted(declined, key=lambda d: place[d.runs[0]])),
        totals["eager"],
        totals["inductor"],
        exact,
    )


@dataclass(frozen=True)
class _Pricing:
    """Prices of ops of one graph on one device."""

    graph: Graph
    device: Device
    batch: int
    dtype: str
    uses: Uses
    known: dict[tuple[str, ...], Price] = field(default_factory=dict)

    def of(self, work: Work) -> Price:
        seconds = work.seconds(self.device, self.batch, self.dtype)
        return Price(work.launches, work.bytes(self.batch, self.dtype), round(seconds / PICO))

    def one(self, runs: Sequence[str]) -> Price:
        """Of ops as one kernel of another plan."""
        key = tuple(runs)
        if key not in self.known:
            self.known[key] = self.of(together(self.graph, key, self.uses))
        return self.known[key]

    def eager(self, runs: Sequence[str]) -> Price:
        return _sum(self.one((p,)) for p in runs)

    def inductor(self, runs: Sequence[str], inside: Mapping[str, int]) -> Price:
        """Of ops in Inductor's groups, which end where they do."""
        groups: dict[int, list[str]] = {}
        for path in runs:
            groups.setdefault(inside[path], []).append(path)
        return _sum(self.one(piece) for group in groups.values() for piece in pieces(group, group, self.sources))

    def kernel(self, match: Match) -> Price:
        return self.of(together(self.graph, match.runs, self.uses) + match.rule.again(self.graph, match.paths))

    def region(self, rule: str, runs: tuple[str, ...], inside: Mapping[str, int], planned: Price) -> Region:
        return Region(rule, runs, self.eager(runs), self.inductor(runs, inside), planned)

    def sources(self, path: str) -> set[str]:
        """The ops whose results an op reads, views seen through."""
        return {self.uses.root(v).node for v in self.graph.operands(self.graph.node(path)) if v is not None}


def _choose(
    pricing: _Pricing, groups: Sequence[tuple[str, ...]], options: Sequence[tuple[str, ...]], costs: Sequence[Price]
) -> tuple[tuple[int, ...], list[tuple[str, ...]], bool]:
    """The options of least time, by number, what is left of the groups, and whether the choice is exact."""
    place = {n.path: i for i, n in enumerate(pricing.graph.nodes())}
    order = sorted((p for group in groups for p in group), key=place.__getitem__)
    number = {path: i for i, path in enumerate(order)}
    known: dict[tuple[int, frozenset[int]], list[tuple[str, ...]]] = {}

    def left(group: int, taken: frozenset[int]) -> list[tuple[str, ...]]:
        if (group, taken) not in known:
            own = groups[group]
            remains = {p for p in own if number[p] not in taken}
            known[group, taken] = pieces(own, remains, pricing.sources) if taken else [own]
        return known[group, taken]

    found = select(
        [[number[p] for p in group] for group in groups],
        [frozenset(number[p] for p in option) for option in options],
        [cost.picoseconds for cost in costs],
        lambda group, taken: sum(pricing.one(piece).picoseconds for piece in left(group, taken)),
    )
    gone = {number[p] for o in found.picked for p in options[o]}
    rest = [piece for g, group in enumerate(groups) for piece in left(g, frozenset(gone & {number[p] for p in group}))]
    return found.picked, rest, found.exact


def _loop(pricing: _Pricing, kernels: Sequence[tuple[str, ...]], chosen: int) -> list[int]:
    """Kernels that were chosen, by number, and wait for each other by way of any others; empty where none do."""
    of = {path: i for i, runs in enumerate(kernels) for path in runs}
    order: nx.DiGraph[int] = nx.DiGraph()
    for path, i in of.items():
        order.add_edges_from((of[p], i) for p in pricing.sources(path) if p in of and of[p] != i)
    if nx.is_directed_acyclic_graph(order):
        return []
    return [i for i, _ in nx.find_cycle(order) if i < chosen]


def _within(graph: Graph, runs: Sequence[str]) -> str:
    """The def, or the part of the network, that all ops are of."""
    chains = [graph.region_chain(r) for r in sorted({graph.node(p).region for p in runs})]
    return [r for i, r in enumerate(chains[0]) if all(c[i : i + 1] == [r] for c in chains)][-1].name


def _sum(prices: Iterable[Price]) -> Price:
    return sum(prices, Price())


def _moved(prices: Sequence[Price]) -> tuple[str, str]:
    """Launches and bytes in words."""
    return " > ".join(str(p.launches) for p in prices), " > ".join(human(p.bytes) for p in prices)
