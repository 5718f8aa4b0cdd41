"""Turns a `space` into a value: its points and how many there are, each as overrides, draws and a variant's text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from archdsl.diagnostics import ArchError, Diagnostic, Span, did_you_mean, error
from archdsl.frontend import signatures
from archdsl.frontend.elaborate import Elaborator
from archdsl.frontend.evaluate import Decide
from archdsl.frontend.names import children, mentions
from archdsl.frontend.program import Program
from archdsl.frontend.resolve import SPACE_NAMES
from archdsl.frontend.values import Architecture, Data, Function, Scope, Tensor, key_of, show
from archdsl.syntax import tree
from archdsl.syntax.printer import unparse

T = TypeVar("T")
Item = tree.Let | tree.Binding


@dataclass(frozen=True)
class Point:
    """One way to decide every choice: parameters of the base arch, and the draws (name -> alternative) behind them."""

    overrides: Mapping[str, Data]
    draws: Mapping[str, int]
    lets: Mapping[str, Data] = dataclasses.field(default_factory=dict)
    """The space's own names, where the point was drawn from its choices."""


@dataclass(frozen=True)
class Space:
    """The points that `space NAME of BASE { ... }` stands for.

    A draw is named by its binding and position (`w`, `depths.2`, `ratios.(1).0` inside alternative 1 of a choice),
    or by its label. Draws of alternatives that were not taken do not exist.
    """

    program: Program
    declared: tree.Space
    base: Architecture

    @staticmethod
    def open(program: Program, name: str | None = None) -> Space:
        """A space of a program's file; without a name, its first. Raises E-SPEC and E-CHOICE."""
        if name is None and program.spaces:
            name = next(iter(program.spaces))
        if name is None or name not in program.spaces:
            asked = f" `{name}`" if name else ""
            hint = did_you_mean(name or "", program.spaces)
            raise error("E-SPEC", f"{program.source.name} declares no space{asked}", help=hint)
        found = program.spaces[name]
        for inner in _walk(found):
            if isinstance(inner, tree.Lambda) and _open(inner.body):
                raise error("E-CHOICE", "a choice inside `fn` would be drawn at every call", inner.span)
        base = program.scope.names[found.base.id]
        assert isinstance(base, Architecture)
        return Space(program, found, base)

    @property
    def items(self) -> tuple[Item, ...]:
        return tuple(i for i in self.declared.items if isinstance(i, (tree.Let, tree.Binding)))

    @property
    def before(self) -> tuple[tree.Require, ...]:
        """Requirements on the parameters alone: decided without a graph."""
        return tuple(i for i in self.declared.items if isinstance(i, tree.Require) and not _measured(i.condition))

    @property
    def after(self) -> tuple[tree.Require, ...]:
        """Requirements on what the graph measures (params, flops, latency ...)."""
        return tuple(i for i in self.declared.items if isinstance(i, tree.Require) and _measured(i.condition))

    @property
    def goals(self) -> tuple[tree.Goal, ...]:
        return tuple(i for i in self.declared.items if isinstance(i, tree.Goal))

    # -- points ----------------------------------------------------------------------------------

    def sample(self, decide: Decide) -> Point:
        """The point that `decide` (name of the draw, number of alternatives -> index) leads to. Raises ArchError."""
        draws: dict[str, int] = {}

        def noted(name: str, options: int) -> int:
            draws[name] = decide(name, options)
            return draws[name]

        ev, scope = self._evaluator(noted), Scope(self.program.scope)
        for item in self.items:
            scope.names[item.name.id] = self._evaluate(ev, item, scope)
        bound = {i.name.id for i in self.items if isinstance(i, tree.Binding)}
        lets = {name: value for name, value in scope.names.items() if name not in bound}
        return Point({name: value for name, value in scope.names.items() if name in bound}, draws, lets)

    def points(self) -> Iterator[Point]:
        """Every point, in order of the alternatives."""
        return _outcomes(self.sample)

    @property
    def size(self) -> int:
        """How many points there are: ways to decide the choices, nested ones only where they are reached."""
        return self._ways(self._evaluator(), self.items, Scope(self.program.scope))

    def _ways(self, ev: Elaborator, items: tuple[Item, ...], scope: Scope) -> int:
        if not items:
            return 1
        item, rest = items[0], items[1:]
        names = dict(scope.names)
        if _open(item.value) and any(_shapes(later.value, item.name.id, rest) for later in rest):
            values = _outcomes(lambda decide: self._evaluate(self._evaluator(decide), item, scope))
            return sum(self._ways(ev, rest, Scope(scope.parent, names | {item.name.id: v})) for v in values)
        first = self._evaluate(self._evaluator(lambda name, options: 0), item, scope)
        return _count(ev, item.value, scope) * self._ways(ev, rest, Scope(scope.parent, names | {item.name.id: first}))

    def meets(self, point: Point) -> bool:
        """Whether a point keeps to the requirements that need no graph."""
        return not self.broken(point)

    def broken(self, point: Point) -> list[tree.Require]:
        """The requirements on parameters that a point breaks."""
        ev = self._evaluator(lambda name, options: point.draws.get(name, 0))
        scope = ev.parameters(self.base, point.overrides)
        for item in self.items:
            if isinstance(item, tree.Let):
                scope.names[item.name.id] = self._evaluate(ev, item, Scope(self.program.scope, scope.names))
        return [r for r in self.before if not ev.truth(r.condition, Scope(self.program.scope, scope.names), None)]

    def variant_text(self, point: Point, name: str = "child") -> str:
        """The point as `arch NAME = BASE[...]`, for a file in which the space's own names are visible."""
        given = ", ".join(f"{key} = {self._text(value)}" for key, value in point.overrides.items())
        return f"arch {name} = {self.declared.base.id}" + (f"[{given}]" if given else "")

    def _text(self, value: Data) -> str:
        """A value as an expression. Raises E-NAME for a function that has no name in the file."""
        if isinstance(value, tuple):
            return "[" + ", ".join(map(self._text, value)) + "]"
        if not isinstance(value, Function):
            return show(value)
        if isinstance(value.declaration, tree.Lambda):
            return self._lambda_text(value, value.declaration)
        config = ", ".join(f"{k} = {self._text(v)}" for k, v in value.config.items())
        return self._name(value) + (f"[{config}]" if config else "")

    def _name(self, f: Function) -> str:
        for name in (f.name, *sorted(self.program.scope.visible())):
            home = self.program.scope.find(name)
            named = None if home is None else home.names[name]
            if isinstance(named, Function) and named.declaration is f.declaration and not named.config:
                return name
        raise error("E-NAME", f"`{f.name}` has no name in {self.program.source.name}", help="import it there")

    def _lambda_text(self, f: Function, d: tree.Lambda) -> str:
        """A `fn` with the values it closes over written in."""
        texts: dict[str, str] = {}
        at = f.scope
        while at is not None and at is not self.program.scope:
            for name, value in at.names.items():
                if not isinstance(value, Tensor) and mentions(d.body, name):
                    texts.setdefault(name, self._text(value))
            at = at.parent
        written = _written_in(d, {n: t for n, t in texts.items() if n not in {p.id for p in d.params}})
        assert isinstance(written, tree.Lambda)
        return unparse(written)

    # -- membership --------------------------------------------------------------------------------

    def seeds(self) -> Iterator[tuple[tree.Seed, Architecture]]:
        """The seeds and the architectures they name. Raises E-SEED for one that is not of this space's base."""
        for item in self.declared.items:
            if isinstance(item, tree.Seed):
                root = item.value.callee if isinstance(item.value, tree.Config) else item.value
                home = self.program.scope.find(root.id) if isinstance(root, tree.Name) else None
                arch = home.names[root.id] if home is not None and isinstance(root, tree.Name) else None
                if not isinstance(arch, Architecture) or arch.tree is not self.base.tree:
                    base = self.declared.base.id
                    title = f"`{unparse(item.value)}` is not a variant of `{base}`"
                    raise error("E-SEED", title, item.value.span, help=f"write seed {base}[parameter = value]")
                args = item.value.args if isinstance(item.value, tree.Config) else ()
                given = tuple((a.name.id, a.value, self.program.scope) for a in args if a.name is not None)
                yield item, dataclasses.replace(arch, overrides=arch.overrides + given)

    def find(self, arch: Architecture) -> Point | None:
        """The point whose parameters equal those of an architecture, or None: exact, functions by what they are."""
        ev = self._evaluator()
        target = ev.parameters(arch, {}).names
        bound = {i.name.id: target[i.name.id] for i in self.items if isinstance(i, tree.Binding)}
        rest = ev.parameters(self.base, bound).names
        if any(key_of(rest[name]) != key_of(target[name]) for name in target):
            return None
        draws = _Match(self, target).solve(
            [i for i in self.items if isinstance(i, tree.Binding)], Scope(self.program.scope, dict(bound))
        )
        return None if draws is None else Point(bound, draws)

    def check(self) -> list[Diagnostic]:
        """What is wrong with the space itself: a point that cannot be drawn, a seed that is not a member."""
        found: list[Diagnostic] = []
        try:
            self.broken(self.sample(lambda name, options: 0))
            for item, arch in self.seeds():
                point = self.find(arch)
                if point is None:
                    raise error(
                        "E-SEED",
                        f"the seed `{unparse(item.value)}` is not a point of the space `{self.declared.name.id}`",
                        item.value.span,
                        notes=self._outside(arch),
                        help="widen the choice, or start from another architecture",
                    )
                for requirement in self.broken(point):
                    found.append(
                        Diagnostic(
                            "E-SEED",
                            f"the seed `{unparse(item.value)}` breaks a requirement of `{self.declared.name.id}`",
                            item.value.span,
                            notes=((requirement.span, "required here"),),
                            help="loosen the requirement, or start from another architecture",
                        )
                    )
        except ArchError as e:
            found += e.diagnostics
        return found

    def _outside(self, arch: Architecture) -> tuple[tuple[Span, str], ...]:
        """The bindings that cannot take the architecture's value, whatever the others are."""
        target = self._evaluator().parameters(arch, {}).names
        bindings = [i for i in self.items if isinstance(i, tree.Binding)]
        scope = Scope(self.program.scope, {i.name.id: target[i.name.id] for i in bindings})
        alone = [i for i in bindings if _Match(self, target).solve([i], Scope(scope.parent, dict(scope.names))) is None]
        return tuple((i.span, f"cannot be {show(target[i.name.id])}") for i in alone)

    # -- shared --------------------------------------------------------------------------------------

    def _evaluator(self, decide: Decide | None = None) -> Elaborator:
        return Elaborator(self.program.loader.vocabulary, self.program.loader.names.of, decide=decide)

    def _evaluate(self, ev: Elaborator, item: Item, scope: Scope) -> Data:
        ev.draw = [item.name.id]
        value = ev.evaluate(item.value, scope)
        return self.coerced(ev, item, value, scope)

    def coerced(self, ev: Elaborator, item: Item, value: Data, scope: Scope) -> Data:
        """A binding's value as its parameter wants it: a scalar repeated for a per-stage list."""
        if isinstance(item, tree.Let):
            return value
        param = next(p for p in self.base.tree.params if p.name.id == item.name.id)
        return signatures.coerce(ev, value, param.type, item.name.id, scope, item.value.span)


class _Match:
    """One search for the draws under which bindings take given values; lets are decided when first needed."""

    def __init__(self, space: Space, target: Mapping[str, Data]) -> None:
        self.space, self.target = space, target
        self.ev = Elaborator(space.program.loader.vocabulary, space.program.loader.names.of)
        self.lets = {i.name.id: i for i in space.items if isinstance(i, tree.Let)}

    def solve(self, bindings: list[tree.Binding], scope: Scope) -> dict[str, int] | None:
        if not bindings:
            return {}
        item = bindings[0]
        needed = self.undecided(item.value, scope)
        if needed is not None:
            for value, draws in self.outcomes(needed.value, scope, needed.name.id):
                inner = Scope(scope.parent, scope.names | {needed.name.id: value})
                rest = self.solve(bindings, inner)
                if rest is not None:
                    return draws | rest
            return None
        self.ev.draw, self.ev.turns = [item.name.id], []
        mine = self.match(item.value, self.target[item.name.id], scope, item)
        rest = None if mine is None else self.solve(bindings[1:], scope)
        return None if mine is None or rest is None else mine | rest

    def undecided(self, expr: tree.Tree, scope: Scope) -> tree.Let | None:
        """A let that the expression needs, itself needing no other."""
        for name, let in self.lets.items():
            if name not in scope.names and mentions(expr, name):
                return self.undecided(let.value, scope) or let
        return None

    def match(
        self, expr: tree.Expr, target: Data, scope: Scope, whole: tree.Binding | None = None
    ) -> dict[str, int] | None:
        """Draws that make the expression equal `target`. Lists are matched element by element."""
        ev = self.ev
        if isinstance(expr, tree.Group):
            return self.match(expr.inner, target, scope, whole)
        if isinstance(expr, tree.Label) and isinstance(expr.value, tree.Choice):
            outer, ev.draw = ev.draw, [expr.name.id, *ev.turns]
            found = self.match(expr.value, target, scope, whole)
            ev.draw = outer
            return found
        if isinstance(expr, tree.Choice):
            for at, (option, member) in enumerate(ev.alternatives(expr, scope)):
                inner: dict[str, int] | None
                if isinstance(option, tree.Range):
                    inner = {} if self.equal(member, target, scope, whole) else None
                else:
                    ev.draw.append(f"({at})")
                    inner = self.match(option, target, scope, whole)
                    ev.draw.pop()
                if inner is not None:
                    return {".".join(ev.draw): at, **inner}
            return None
        if isinstance(expr, (tree.List, tree.Tuple)):
            parts = [(item, scope) for item in expr.items]
            return self.parts(parts, target, turns=False)
        if isinstance(expr, tree.Comprehension) and not _open(expr.iterable) and expr.condition is None:
            values = ev.iterate(ev.evaluate(expr.iterable, scope), expr.iterable)
            return self.parts([(expr.item, Scope(scope, {expr.name.id: v})) for v in values], target, turns=True)
        for value, draws in self.outcomes(expr, scope):
            if self.equal(value, target, scope, whole):
                return draws
        return None

    def parts(self, parts: list[tuple[tree.Expr, Scope]], target: Data, turns: bool) -> dict[str, int] | None:
        if not isinstance(target, tuple) or len(parts) != len(target):
            return None
        draws: dict[str, int] = {}
        for i, ((expr, scope), wanted) in enumerate(zip(parts, target, strict=True)):
            for stack in (self.ev.draw, self.ev.turns) if turns else (self.ev.draw,):
                stack.append(str(i))
            found = self.match(expr, wanted, scope)
            for stack in (self.ev.draw, self.ev.turns) if turns else (self.ev.draw,):
                stack.pop()
            if found is None:
                return None
            draws |= found
        return draws

    def equal(self, value: Data, target: Data, scope: Scope, whole: tree.Binding | None) -> bool:
        if whole is not None:
            value = self.space.coerced(self.ev, whole, value, scope)
        return key_of(value) == key_of(target)

    def outcomes(self, expr: tree.Expr, scope: Scope, name: str = "") -> Iterator[tuple[Data, dict[str, int]]]:
        """Every value of an expression with the draws behind it."""
        draw, turns = [name] if name else list(self.ev.draw), list(self.ev.turns)

        def evaluate(decide: Decide) -> tuple[Data, dict[str, int]]:
            draws: dict[str, int] = {}

            def noted(name: str, options: int) -> int:
                draws[name] = decide(name, options)
                return draws[name]

            ev = Elaborator(self.ev.vocabulary, self.ev.sites_of, decide=noted)
            ev.draw, ev.turns = list(draw), list(turns)
            return ev.evaluate(expr, scope), draws

        return _outcomes(evaluate)


def _outcomes(evaluate: Callable[[Decide], T]) -> Iterator[T]:
    """Every result of a function of decisions, depth first."""
    prefix: list[int] = []
    while True:
        taken: list[tuple[int, int]] = []

        def decide(name: str, options: int, prefix: list[int] = prefix, taken: list[tuple[int, int]] = taken) -> int:
            at = prefix[len(taken)] if len(taken) < len(prefix) else 0
            taken.append((at, options))
            return at

        yield evaluate(decide)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return
        prefix = [at for at, _ in taken]
        prefix[-1] += 1


def _count(ev: Elaborator, expr: tree.Tree, scope: Scope) -> int:
    """How many ways there are to decide the choices of an expression."""
    if not _open(expr):
        return 1
    match expr:
        case tree.Choice():
            options = ev.alternatives(expr, scope)
            return sum(1 if isinstance(o, tree.Range) else _count(ev, o, scope) for o, _ in options)
        case tree.Comprehension() if not _open(expr.iterable):
            values = ev.iterate(ev.evaluate(expr.iterable, scope), expr.iterable)
            return math.prod(_count(ev, expr.item, Scope(scope, {expr.name.id: v})) for v in values)
        case tree.Conditional() if not _open(expr.condition):
            return _count(ev, expr.then if ev.truth(expr.condition, scope, None) else expr.otherwise, scope)
        case tree.Comprehension() | tree.Conditional():
            # what is drawn decides what else is drawn: the ways have to be walked
            def walk(decide: Decide) -> Data:
                inner = Elaborator(ev.vocabulary, ev.sites_of, decide=decide)
                inner.draw = ["_"]
                return inner.evaluate(expr, scope)

            return sum(1 for _ in _outcomes(walk))
    return math.prod(_count(ev, child, scope) for child in children(expr))


def _walk(node: tree.Tree) -> Iterator[tree.Tree]:
    yield node
    for child in children(node):
        yield from _walk(child)


def _open(expr: tree.Tree) -> bool:
    return any(isinstance(node, tree.Choice) for node in _walk(expr))


def _measured(expr: tree.Tree) -> bool:
    return any(mentions(expr, name) for name in SPACE_NAMES)


def _shapes(expr: tree.Tree, name: str, items: tuple[Item, ...]) -> bool:
    """Whether a name, or a let of `items` that mentions it, decides how many ways an expression has."""
    names = {name}
    for item in items:
        if any(mentions(item.value, known) for known in names):
            names.add(item.name.id)
    for node in _walk(expr):
        deciding: tuple[tree.Tree, ...] = ()
        if isinstance(node, tree.Range):
            deciding = (node,)
        elif isinstance(node, tree.Conditional):
            deciding = (node.condition,)
        elif isinstance(node, tree.Comprehension):
            deciding = (node.iterable, *([node.condition] if node.condition is not None else []))
        if any(mentions(part, known) for part in deciding for known in names):
            return True
    return False


def _written_in(node: tree.Tree, texts: Mapping[str, str]) -> tree.Tree:
    """A tree with names replaced by the text of their values."""
    if isinstance(node, tree.Name):
        return tree.Name(node.span, texts.get(node.id, node.id))
    changes: dict[str, object] = {}
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if field.name == "name" and not isinstance(node, tree.Comprehension):
            continue  # of an argument, an attribute or a label
        if isinstance(value, tree.Tree):
            changes[field.name] = _written_in(value, texts)
        elif isinstance(value, tuple) and value and isinstance(value[0], tree.Tree):
            changes[field.name] = tuple(_written_in(v, texts) for v in value)
    return dataclasses.replace(node, **changes)  # type: ignore[arg-type]
