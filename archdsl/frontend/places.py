"""Turns a mistake about one value of an expression into the smallest text that value came from."""

from __future__ import annotations

from collections.abc import Sequence

from archdsl.diagnostics import Span
from archdsl.syntax import tree


def callee(t: tree.Tree) -> Span:
    """`f[...]` of f[...](x)."""
    return t.callee.span if isinstance(t, tree.Call) else t.span


def positional(t: tree.Tree, at: int, given: int) -> Span:
    """The `at`-th of `given` positional values of a call or operator; the callee for one that was piped in."""
    match t:
        case tree.Binary():
            return (t.left, t.right)[at].span
        case tree.Update():
            return (t.name, t.value)[at].span
        case tree.Unary():
            return t.value.span
        case tree.Call():
            written = [a for a in t.args if a.name is None]
            at -= given - len(written)
            if 0 <= at < len(written):
                return written[at].span
    return callee(t)


def piped(t: tree.Tree, given: int) -> int:
    """How many of `given` positional values a pipe brought."""
    return given - sum(a.name is None for a in t.args) if isinstance(t, tree.Call) else given


def named(t: tree.Tree, name: str) -> tree.Arg | None:
    """The argument `name = value` in the parentheses of a call."""
    args = t.args if isinstance(t, tree.Call) else ()
    return next((a for a in args if a.name is not None and a.name.id == name), None)


def operand(t: tree.Tree, name: str, at: int, given: int) -> Span:
    """The text of an operand, by name or by position."""
    argument = named(t, name)
    return argument.value.span if argument is not None else positional(t, at, given)


def every(t: tree.Tree) -> Span:
    """All arguments of a call together; the callee where a pipe brought them."""
    if isinstance(t, tree.Call) and t.args:
        return t.args[0].span.to(t.args[-1].span)
    return callee(t)


def static(t: tree.Tree, name: str, declared: Sequence[str], variadic: str = "") -> Span | None:
    """The text that gave a compile-time parameter its value in f[...](...), by name or by position."""
    expr = t.callee if isinstance(t, tree.Call) else t
    layers = []
    while isinstance(expr, (tree.Config, tree.Label)):
        if isinstance(expr, tree.Config):
            layers.append(expr)
        expr = expr.callee if isinstance(expr, tree.Config) else expr.value
    free = list(declared)
    for layer in reversed(layers):
        unnamed = [a for a in layer.args if a.name is None]
        if variadic == name and unnamed:
            return unnamed[0].span.to(unnamed[-1].span)
        given = {a.name.id: a.value.span for a in layer.args if a.name is not None}
        places = dict(zip([n for n in free if n not in given], [a.span for a in unnamed], strict=False)) | given
        if name in places:
            return places[name]
        free = [n for n in free if n not in places]
    return None


def shown(t: tree.Tree) -> str:
    """A tree's text as it was written, on one line."""
    span = t.span
    lines = list(span.source.lines[span.line - 1 : span.end_line])
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return " ".join(line.strip() for line in lines)
