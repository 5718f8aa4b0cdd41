"""Turns a space into genes and columns: what each parameter of the arch, or each element of it, is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from archdsl.diagnostics import ArchError, error
from archdsl.frontend.elaborate import Elaborator
from archdsl.frontend.names import children, mentions
from archdsl.frontend.space import Point, Space
from archdsl.frontend.values import Architecture, Data, Scope, is_number
from archdsl.search.genome import Gene, Genome, Points, stream
from archdsl.syntax import tree

REFERENCE, TRIED = 0x524546, 64
"""The purpose of the random points, and how many, that stand in where parameters of the first one have no value."""


@dataclass(frozen=True, slots=True)
class Column:
    """A parameter of the arch, or one element of a per-stage list, and the genes that its value depends on."""

    param: str
    element: int | None
    genes: tuple[int, ...]


@dataclass
class Draws:
    """A space as genes: points of the space are rows of the genome's matrix."""

    space: Space
    genome: Genome
    columns: Mapping[str, tuple[Column, ...]]
    """Of each parameter: one column, or one an element where the elements are drawn one by one."""
    lets: Mapping[str, Column]
    """Of each `let` of the space, as if it were a parameter."""
    reference: Points
    """[1, genes]: a point that is known to be sound, the first seed where there is one."""
    _evaluator: Elaborator = field(init=False)
    _parts: dict[str, Draws] = field(init=False)
    """Of each name that was asked for, the draws with nothing that it does not need."""

    def __post_init__(self) -> None:
        self._evaluator = Elaborator(self.space.program.loader.vocabulary, self.space.program.loader.names.of)
        self._parts = {}

    @staticmethod
    def of(space: Space) -> Draws:
        """Raises E-CHOICE where how many alternatives a choice has is itself drawn, and what a bad seed raises."""
        walk = _Walk(space)
        genome = Genome(tuple(walk.genes))
        seeds = [p for _, arch in space.seeds() if (p := space.find(arch)) is not None]
        first = genome.canonical(genome.encode(seeds[0].draws if seeds else {}))
        draws = Draws(space, genome, walk.columns(), walk.lets(), first)
        others = genome.random(stream(0, REFERENCE, 0), TRIED)
        return next((replace(draws, reference=row) for row in (first, *others[:, None]) if draws.able(row)), draws)

    def point(self, row: Sequence[int] | Points) -> Point:
        """The point of the space that a row of genes stands for."""
        draws = self.genome.decode(row)
        return self.space.sample(lambda name, options: draws[name])

    def row(self, point: Point) -> Points:
        """[1, genes]: the row of a point."""
        return self.genome.canonical(self.genome.encode(point.draws))

    def parameters(self, row: Sequence[int] | Points) -> Mapping[str, Data]:
        """Every parameter of the arch at a point, and every `let` of the space."""
        ev = Elaborator(self._evaluator.vocabulary, self._evaluator.sites_of)
        point = self.point(row)
        return {**point.lets, **ev.parameters(self.space.base, point.overrides).names}

    def able(self, row: Points) -> bool:
        """Whether every parameter has a value at a point [1, genes]."""
        try:
            self.parameters(row[0])
        except ArchError:
            return False
        return True

    def value(self, column: Column, row: Sequence[int] | Points) -> Data:
        """What a column holds at a row. Raises what the parameter raises, whatever is wrong with others there."""
        alone = self._parts.get(column.param)
        if alone is None:
            alone = self._parts[column.param] = self._part(column.param)
        if column not in self.columns.get(column.param, ()):  # a let, which may be called like a parameter
            return alone.point(row).lets[column.param]
        found = alone.parameters(row)[column.param]
        if column.element is None:
            return found
        assert isinstance(found, tuple)
        return found[column.element]

    def _part(self, name: str) -> Draws:
        """The same genes, and of the parameters and items those that one of them is computed from."""
        space, needed = self.space, self._needed(name)
        declared = replace(space.declared, items=tuple(i for i in space.items if i.name.id in needed))
        params = tuple(p for p in space.base.tree.params if p.name.id in needed)
        base = replace(space.base, tree=replace(space.base.tree, params=params))
        return replace(self, space=replace(space, declared=declared, base=base))

    def _needed(self, name: str) -> frozenset[str]:
        """A parameter or item, and all that its value is computed from."""
        needed = {name}
        bound = {i.name.id for i in self.space.items if isinstance(i, tree.Binding)}
        for param in reversed(self.space.base.tree.params):
            if param.name.id in needed - bound:
                exprs = _settled(self.space.base, param)
                needed |= {p.name.id for p in self.space.base.tree.params for e in exprs if mentions(e, p.name.id)}
        for item in reversed(self.space.items):
            if item.name.id in needed:
                needed |= {i.name.id for i in self.space.items if mentions(item.value, i.name.id)}
        return frozenset(needed)


class _Walk:
    """One walk over a space's items, in order: the genes, and which of them every name depends on."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.ev = Elaborator(space.program.loader.vocabulary, space.program.loader.names.of)
        self.genes: list[Gene] = []
        self.scope = Scope(space.program.scope)
        self.behind: dict[str, frozenset[int]] = {}
        """All genes that the value of an item depends on."""
        self.elements: dict[str, tuple[frozenset[int], ...]] = {}
        first = space.sample(lambda name, options: 0)
        for item in space.items:
            self.item(item)
            # later items see the value of the first alternatives, which only ranges could tell apart
            ev = Elaborator(self.ev.vocabulary, self.ev.sites_of, decide=lambda name, options: 0)
            ev.draw = [item.name.id]
            value = first.overrides.get(item.name.id)
            self.scope.names[item.name.id] = ev.evaluate(item.value, self.scope) if value is None else value

    def item(self, item: tree.Let | tree.Binding) -> None:
        name, expr = item.name.id, item.value
        while isinstance(expr, tree.Group):
            expr = expr.inner
        parts: list[tuple[frozenset[int], tree.Tree]] = []
        if isinstance(item, tree.Binding) and isinstance(expr, tree.List):
            for i, part in enumerate(expr.items):
                parts.append((self.expression(part, self.scope, (name, str(i)), (), i, None, 0), part))
        elif isinstance(item, tree.Binding) and isinstance(expr, tree.Comprehension) and expr.condition is None:
            self.closed(expr.iterable)
            for i, v in enumerate(self.ev.iterate(self.ev.evaluate(expr.iterable, self.scope), expr.iterable)):
                inner = Scope(self.scope, {expr.name.id: v})
                found = self.expression(expr.item, inner, (name, str(i)), (str(i),), i, None, 0)
                parts.append((found, expr))
        if parts:
            self.elements[name] = tuple(own | self.named(part) for own, part in parts)
            self.behind[name] = frozenset().union(*self.elements[name])
        else:
            self.behind[name] = self.expression(expr, self.scope, (name,), (), None, None, 0) | self.named(expr)

    def named(self, expr: tree.Tree) -> frozenset[int]:
        """The genes behind the items that an expression mentions."""
        return frozenset().union(*(genes for name, genes in self.behind.items() if mentions(expr, name)))

    def expression(
        self,
        expr: tree.Tree,
        scope: Scope,
        draw: tuple[str, ...],
        turns: tuple[str, ...],
        stage: int | None,
        parent: int | None,
        when: int,
    ) -> frozenset[int]:
        """The genes drawn while an expression is evaluated, added in the order of evaluation."""
        if isinstance(expr, tree.Label) and isinstance(expr.value, tree.Choice):
            return self.expression(expr.value, scope, (expr.name.id, *turns), turns, stage, parent, when)
        if isinstance(expr, tree.Choice):
            for option in expr.options:
                if isinstance(option, tree.Range):
                    self.closed(option)
            options = self.ev.alternatives(expr, scope)
            at = len(self.genes)
            ordered = all(isinstance(o, tree.Range) for o, _ in options) or self.rising(options, scope)
            self.genes.append(Gene(".".join(draw), len(options), ordered, stage, parent, when))
            found = frozenset({at})
            for k, (option, _) in enumerate(options):
                if not isinstance(option, tree.Range):
                    found |= self.expression(option, scope, (*draw, f"({k})"), turns, stage, at, k)
            return found
        if isinstance(expr, (tree.List, tree.Tuple)):
            parts = (
                self.expression(item, scope, (*draw, str(i)), turns, stage, parent, when)
                for i, item in enumerate(expr.items)
            )
            return frozenset().union(*parts)
        if isinstance(expr, tree.Comprehension):
            self.closed(expr.iterable)
            out: frozenset[int] = frozenset()
            for i, v in enumerate(self.ev.iterate(self.ev.evaluate(expr.iterable, scope), expr.iterable)):
                inner = Scope(scope, {expr.name.id: v})
                if expr.condition is None or self.ev.truth(expr.condition, inner, None):
                    out |= self.expression(expr.item, inner, (*draw, str(i)), (*turns, str(i)), stage, parent, when)
            return out
        if isinstance(expr, tree.Conditional):
            self.closed(expr.condition)
            taken = expr.then if self.ev.truth(expr.condition, scope, None) else expr.otherwise
            return self.expression(taken, scope, draw, turns, stage, parent, when)
        parts = (self.expression(child, scope, draw, turns, stage, parent, when) for child in children(expr))
        return frozenset().union(*parts)

    def closed(self, expr: tree.Tree) -> None:
        """Refuses an expression that decides which choices there are, and is itself drawn."""
        drawn = [name for name, genes in self.behind.items() if genes and mentions(expr, name)]
        if drawn or _open(expr):
            raise error(
                "E-CHOICE",
                "what is drawn here decides how many choices there are, so the space has no fixed genes",
                expr.span,
                help="write the alternatives out, each with the choices that belong to it",
            )

    def rising(self, options: Sequence[tuple[tree.Expr, Data]], scope: Scope) -> bool:
        """Whether the alternatives are numbers in rising or falling order."""
        values = []
        for option, member in options:
            if isinstance(option, tree.Range):
                values.append(member)
            elif _open(option) or isinstance(option, (tree.List, tree.Lambda)):
                return False
            else:
                values.append(self.ev.evaluate(option, scope))
        numbers = [v for v in values if is_number(v)]
        return len(numbers) == len(values) > 1 and numbers in (sorted(numbers), sorted(numbers)[::-1])  # type: ignore[type-var]

    def lets(self) -> dict[str, Column]:
        lets = [i.name.id for i in self.space.items if isinstance(i, tree.Let)]
        return {name: Column(name, None, tuple(sorted(self.behind[name]))) for name in lets}

    def columns(self) -> dict[str, tuple[Column, ...]]:
        """The columns of every parameter of the arch, bound by the space or following from those that are."""
        base = self.space.base
        out: dict[str, tuple[Column, ...]] = {}
        behind: dict[str, frozenset[int]] = {}
        bound = {i.name.id for i in self.space.items if isinstance(i, tree.Binding)}
        for param in base.tree.params:
            name = param.name.id
            if name in bound:
                behind[name] = self.behind[name]
            else:
                exprs = _settled(base, param)
                used = (genes for other, genes in behind.items() for e in exprs if mentions(e, other))
                behind[name] = frozenset().union(*used)
            parts = self.elements.get(name) if name in bound else None
            if parts is None:
                out[name] = (Column(name, None, tuple(sorted(behind[name]))),)
            else:
                out[name] = tuple(Column(name, i, tuple(sorted(genes))) for i, genes in enumerate(parts))
        return out


def _settled(base: Architecture, param: tree.Param) -> list[tree.Expr]:
    """What gives a parameter its value where the space does not: variants, the default."""
    exprs = [expr for given, expr, _ in base.overrides if given == param.name.id]
    return exprs + ([param.default] if param.default is not None else [])


def _open(expr: tree.Tree) -> bool:
    return isinstance(expr, tree.Choice) or any(_open(child) for child in children(expr))
