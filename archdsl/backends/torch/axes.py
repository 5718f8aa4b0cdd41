"""Chooses where channels stand in each map, [B, H, W, C] or [B, C, H, W], with the fewest permutes.

Two choices per op and a cost for each edge whose ends differ is a minimum cut, which is exact. A class has one
choice for all its instances, so the cut is over steps of classes, with the elements of all instances as weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import networkx as nx

from archdsl.backends.torch.classes import ModuleClass, Ref, local_refs
from archdsl.backends.torch.plan import Instance
from archdsl.backends.torch.uses import passed_by
from archdsl.ir.graph import Value
from archdsl.ops.base import op_of

Var = tuple[int, str, int]
"""(id of a class, "op" | "in" | "out", index)."""

FIRST, LAST = "first", "last"
INFINITE = 1 << 60


class Orders:
    """The chosen order of every input, op and output of every class."""

    def __init__(
        self, classes: list[ModuleClass], owner: Mapping[Instance, ModuleClass], given: Mapping[Value, str]
    ) -> None:
        self.owner = owner
        self.given = given
        """The spec's names for values, for the code that reads the orders."""
        self.net = nx.DiGraph()
        self.net.add_nodes_from([FIRST, LAST])
        for cls in classes:
            self.add(cls)
        root = classes[-1]
        for i, (_, value) in enumerate(root.template.inputs):
            if value.type.kind == "map":
                self.pull((id(root), "in", i), FIRST, INFINITE)
        for var in [n for n in self.net if isinstance(n, tuple)]:
            self.pull(var, LAST, 1)
        _, (first, _) = nx.minimum_cut(self.net, FIRST, LAST)
        self.first: set[Var] = {n for n in first if isinstance(n, tuple)}

    def of(self, var: Var) -> str:
        return FIRST if var in self.first else LAST

    def pull(self, var: Var, side: str, weight: int) -> None:
        self.edge(FIRST, var, weight, both=False) if side == FIRST else self.edge(var, LAST, weight, both=False)

    def edge(self, a: object, b: object, weight: int, both: bool = True) -> None:
        for u, v in ((a, b), (b, a)) if both else ((a, b),):
            known = self.net.get_edge_data(u, v, {"capacity": 0})["capacity"]
            self.net.add_edge(u, v, capacity=min(INFINITE, known + weight))

    def source(self, cls: ModuleClass, ref: Ref) -> Var:
        """The variable that decides the order of a local value."""
        kind, i, r = ref
        if kind == "in":
            return id(cls), "in", i
        step = cls.template.steps[i]
        if step.node is not None:
            return id(cls), "op", i
        return id(self.owner[step.children[-1]]), "out", r

    def targets(self, cls: ModuleClass, k: int, slot: int) -> Iterator[Var]:
        """The variables that an operand of step k must suit."""
        step = cls.template.steps[k]
        if step.node is not None:
            yield id(cls), "op", k
        else:
            yield from dict.fromkeys((id(self.owner[c]), "in", slot) for c in step.children)

    def add(self, cls: ModuleClass) -> None:
        refs = local_refs(cls.template)
        for k, step in enumerate(cls.template.steps):
            weight = len(cls.instances)
            maps = [v for v in (*step.operands, *step.results) if _is_map(v)]
            if step.node is not None and maps:
                allowed = op_of(step.node).axes
                if len(allowed) == 1:
                    self.pull((id(cls), "op", k), allowed[0], INFINITE)
            for slot, value in enumerate(step.operands):
                if value is None or not _is_map(value):
                    continue
                for target in self.targets(cls, k, slot):
                    self.edge(self.source(cls, refs[value]), target, weight * value.type.elements)
            if step.loop:
                self.tie(step_classes := list(dict.fromkeys(self.owner[c] for c in step.children)), step.carried)
                for r in range(step.carried):
                    if _is_map(step.results[r]):
                        inner = (id(step_classes[0]), "out", r), (id(step_classes[0]), "in", r)
                        self.edge(*inner, INFINITE)
        for o, value in enumerate(cls.template.outputs):
            if _is_map(value):
                self.edge(self.source(cls, refs[value]), (id(cls), "out", o), len(cls.instances) * value.type.elements)
        for first, last in optional_groups(cls):
            for entry, leave in passed_on(cls, first, last):
                if _is_map(entry):
                    self.edge(self.source(cls, refs[entry]), self.source(cls, refs[leave]), INFINITE)

    def tie(self, classes: list[ModuleClass], carried: int) -> None:
        """Blocks of several classes in one list are called alike, so their maps have one order."""
        for other in classes[1:]:
            for i, (_, value) in enumerate(classes[0].template.inputs):
                if _is_map(value):
                    self.edge((id(classes[0]), "in", i), (id(other), "in", i), INFINITE)
            for o, value in enumerate(classes[0].template.outputs):
                if _is_map(value):
                    self.edge((id(classes[0]), "out", o), (id(other), "out", o), INFINITE)


def optional_groups(cls: ModuleClass) -> Iterator[tuple[int, int]]:
    """(first, last) step of each run of steps under one flag."""
    k = 0
    while k < len(cls.optional):
        last = k
        while cls.optional[k] and last + 1 < len(cls.optional) and cls.optional[last + 1] == cls.optional[k]:
            last += 1
        if cls.optional[k]:
            yield k, last
        k = last + 1


def passed_on(cls: ModuleClass, first: int, last: int) -> list[tuple[Value, Value]]:
    """(value from before an optional run of steps, the result that takes its place) for each result read after it."""
    steps, flag = cls.template.steps, cls.optional[first]
    after = set(cls.template.outputs)
    for step, other in zip(steps[last + 1 :], cls.optional[last + 1 :], strict=True):
        after |= {v for v in step.operands if v is not None and other != flag}
    known = [v for _, v in cls.template.inputs] + [v for step in steps[:first] for v in step.results]
    source: dict[Value, Value] = {}
    for step in steps[first : last + 1]:
        source |= {result: source.get(value, value) for result, value in passed_by(step, known).items()}
        known += step.results
    return [(source[v], v) for v in source if v in after]


def _is_map(value: Value | None) -> bool:
    return value is not None and value.type.kind == "map" and value.type.batched
