"""Turns expressions into values: numbers and lists at compile time, tensors where an op is applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from archdsl.diagnostics import ArchError, Diagnostic, Source, Span, did_you_mean, error
from archdsl.frontend import places
from archdsl.frontend.names import Sites
from archdsl.frontend.values import (
    BROKEN,
    Data,
    Function,
    Record,
    Scope,
    Tensor,
    bulk,
    contains_tensor,
    is_int,
    is_number,
    show,
    what,
)
from archdsl.ir import sizes
from archdsl.ir.graph import Graph, Guard
from archdsl.ir.sizes import Condition, Size
from archdsl.ops.vocabulary import Vocabulary
from archdsl.syntax import tree

DEPTH_LIMIT = 100
"""Nested calls: a def that calls itself without end stops here."""
NODE_LIMIT = 60_000
LIST_LIMIT = 100_000
STEP_LIMIT = 500_000
"""Calls, statements and iterations in all: nothing else bounds a recursion that branches, or loops without ops."""
MISTAKE_LIMIT = 20
"""Elaboration stops at this many mistakes."""
RECOVERY_LIMIT = 1000
FATAL = frozenset({"E-RECURSION", "E-TOO-LARGE"})
"""Going on after these could take for ever."""
UNTRACED = frozenset({"E-ARITY", "E-ATTR", "E-PARAMETER", "E-RESIZE"})
"""Mistakes of an op that no shape explains."""

Decide = Callable[[str, int], int]
"""Chooses an alternative of an open choice: (name of the draw, number of options) -> index."""


@dataclass(slots=True)
class Activation:
    """One running body: its call sites, the loop indices around the current statement."""

    sites: Sites
    loops: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Block:
    """One iteration of a `blocks` loop, for the drop-path schedule; `nested` when it contains others."""

    nested: bool = False


class Fallthrough:
    """What a body gives that ends without `return`."""


FALLTHROUGH = Fallthrough()
Outcome: TypeAlias = "Data | Fallthrough"


class Evaluator:
    """Evaluates the expressions of one program, and holds what evaluation knows: scopes, paths, mistakes."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        sites: Callable[[tree.Tree, Sequence[tree.Tree], bool], Sites],
        mode: str = "eval",
        decide: Decide | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.sites_of = sites
        self.mode = mode
        self.mode_read = False
        """Whether anything so far depended on the mode."""
        self.decide = decide
        self.draw: list[str] = []
        """Where a choice stands: its binding, then indices and the alternatives taken around it."""
        self.turns: list[str] = []
        """Iterations of the comprehensions around the current expression: they also tell named choices apart."""
        self.drawn: dict[str, Span] = {}
        self.graph: Graph | None = None
        self.module = ""
        """Weight path of the current scope."""
        self.call_path = ""
        self.region = 0
        self.depth = 0
        self.reuse = False
        self.taken: dict[str, int] = {}
        self.guarded: set[Condition] = set()
        self.blocks: list[Block] = []
        self.block: Block | None = None
        self.drop_paths: list[tuple[str, Block]] = []
        self.deferred: list[tuple[tree.Require, Scope]] = []
        self.input_size: tuple[int, int, int] | None = None
        self.pending: set[str] = set()
        """Parameters of the arch that have no value yet."""
        self.found: dict[tuple[str, Span | None], Diagnostic] = {}
        """Mistakes that elaboration went on after."""
        self.recoveries = 0
        self.steps = 0
        self.returned: Span | None = None
        """The expression that the last body to end returned."""
        self.calls: list[Span] = []
        """Callees of the defs, lambdas and externs that are running, outermost first."""
        self.home: Source | None = None
        """The file whose author the messages are for."""
        self.declared: tree.Arch | tree.Variant | None = None
        self._expr: dict[type, Callable[[tree.Tree, Scope, Activation | None], Data]] = {
            tree.Name: self.e_name,
            tree.Number: lambda t, s, a: t.value,  # type: ignore[attr-defined]
            tree.String: lambda t, s, a: t.value,  # type: ignore[attr-defined]
            tree.Group: lambda t, s, a: self.evaluate(t.inner, s, a),  # type: ignore[attr-defined]
            tree.Tuple: self.e_list,
            tree.List: self.e_list,
            tree.Comprehension: self.e_comprehension,
            tree.Choice: self.e_choice,
            tree.Config: self.e_config,
            tree.Call: self.e_call,
            tree.Attribute: self.e_attribute,
            tree.Label: self.e_label,
            tree.Unary: self.e_unary,
            tree.Binary: self.e_binary,
            tree.Compare: self.e_compare,
            tree.Range: self.e_range,
            tree.Pipe: self.e_pipe,
            tree.Conditional: self.e_conditional,
            tree.Lambda: self.e_lambda,
        }

    # -- errors --------------------------------------------------------------------------------

    def fail(
        self, code: str, title: str, span: Span | None, notes: Sequence[tuple[Span, str]] = (), **more: object
    ) -> ArchError:
        notes = (*notes, *self.whence(span))
        return error(code, title, span, **{"path": self.call_path, "notes": notes, **more})

    def whence(self, span: Span | None) -> Iterator[tuple[Span, str]]:
        """Where the user's own file led to a place in another one, and the variant it happens in."""
        if span is not None and self.home is not None and span.source is not self.home:
            call = next((c for c in reversed(self.calls) if c.source is self.home), None)
            if call is not None:
                yield call, "called here"
        if isinstance(self.declared, tree.Variant) and not (span and _within(span, self.declared.span)):
            yield self.declared.name.span, "in this variant"

    def recover(self, e: ArchError, assigned: Iterable[str], scope: Scope) -> None:
        """Notes mistakes and goes on; what would have been assigned has no value, and its uses are no mistakes."""
        self.note(e)
        self.recoveries += 1
        if self.recoveries > RECOVERY_LIMIT or len(self.found) >= MISTAKE_LIMIT:
            raise e
        for name in assigned:
            scope.names[name] = BROKEN

    def note(self, e: ArchError) -> None:
        for d in e.diagnostics:
            self.found.setdefault((d.code, d.span), d)
        if any(d.code in FATAL for d in e.diagnostics):
            raise e

    def report(self) -> None:
        """Raises the mistakes found so far, if any."""
        if self.found:
            raise ArchError(*self.found.values())

    def spend(self, steps: int, span: Span | None) -> None:
        """Counts the work of elaboration. Raises E-TOO-LARGE where it would not end in reasonable time."""
        self.steps += steps
        if self.steps > STEP_LIMIT:
            raise self.fail(
                "E-TOO-LARGE",
                f"elaboration takes more than {STEP_LIMIT} steps",
                span,
                help="a recursion or nested loops grow out of bounds here",
            )

    # -- expressions -----------------------------------------------------------------------------

    def evaluate(self, t: tree.Tree, scope: Scope, act: Activation | None = None) -> Data:
        return self._expr[type(t)](t, scope, act)

    def e_name(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Name)
        at: Scope | None = scope
        while at is not None:
            if t.id in at.names:
                value = at.names[t.id]
                if value is BROKEN:
                    raise ArchError()
                return value
            at = at.parent
        if t.id in ("training", "deploy"):
            self.mode_read = True
            return self.mode == ("train" if t.id == "training" else "deploy")
        raise self.fail(
            "E-NAME",
            f"`{t.id}` has no value here",
            t.span,
            help=f"parameters get their values in the order they are declared in, and `{t.id}` comes later"
            if t.id in self.pending
            else did_you_mean(t.id, scope.visible()) or "it is assigned only on a path that was not taken",
        )

    def e_list(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, (tree.List, tree.Tuple))
        out = []
        for i, item in enumerate(t.items):
            self.draw.append(str(i))
            try:
                out.append(self.evaluate(item, scope, act))
            finally:
                self.draw.pop()
        return self.bounded(tuple(out), t)

    def e_comprehension(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Comprehension)
        out = []
        for i, v in enumerate(self.iterate(self.evaluate(t.iterable, scope, act), t.iterable)):
            inner = Scope(scope, {t.name.id: v})
            if act is not None:
                act.loops.append(i)
            self.draw.append(str(i))
            self.turns.append(str(i))
            try:
                if t.condition is None or self.truth(t.condition, inner, act):
                    out.append(self.evaluate(t.item, inner, act))
            finally:
                self.draw.pop()
                self.turns.pop()
                if act is not None:
                    act.loops.pop()
        return self.bounded(tuple(out), t)

    def bounded(self, value: Data, t: tree.Tree) -> Data:
        """The list or function, unless it holds too much: a list of a list of a list doubles with every line."""
        if bulk(value, LIST_LIMIT + 1) > LIST_LIMIT:
            raise self.fail("E-TOO-LARGE", f"a list of more than {LIST_LIMIT} values", t.span)
        return value

    def e_choice(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Choice)
        if self.decide is None:
            raise self.fail(
                "E-CHOICE",
                "an open choice {a | b}: build needs a concrete value",
                t.span,
                help="write one of the alternatives; only a space leaves choices open",
            )
        name = ".".join(self.draw)
        if name in self.drawn:
            raise self.fail(
                "E-CHOICE",
                f"two choices are drawn as `{name}`",
                t.span,
                notes=((self.drawn[name], "the other one"),),
                help=f"name each of them, as in {{16 | 32}}@{self.draw[0] if self.draw else 'width'}_a",
            )
        self.drawn[name] = t.span
        options = self.alternatives(t, scope, act)
        at = self.decide(name, len(options))
        chosen, value = options[at]
        if isinstance(chosen, tree.Range):
            return value
        self.draw.append(f"({at})")
        try:
            return self.evaluate(chosen, scope, act)
        finally:
            self.draw.pop()

    def alternatives(self, t: tree.Choice, scope: Scope, act: Activation | None = None) -> list[tuple[tree.Expr, Data]]:
        """What a choice chooses from: expressions, and (the range, a member) for each member of a range."""
        options: list[tuple[tree.Expr, Data]] = []
        for option in t.options:
            if isinstance(option, tree.Range):
                members = self.evaluate(option, scope, act)
                assert isinstance(members, tuple)
                options += [(option, m) for m in members]
            else:
                options.append((option, None))
        if not options:
            raise self.fail("E-CHOICE", "a choice between no values", t.span)
        return options

    def e_range(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Range)
        parts = [t.start, t.stop, t.step]
        start, stop, step = (1 if p is None else self.integer(self.evaluate(p, scope, act), p) for p in parts)
        if step < 1:
            raise self.fail("E-VALUE", f"a range steps by at least 1, got {step}", t.span)
        if (stop - start) // step > LIST_LIMIT:
            raise self.fail("E-TOO-LARGE", f"a range of {(stop - start) // step + 1} values", t.span)
        return tuple(range(start, stop + 1, step))

    def e_conditional(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Conditional)
        return self.evaluate(t.then if self.truth(t.condition, scope, act) else t.otherwise, scope, act)

    def e_lambda(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Lambda)
        return Function("fn", t, scope)

    def e_label(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Label)
        if isinstance(t.value, tree.Choice):
            outer, self.draw = self.draw, [t.name.id, *self.turns]
            try:
                return self.evaluate(t.value, scope, act)
            finally:
                self.draw = outer
        return self.evaluate(t.value, scope, act)

    def e_attribute(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Attribute)
        value = self.evaluate(t.value, scope, act)
        if isinstance(value, Record) and t.name.id in value.names:
            return value.fields(t.name.id)
        if isinstance(value, Tensor):
            kind, name = value.type.kind, t.name.id
            if kind == "map" and name in ("H", "W"):
                return value.type.dims["CHW".index(name)]
            if name == "C" and kind != "frame":
                return value.type.channels
            if name == "N" and kind in ("map", "tokens"):
                return value.type.positions
        raise self.fail(
            "E-ATTRIBUTE",
            f"{what(value)} has no attribute `.{t.name.id}`",
            t.name.span,
            help=_attributes_of(value),
        )

    def e_unary(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Unary)
        if t.op == "not":
            return not self.truth(t.value, scope, act)
        value = self.evaluate(t.value, scope, act)
        if isinstance(value, Tensor):
            return self.apply_op("neg", {}, [value], t)
        if not is_number(value):
            raise self.fail("E-VALUE", f"`-` needs a number or a tensor, got {what(value)}", t.value.span)
        return 0 - value if isinstance(value, int) else -value  # type: ignore[operator]

    def e_binary(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Binary)
        if t.op == "and":
            return self.truth(t.left, scope, act) and self.truth(t.right, scope, act)
        if t.op == "or":
            return self.truth(t.left, scope, act) or self.truth(t.right, scope, act)
        return self.arithmetic(t.op, self.evaluate(t.left, scope, act), self.evaluate(t.right, scope, act), t)

    def arithmetic(self, op: str, a: Data, b: Data, t: tree.Tree) -> Data:
        """a op b on numbers, lists and tensors. Integer `/` must be exact."""
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return self.tensor_arithmetic(op, a, b, t)
        if isinstance(a, tuple) or isinstance(b, tuple):
            if op == "+" and isinstance(a, tuple) and isinstance(b, tuple):
                out = a + b
            elif op == "*" and isinstance(a, tuple) and is_int(b):
                out = self.repeated(a, int(b), t)  # type: ignore[arg-type]
            elif op == "*" and isinstance(b, tuple) and is_int(a):
                out = self.repeated(b, int(a), t)  # type: ignore[arg-type]
            else:
                raise self.undefined(op, a, b, t, "lists support list + list and list * integer")
            return self.bounded(out, t)
        if not (is_number(a) and is_number(b)):
            raise self.undefined(op, a, b, t)
        assert isinstance(a, (int, float)) and isinstance(b, (int, float))
        if op in ("/", "//", "%") and b == 0:
            raise self.fail("E-VALUE", f"{show(a)} {op} 0 has no value", places.positional(t, 1, 2), label="this is 0")
        if isinstance(a, int) and isinstance(b, int):
            return self.integer_arithmetic(op, a, b, t)
        x, y = float(self.concrete(a, t)), float(self.concrete(b, t))  # type: ignore[arg-type]
        operations: dict[str, Callable[[], float | complex]] = {
            "+": lambda: x + y,
            "-": lambda: x - y,
            "*": lambda: x * y,
            "/": lambda: x / y,
            "//": lambda: x // y,
            "%": lambda: x % y,
            "^": lambda: x**y,
        }
        try:
            value = operations[op]()
        except (OverflowError, ZeroDivisionError, ValueError):
            value = math.nan
        if isinstance(value, complex) or not math.isfinite(value):
            raise self.fail("E-VALUE", f"{show(a)} {op} {show(b)} has no finite value", t.span)
        return value

    def integer_arithmetic(self, op: str, a: int, b: int, t: tree.Tree) -> Data:
        if op == "/":
            if a % b:
                raise self.fail(
                    "E-DIVISION",
                    f"{a} / {b} is not an integer",
                    t.span,
                    help=f"use {a} // {b} to floor, or write {a}.0 / {b} for a ratio",
                )
            if isinstance(a, Size) or isinstance(b, Size):
                self.guard(Condition("==", sizes.expr_of(a % b), 0), f"{a} / {b} is exact", t.span)
            return sizes.combine("//", a, b)
        if op == "^":
            if b < 0:
                if not a:
                    raise self.fail("E-VALUE", f"0 ^ {b} has no value", t.span)
                return float(a) ** b
            if abs(a) > 1 and b > 64:
                raise self.fail("E-TOO-LARGE", f"{a} ^ {b} is too large", t.span, help="integers stay below 2 ^ 62")
            out = 1
            for _ in range(b if abs(a) > 1 else min(b, 2 + b % 2)):
                out = sizes.combine("*", out, a)
        else:
            out = sizes.combine(op, a, b)
        if abs(out) >= 1 << 62:
            raise self.fail("E-TOO-LARGE", f"{a} {op} {b} is too large", t.span, help="integers stay below 2 ^ 62")
        return out

    def undefined(self, op: str, a: Data, b: Data, t: tree.Tree, hint: str = "") -> ArchError:
        """An operator between values it is not defined for; the one that is no number or tensor is underlined."""
        at = 0 if is_number(b) or isinstance(b, Tensor) else 1
        wrong = (a, b)[at]
        if isinstance(wrong, Function):
            hint = f"call it: {show(wrong)}(x)"
        elif isinstance(wrong, str) and not hint and wrong.isdigit():
            hint = f"write {wrong}, without quotes"
        span = places.positional(t, at, 2)
        return self.fail("E-VALUE", f"`{op}` is not defined between {what(a)} and {what(b)}", span, help=hint)

    def repeated(self, items: tuple[Data, ...], times: int, t: tree.Tree) -> tuple[Data, ...]:
        if len(items) * times > LIST_LIMIT:
            raise self.fail("E-TOO-LARGE", f"a list of {len(items) * times} values", t.span)
        return items * times

    def tensor_arithmetic(self, op: str, a: Data, b: Data, t: tree.Tree) -> Data:
        name = {"+": "add", "-": "sub", "*": "mul", "/": "div"}.get(op)
        if name is None:
            raise self.fail(
                "E-VALUE", f"`{op}` is not defined on tensors", t.span, help="tensors take + - * /, and `square`"
            )
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return self.apply_op(name, {}, [a, b], t)
        x, other, swap = (a, b, False) if isinstance(a, Tensor) else (b, a, True)
        assert isinstance(x, Tensor)
        if not is_number(other):
            raise self.undefined(op, a, b, t)
        by = float(self.concrete(other, t))  # type: ignore[arg-type]
        config: dict[str, Data] = {"by": by}
        if swap and name in ("sub", "div"):
            config["swap"] = True
        return self.apply_op(name, config, [x], t)

    def e_compare(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Compare)
        left = self.evaluate(t.first, scope, act)
        before = t.first
        for op, expr in zip(t.ops, t.rest, strict=True):
            right = self.evaluate(expr, scope, act)
            if contains_tensor(left) or contains_tensor(right):
                raise self.fail(
                    "E-TENSOR-CONDITION",
                    f"`{op}` compares {what(left)} with {what(right)}: control flow is decided at compile time",
                    (before if contains_tensor(left) else expr).span,
                    help="static top-k is `select`; data-dependent execution is an `extern` plugin",
                )
            if not self.compare(op, left, right, t):
                return False
            left, before = right, expr
        return True

    def compare(self, op: str, a: Data, b: Data, t: tree.Tree) -> bool:
        if op in ("==", "!="):
            equal = (a.key() == b.key()) if isinstance(a, Function) and isinstance(b, Function) else a == b
            outcome = equal == (op == "==")
        elif is_number(a) and is_number(b):
            assert isinstance(a, (int, float)) and isinstance(b, (int, float))
            outcome = {
                "<": a < b,
                "<=": a <= b,
                ">": a > b,
                ">=": a >= b,
                "~=": abs(a - b) <= 0.005 * abs(b),
            }[op]
        else:
            raise self.fail("E-VALUE", f"cannot compare {what(a)} {op} {what(b)}", t.span)
        if isinstance(a, Size) or isinstance(b, Size):
            if isinstance(a, int) and isinstance(b, int) and op != "~=":
                negated = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
                taken = Condition(op if outcome else negated[op], sizes.expr_of(a), sizes.expr_of(b))
                self.guard(taken, "a comparison of sizes", t.span)
            else:
                self.concrete(a, t)
                self.concrete(b, t)
        return outcome

    def truth(self, t: tree.Expr, scope: Scope, act: Activation | None) -> bool:
        value = self.evaluate(t, scope, act)
        if isinstance(value, bool):
            return value
        if isinstance(value, Tensor):
            raise self.fail(
                "E-TENSOR-CONDITION",
                f"this condition is {what(value)}: control flow is decided at compile time",
                t.span,
                help="static top-k is `select`; data-dependent execution is an `extern` plugin",
            )
        hint = f"compare it: {places.shown(t)} != 0" if is_number(value) and isinstance(t, tree.Name) else ""
        raise self.fail("E-VALUE", f"a condition must be true or false, got {what(value)}", t.span, help=hint)

    def integer(self, value: Data, t: tree.Tree) -> int:
        if not is_int(value):
            raise self.fail(
                "E-VALUE",
                f"an integer is needed here, got {what(value)}",
                t.span,
                help="use // to floor, or round(...)",
            )
        return int(self.concrete(value, t))  # type: ignore[arg-type]

    def concrete(self, value: Data, t: tree.Tree) -> Data:
        """The value without its size expression, which is recorded as a guard."""
        if isinstance(value, Size):
            assert self.graph is not None
            for condition in sizes.pins(value, self.graph.axes):
                self.guard(condition, "a size used as a number", t.span)
            return int(value)
        if isinstance(value, tuple):
            return tuple(self.concrete(v, t) for v in value)
        return value

    def guard(self, condition: Condition, decision: str, span: Span | None) -> None:
        assert self.graph is not None
        if condition not in self.guarded:
            self.guarded.add(condition)
            self.graph.guards.append(Guard(condition, decision, span))

    def iterate(self, value: Data, t: tree.Tree) -> Iterator[Data]:
        if is_int(value):
            n = self.integer(value, t)
            if n > LIST_LIMIT:
                raise self.fail(
                    "E-TOO-LARGE", f"a loop of {n} iterations", t.span, help=f"a loop has at most {LIST_LIMIT}"
                )
            self.spend(max(0, n), t.span)
            return iter(range(n))
        if isinstance(value, tuple):
            self.spend(len(value), t.span)
            return iter(value)
        raise self.fail(
            "E-VALUE", f"cannot loop over {what(value)}", t.span, help="loop over an int, a range a..b, or a list"
        )

    # -- what other modules add ----------------------------------------------------------------------

    def e_config(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        raise NotImplementedError

    def e_call(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        raise NotImplementedError

    def e_pipe(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        raise NotImplementedError

    def apply_op(self, name: str, config: dict[str, Data], operands: Sequence[Tensor], t: tree.Tree) -> Data:
        raise NotImplementedError


def _within(span: Span, outer: Span) -> bool:
    return (
        span.source is outer.source
        and (outer.line, outer.column) <= (span.line, span.column)
        and (span.end_line, span.end_column) <= (outer.end_line, outer.end_column)
    )


def _attributes_of(value: Data) -> str:
    if not isinstance(value, Tensor):
        return "only tensors have attributes: x.C, x.H"
    known = {
        "map": "a map has .C .H .W .N",
        "tokens": "tokens have .N .C; to_map[H, W](x) gives them a grid",
        "vec": "a vec has .C",
        "scores": "scores have .C",
    }
    return known.get(value.type.kind, "")
