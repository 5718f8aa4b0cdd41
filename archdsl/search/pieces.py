"""Cuts an arch's body into pieces that are priced apart: each names the columns and the values that it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from archdsl.frontend.elaborate import Elaborator
from archdsl.frontend.names import children, mentions
from archdsl.frontend.program import MEASURES
from archdsl.frontend.resolve import assigned
from archdsl.frontend.values import Architecture, Data, Scope
from archdsl.search.draws import Column
from archdsl.syntax import tree


@dataclass(frozen=True)
class Piece:
    """Statements of an arch that are priced together, in the iteration of the stage that they belong to."""

    statements: tuple[tree.Tree, ...]
    home: tree.Tree
    """What names the call sites of the statements: the arch or the region around them."""
    fixed: Mapping[str, Data]
    """Variables of the stage loops around it, by name."""
    columns: tuple[Column, ...]
    """Of the parameters, what the statements read."""
    takes: tuple[str, ...]
    """The variables assigned before that the statements read."""
    gives: tuple[str, ...]
    """The variables they assign that are read later."""
    loop: Loop | None = None
    ends: int = 0
    """Stages with a feature that end between the piece before and this one."""


@dataclass(frozen=True)
class Loop:
    """A piece that is one `blocks` loop: iteration j does not depend on how many there are."""

    blocks: tree.Blocks
    columns: tuple[Column, ...]
    """What the body reads; the piece's columns hold what the count reads as well."""
    counted: tuple[Column, ...]
    """What the count reads."""
    indexed: tuple[tuple[Column, tree.Expr], ...]
    """Lists of which iteration j reads one value alone, at an index that depends on j."""
    periods: tuple[tree.Expr, ...] | None
    """The body reads its index otherwise only modulo these; None: it reads the index itself."""


class Inseparable(Exception):
    """An arch cannot be priced in pieces. The message says why, after "as"."""


def cut(
    arch: Architecture, columns: Mapping[str, tuple[Column, ...]], reference: Mapping[str, Data], ev: Elaborator
) -> tuple[Piece, ...]:
    """The pieces of an arch in order: a stem, every statement of every stage, a head.

    `reference` holds the parameters at one point, to run the loops whose bounds no draw decides. Raises Inseparable.
    """
    statements = arch.tree.body.statements
    cutter = _Cutter(columns, Scope(arch.scope, dict(reference)), ev, frozenset(assigned(statements)))
    drafts = list(cutter.body(statements, arch.tree, {}))
    if _measured(arch.tree.body):
        raise Inseparable("it requires something of what all of it costs")
    if any(_returns(s) for d in drafts[:-1] for s in d.statements):
        raise Inseparable("it may return before its last statement")
    return _linked(drafts, cutter)


def whole(arch: Architecture, columns: Mapping[str, tuple[Column, ...]]) -> tuple[Piece, ...]:
    """The arch as a single piece: for one that is inseparable."""
    all_columns = tuple(c for group in columns.values() for c in group)
    return (Piece(arch.tree.body.statements, arch.tree, {}, all_columns, (), ()),)


def reads(
    node: tree.Tree,
    arch: Architecture,
    columns: Mapping[str, tuple[Column, ...]],
    reference: Mapping[str, Data],
    ev: Elaborator,
) -> tuple[Column, ...]:
    """The columns that an expression over an arch's parameters reads."""
    return _ordered(_Cutter(columns, Scope(arch.scope, dict(reference)), ev).reads(node, {}))


@dataclass(frozen=True)
class _Draft:
    statements: tuple[tree.Tree, ...]
    home: tree.Tree
    fixed: Mapping[str, Data]
    ends: int


class _Cutter:
    def __init__(
        self,
        columns: Mapping[str, tuple[Column, ...]],
        scope: Scope,
        ev: Elaborator,
        variables: frozenset[str] = frozenset(),
    ) -> None:
        self.columns, self.scope, self.ev, self.variables = columns, scope, ev, variables
        self.ended = 0

    def body(self, statements: Sequence[tree.Tree], home: tree.Tree, fixed: Mapping[str, Data]) -> Iterator[_Draft]:
        for statement in statements:
            if isinstance(statement, tree.Stage):
                turns = self.turns(statement, fixed)
                if turns is not None:
                    for turn in turns:
                        yield from self.body(statement.body.statements, statement, {**fixed, **turn})
                        self.ended += bool(statement.results)
                    continue
            if isinstance(statement, tree.RegionBlock):
                yield from self.body(statement.body.statements, statement, fixed)
                continue
            if isinstance(statement, tree.If) and self.constant(statement.condition, fixed):
                yield from self.taken(statement, home, fixed)
                continue
            ends, self.ended = self.ended, 0
            yield _Draft((statement,), home, fixed, ends)

    def taken(self, t: tree.If, home: tree.Tree, fixed: Mapping[str, Data]) -> Iterator[_Draft]:
        """The drafts of the branch that a condition on stage variables takes."""
        if self.ev.truth(t.condition, self.inner(fixed), None):
            yield from self.body(t.then.statements, home, fixed)
        elif isinstance(t.otherwise, tree.If):
            yield from self.body((t.otherwise,), home, fixed)
        elif t.otherwise is not None:
            yield from self.body(t.otherwise.statements, home, fixed)

    def turns(self, t: tree.Stage, fixed: Mapping[str, Data]) -> list[dict[str, Data]] | None:
        """The values of a stage's variable; None where a draw or an earlier statement decides them, or it changes."""
        if t.iterable is None:
            return [{}]
        if t.name.id in _bound(t.body) or self.reads(t.iterable, fixed) or not self.known(t.iterable, fixed):
            return None
        values = self.ev.iterate(self.ev.evaluate(t.iterable, self.inner(fixed)), t.iterable)
        return [{t.name.id: v} for v in values]

    def inner(self, fixed: Mapping[str, Data]) -> Scope:
        return Scope(self.scope, dict(fixed))

    def known(self, expr: tree.Tree, fixed: Mapping[str, Data]) -> bool:
        """Whether every name in an expression has a value without running anything."""
        if isinstance(expr, tree.Name):
            return expr.id in fixed or (expr.id not in self.variables and self.scope.find(expr.id) is not None)
        return all(self.known(child, fixed) for child in children(expr))

    def reads(self, node: tree.Tree, fixed: Mapping[str, Data]) -> frozenset[Column]:
        """The columns that a statement or an expression reads."""
        if isinstance(node, tree.Name):
            return frozenset(c for c in self.columns.get(node.id, ()) if c.genes)
        if isinstance(node, tree.Config) and isinstance(node.callee, tree.Name) and len(node.args) == 1:
            parts, at = self.columns.get(node.callee.id, ()), node.args[0].value
            if parts and parts[0].element is not None and self.constant(at, fixed):
                i = self.ev.evaluate(at, self.inner(fixed))
                if isinstance(i, int) and -len(parts) <= i < len(parts):
                    return frozenset({parts[i]} if parts[i].genes else ())
        if isinstance(node, tree.Call) and isinstance(node.callee, tree.Name) and node.callee.id == "len":
            only = node.args[0].value if len(node.args) == 1 else None
            parts = self.columns.get(only.id, ()) if isinstance(only, tree.Name) else ()
            if parts and parts[0].element is not None:
                return frozenset()
        return frozenset().union(*(self.reads(child, fixed) for child in _values(node)))

    def column(self, node: tree.Tree, fixed: Mapping[str, Data]) -> Column | None:
        """The one column that an expression stands for."""
        found = self.reads(node, fixed)
        parts = self.columns.get(node.id, ()) if isinstance(node, tree.Name) else ()
        single = len(parts) == 1 and parts[0].element is None
        if isinstance(node, tree.Config) and isinstance(node.callee, tree.Name) and len(node.args) == 1:
            single = self.constant(node.args[0].value, fixed) and node.callee.id in self.columns
        return next(iter(found)) if single and len(found) == 1 else None

    def constant(self, expr: tree.Tree, fixed: Mapping[str, Data]) -> bool:
        """Whether an expression is made of numbers and the variables of stage loops."""
        if isinstance(expr, tree.Name):
            return expr.id in fixed
        plain = (tree.Number, tree.Unary, tree.Binary, tree.Compare, tree.Group)
        return isinstance(expr, plain) and all(self.constant(child, fixed) for child in children(expr))


def _linked(drafts: Sequence[_Draft], cutter: _Cutter) -> tuple[Piece, ...]:
    """The pieces, with the variables that go from one to the next."""
    gives = [frozenset(assigned(d.statements)) for d in drafts]
    out = []
    for i, d in enumerate(drafts):
        before = frozenset().union(*gives[:i])
        takes = tuple(sorted(n for n in before if any(_needs(s, n) for s in d.statements)))
        later = [s for after in drafts[i + 1 :] for s in after.statements]
        kept = tuple(sorted(n for n in gives[i] if any(_needs(s, n) for s in later)))
        columns = frozenset().union(*(cutter.reads(s, d.fixed) for s in d.statements))
        loop = _loop(d, cutter, takes, kept)
        out.append(Piece(d.statements, d.home, d.fixed, _ordered(columns), takes, kept, loop, d.ends))
    return tuple(out)


def _loop(d: _Draft, cutter: _Cutter, takes: Sequence[str], kept: Sequence[str]) -> Loop | None:
    """The `blocks` loop that a piece is, where its iterations do not depend on their number."""
    t = d.statements[0]
    if not isinstance(t, tree.Blocks) or _returns(t.body):
        return None
    inside = _bound(t.body)
    name = t.name.id if t.name is not None else ""
    if (
        name in kept
        or name in inside
        or _passed(t.body.statements, inside - {*takes, *kept})
        or not cutter.known(t.count, d.fixed)
        or any(mentions(t.count, n) for n in inside)
    ):
        return None
    indexed: list[tuple[Column, tree.Expr]] = []
    rest = _without(t.body, name, inside, d.fixed, cutter, indexed) if name else t.body
    columns = cutter.reads(rest, d.fixed).union(*(cutter.reads(at, d.fixed) - {c} for c, at in indexed))
    alone = tuple((c, at) for c, at in indexed if c not in columns)
    read = columns | {c for c, _ in alone}
    periods = _periods(rest, name, inside) if name else ()
    if periods is not None and len(alone) < len(indexed):
        periods = None
    return Loop(t, _ordered(read), _ordered(cutter.reads(t.count, d.fixed)), alone, periods)


def _without(
    node: tree.Tree,
    name: str,
    inside: frozenset[str],
    fixed: Mapping[str, Data],
    cutter: _Cutter,
    found: list[tuple[Column, tree.Expr]],
) -> tree.Tree:
    """A tree without the expressions `P[i][..j..]`, which are noted: the list's column, and the index."""
    if isinstance(node, tree.Config) and len(node.args) == 1 and mentions(node.args[0].value, name):
        at = node.args[0].value
        column = cutter.column(node.callee, fixed)
        if column is not None and not any(mentions(at, n) for n in inside):
            found.append((column, at))
            return tree.Number(node.span, "0", 0)
    changes: dict[str, object] = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if isinstance(value, tree.Tree):
            changes[field.name] = _without(value, name, inside, fixed, cutter, found)
        elif isinstance(value, tuple) and any(isinstance(v, tree.Tree) for v in value):
            changes[field.name] = tuple(
                _without(v, name, inside, fixed, cutter, found) if isinstance(v, tree.Tree) else v for v in value
            )
    return dataclasses.replace(node, **changes) if changes else node  # type: ignore[arg-type]


def _values(node: tree.Tree) -> Iterator[tree.Tree]:
    """The sub-trees that are evaluated: not the name of an argument, an attribute or a label."""
    named = node.name if isinstance(node, (tree.Arg, tree.Attribute, tree.Label)) else None
    return (child for child in children(node) if child is not named)


def _needs(node: tree.Tree, name: str) -> bool:
    """Whether a statement may read the value that a name has before it."""
    if isinstance(node, tree.Blocks) and node.name is not None and node.name.id == name:
        return _needs(node.count, name)
    if isinstance(node, tree.For) and name in (node.name.id, node.index.id if node.index is not None else ""):
        return _needs(node.iterable, name)
    if isinstance(node, tree.Name):
        return node.id == name
    return any(_needs(child, name) for child in _values(node))


def _periods(body: tree.Tree, name: str, inside: frozenset[str]) -> tuple[tree.Expr, ...] | None:
    """Where a name stands only on the left of `%`: what stands on the right."""
    if isinstance(body, tree.Name):
        return None if body.id == name else ()
    if isinstance(body, tree.Binary) and body.op == "%" and isinstance(body.left, tree.Name) and body.left.id == name:
        variable = mentions(body.right, name) or any(mentions(body.right, n) for n in inside)
        return None if variable else (body.right,)
    found: tuple[tree.Expr, ...] = ()
    for child in children(body):
        below = _periods(child, name, inside)
        if below is None:
            return None
        found += below
    return found


def _returns(node: tree.Tree) -> bool:
    return isinstance(node, tree.Return) or any(_returns(child) for child in children(node))


def _measured(node: tree.Tree) -> bool:
    """Whether something is required of what the whole graph measures."""
    if isinstance(node, tree.Require):
        return any(mentions(node.condition, name) for name in MEASURES)
    return any(_measured(child) for child in children(node))


def _bound(body: tree.Body) -> frozenset[str]:
    """The names that a body gives values to, those of its expressions included."""
    names = assigned(body.statements)

    def visit(node: tree.Tree) -> None:
        if isinstance(node, tree.Comprehension):
            names.add(node.name.id)
        elif isinstance(node, tree.Lambda):
            names.update(p.id for p in node.params)
        for child in children(node):
            visit(child)

    visit(body)
    return frozenset(names)


def _passed(statements: Sequence[tree.Tree], names: frozenset[str]) -> bool:
    """Whether an iteration may read one of these names before it gives it a value."""
    for s in statements:
        if any(_needs(s.value if isinstance(s, tree.Assign) else s, name) for name in names):
            return True
        names -= {n.id for n in s.names} if isinstance(s, tree.Assign) else frozenset()
    return False


def _ordered(columns: frozenset[Column]) -> tuple[Column, ...]:
    return tuple(sorted(columns, key=lambda c: (c.param, -1 if c.element is None else c.element)))
