"""Turns passes into tables: what there is, and what each did to a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from archdsl.cost import human
from archdsl.ir.graph import Graph
from archdsl.passes.layouts import Plan
from archdsl.passes.pipeline import LEVELS, PASSES, Step

if TYPE_CHECKING:
    from rich.table import Table


def listing() -> Table:
    """Every pass: where it runs, what it needs and gives, its options, and what it does."""
    table = _table("pass", "runs at", "exact", "needs", "gives", "options", "what it does")
    for name, cls in PASSES.items():
        at = ", ".join(f"-O{i}" for i, passes in enumerate(LEVELS) if any(p.name == name for p in passes))
        options = ", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(cls))
        needs, gives = (", ".join(p.name for p in properties) for properties in (cls.needs, cls.gives))
        does = (cls.__doc__ or "").partition("\n")[0]
        table.add_row(name, at or "only by name", "yes" if cls.exact else "no", needs, gives, options, does)
    return table


def report(graph: Graph, steps: Sequence[Step]) -> Table:
    """A row a pass that ran on the graph."""
    table = _table("pass", "ops before", "ops after", "time")
    table.title = f"{graph.name}, {graph.mode}"
    for step in steps:
        after = "the same graph" if step.after is step.before else str(len(step.after))
        table.add_row(str(step.ran), str(len(step.before)), after, f"{step.seconds * 1e3:.1f} ms")
    return table


def placement(plan: Plan) -> tuple[Table, str]:
    """A row a move that remains, and what they are in all beside what the graph asks for."""
    table = _table("value", "read by", "from the order", "to", "elements")
    table.title = f"{plan.graph.name}, {plan.graph.mode}: orders of positions, and the moves between them"
    for move in plan.moves:
        table.add_row(move.source, move.reader, str(move.before), str(move.after), human(move.elements))
    absorbed = f"; kernels do {len(plan.absorbed)} more" if plan.absorbed else ""
    return table, (
        f"{len(plan.moves)} moves, {human(plan.elements)} elements an image read and written{absorbed}; "
        f"the graph as it is asks for {plan.asked} launches, {human(plan.asked_elements)} elements"
    )


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table
