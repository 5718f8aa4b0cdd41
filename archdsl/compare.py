"""Tells two graphs apart: weights, shapes at common call paths, costs by stage, and whether they compute alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from archdsl.cost import Costs, human, price
from archdsl.ir.graph import Graph
from archdsl.ir.hash import canonical_hash

if TYPE_CHECKING:
    from rich.table import Table

MOST = 20
"""Differences of one kind that are listed; the rest are counted."""


@dataclass(frozen=True)
class Comparison:
    """How graph `b` differs from graph `a`. `equal`: the same computation, whatever its parts are called."""

    a: Costs
    b: Costs
    equal: bool
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    """Parameter paths that one of them alone has, with shapes."""
    shapes: tuple[tuple[str, str, str], ...]
    """(path, shape in a, shape in b) of parameters both have."""
    results: tuple[tuple[str, str, str], ...]
    """(call path, op and result in a, op and result in b) of calls both make."""

    def table(self) -> Table:
        """Costs by stage, side by side."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, show_footer=True)
        table.add_column("stage", "total")
        sides = (self.a, self.b)
        titles = [c.name for c in sides] if self.a.name != self.b.name else [f"{self.a.name} (1)", f"{self.b.name} (2)"]
        for title, costs in zip(titles, sides, strict=True):
            table.add_column(f"{title} params", human(costs.params), justify="right")
            table.add_column("MACs", human(costs.macs), justify="right")
        rows = [{row.name: row for row in costs.per("stage")} for costs in sides]
        for name in dict.fromkeys([*rows[0], *rows[1]]):
            cells = [name]
            for side in rows:
                row = side.get(name)
                cells += ["-", "-"] if row is None else [human(row.cost.params), human(row.cost.macs)]
            table.add_row(*cells)
        return table

    def text(self) -> str:
        """The differences, one a line."""
        a, b = self.a.name, self.b.name
        out = ["the same computation" if self.equal else "different computations"]
        out += _listed(f"parameters only in {a}", self.only_a)
        out += _listed(f"parameters only in {b}", self.only_b)
        out += _listed("parameters of different shape", [f"{p}  {x} | {y}" for p, x, y in self.shapes])
        out += _listed("calls with different results", [f"{p}  {x} | {y}" for p, x, y in self.results])
        return "\n".join(out)


def compare(a: Graph, b: Graph) -> Comparison:
    """Compares two graphs by parameter path, call path, cost and canonical form."""
    both = [p for p in a.params if p in b.params]
    calls = [n.path for n in a.nodes() if n.path in b]
    results = [(p, _result(a, p), _result(b, p)) for p in calls]
    return Comparison(
        price(a),
        price(b),
        canonical_hash(a) == canonical_hash(b),
        tuple(f"{p} {_shape(a, p)}" for p in a.params if p not in b.params),
        tuple(f"{p} {_shape(b, p)}" for p in b.params if p not in a.params),
        tuple((p, _shape(a, p), _shape(b, p)) for p in both if a.params[p].shape != b.params[p].shape),
        tuple((p, x, y) for p, x, y in results if x != y),
    )


def _shape(graph: Graph, path: str) -> str:
    return str([int(n) for n in graph.params[path].shape])


def _result(graph: Graph, path: str) -> str:
    node = graph.node(path)
    return f"{node.op.name} {', '.join(t.short() for t in node.outputs)}"


def _listed(title: str, lines: tuple[str, ...] | list[str]) -> list[str]:
    if not lines:
        return []
    out = [f"{title}: {len(lines)}", *(f"  {line}" for line in lines[:MOST])]
    return out if len(lines) <= MOST else [*out, f"  and {len(lines) - MOST} more"]
