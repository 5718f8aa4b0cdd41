"""Turns the reductions of the surface grammar into tree nodes with spans, bottom-up and without recursion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TypeAlias, TypeVar

from archdsl.diagnostics import ArchError, Diagnostic, Source, Span, error
from archdsl.syntax import tree
from archdsl.syntax.lalr import Token
from archdsl.syntax.tree import Tree

LANGUAGE = 1
MAX_DEPTH = 100
"""Of the tree. Later phases walk it recursively; this keeps them far from Python's recursion limit."""

WORDS = frozenset({"true", "false", "none", "rest", "training", "deploy"})
"""Reserved words that are values."""

RESERVED = WORDS | {
    "import", "from", "as", "let", "def", "rep", "extern", "arch", "check", "space", "input", "share", "return",
    "if", "then", "else", "for", "in", "by", "blocks", "stage", "stem", "head", "require", "minimize", "maximize",
    "seed", "fn", "and", "or", "not", "language",
}  # fmt: skip

SCALES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
UNITS = {"FLOPs": "MACs", "MACs": "MACs", "B": "B", "": ""}
_NUMBER = re.compile(r"(\d+)(\.\d+)?(?:[eE]([+-]?\d+))?(?:(ms|us)|([kKMGT]?)(FLOPs|MACs|B|))")

Node = TypeVar("Node", bound=Tree)


@tree.node
class Part(Tree):
    """A stretch of a rule without a node of its own; `kind` is the rule's name."""

    kind: str
    items: tuple[Tree | None, ...]


Child: TypeAlias = Token | Tree
Children: TypeAlias = Sequence[Child]


class Builder:
    """One method a grammar rule. `mistakes` collects what is wrong beyond the grammar while the reading goes on."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.mistakes: list[Diagnostic] = []
        self._depth: dict[int, int] = {}

    # -- top level -------------------------------------------------------------------------

    def start(self, c: Children) -> tuple[tree.Number | None, tuple[tree.Item, ...]]:
        version = c[0] if c and isinstance(c[0], tree.Number) else None
        return version, tuple(x for x in c if not isinstance(x, tree.Number))  # type: ignore[misc]

    def version(self, c: Children) -> tree.Number:
        number = self.number(c[1:])
        if number.text != str(LANGUAGE):
            raise error(
                "E-VERSION",
                f"this file is written in language {number.text}; this archdsl reads language {LANGUAGE}",
                number.span,
                help=f"use a newer archdsl, or bring the file to language {LANGUAGE}",
            )
        return number

    def import_(self, c: Children) -> tree.Import:
        return self._node(tree.Import, c, _all(tree.ImportName, c), _one(tree.String, c))

    def import_name(self, c: Children) -> tree.ImportName:
        names = [self._bound(t) for t in _tokens("NAME", c)]
        return self._node(tree.ImportName, c, names[0], names[1] if len(names) > 1 else None)

    def let(self, c: Children) -> tree.Let:
        return self._node(tree.Let, c, self._bound(c[1]), c[3])

    def def_(self, c: Children) -> tree.Def:
        rep = _has("REP", c)
        name = self._bound(_tokens("NAME", c)[0])
        return self._node(tree.Def, c, rep, name, _items("statics", c), _items("ports", c), _items("results", c), c[-1])

    def extern(self, c: Children) -> tree.Extern:
        return self._node(
            tree.Extern,
            c,
            self._bound(c[1]),
            _items("statics", c),
            _items("ports", c),
            _items("results", c),
            _one(tree.String, c),
            _all(tree.Binding, c),
        )

    def arch(self, c: Children) -> tree.Arch:
        return self._node(tree.Arch, c, self._bound(c[1]), _items("statics", c), c[-1])

    def variant(self, c: Children) -> tree.Variant:
        return self._node(tree.Variant, c, self._bound(c[1]), c[3])

    def check(self, c: Children) -> tree.Check:
        return self._node(tree.Check, c, self._bound(c[1]), _trees(c))

    def space(self, c: Children) -> tree.Space:
        return self._node(tree.Space, c, self._bound(c[1]), self._bound(c[3]), _trees(c))

    def binding(self, c: Children) -> tree.Binding:
        return self._node(tree.Binding, c, self._bound(c[0]), c[2])

    def goal(self, c: Children) -> tree.Goal:
        return self._node(tree.Goal, c, str(c[0]), c[1])

    def seed(self, c: Children) -> tree.Seed:
        return self._node(tree.Seed, c, c[1])

    # -- signatures ------------------------------------------------------------------------

    def statics(self, c: Children) -> Part:
        return self._part("statics", c)

    def ports(self, c: Children) -> Part:
        return self._part("ports", c)

    def results(self, c: Children) -> Part:
        return self._part("results", c)

    def param(self, c: Children) -> tree.Param:
        type_ = _all(tree.TypeRef, c)
        default = c[-1] if _has("EQUAL", c) else None
        return self._node(tree.Param, c, self._bound(c[0]), type_[0] if type_ else None, default)

    def type_(self, c: Children) -> tree.TypeRef:
        return self._node(tree.TypeRef, c, self._bound(c[0], "a type"), _items("dims", c), _has("OPTIONAL", c))

    def fn_type(self, c: Children) -> tree.TypeRef:
        return self._node(tree.TypeRef, c, self._name(c[0]), _items("dims", c), _has("OPTIONAL", c))

    def fn_signature(self, c: Children) -> tree.TypeRef:
        ports, results = _items("fn_ports", c), _items("fn_results", c)
        return self._node(tree.TypeRef, c, self._name(c[0]), (), False, ports, results)

    def fn_list(self, c: Children) -> tree.TypeRef:
        inner = _one(tree.TypeRef, c)
        dims, optional = _items("dims", c), _has("OPTIONAL", c)
        return self._node(tree.TypeRef, c, inner.name, dims, optional, inner.ports, inner.results)

    def fn_ports(self, c: Children) -> Part:
        return self._part("fn_ports", c)

    def fn_results(self, c: Children) -> Part:
        return self._part("fn_results", c)

    def dims(self, c: Children) -> Part:
        kept = tuple(x if isinstance(x, Tree) else None for x in c if isinstance(x, Tree) or x.type == "ELLIPSIS")
        return self._node(Part, c, "dims", kept)

    # -- statements ------------------------------------------------------------------------

    def body(self, c: Children) -> tree.Body:
        return self._node(tree.Body, c, _trees(c))

    def input_(self, c: Children) -> tree.Input:
        return self._node(tree.Input, c, self._bound(c[1]), c[3])

    def assign(self, c: Children) -> tree.Assign:
        return self._node(tree.Assign, c, tuple(self._bound(t) for t in _tokens("NAME", c)), c[-1])

    def update(self, c: Children) -> tree.Update:
        return self._node(tree.Update, c, self._bound(c[0]), str(c[1])[0], c[2])

    def share(self, c: Children) -> tree.Share:
        return self._node(tree.Share, c, self._bound(c[1]), c[3])

    def return_(self, c: Children) -> tree.Return:
        return self._node(tree.Return, c, _trees(c))

    def if_(self, c: Children) -> tree.If:
        return self._node(tree.If, c, c[1], c[2], c[4] if len(c) > 3 else None)

    def for_(self, c: Children) -> tree.For:
        names = [self._bound(t) for t in _tokens("NAME", c)]
        return self._node(tree.For, c, names[0] if len(names) > 1 else None, names[-1], c[-2], c[-1])

    def blocks(self, c: Children) -> tree.Blocks:
        names = _tokens("NAME", c)
        label = self._name(names.pop(0)) if _has("AT", c) else None
        index = self._bound(names[0]) if names else None
        return self._node(tree.Blocks, c, label, index, c[-2], c[-1])

    def stage(self, c: Children) -> tree.Stage:
        name, *results = (self._bound(t) for t in _tokens("NAME", c))
        iterable = c[3] if _has("IN", c) else None
        return self._node(tree.Stage, c, name, iterable, tuple(results), c[-1])

    def region(self, c: Children) -> tree.RegionBlock:
        return self._node(tree.RegionBlock, c, str(c[0]), c[1])

    def require(self, c: Children) -> tree.Require:
        return self._node(tree.Require, c, c[1], c[3] if len(c) > 2 else None)

    # -- expressions -----------------------------------------------------------------------

    def cond(self, c: Children) -> tree.Conditional:
        return self._node(tree.Conditional, c, c[1], c[3], c[5])

    def lambda_(self, c: Children) -> tree.Lambda:
        return self._node(tree.Lambda, c, tuple(self._bound(t) for t in _tokens("NAME", c)), c[-1])

    def range_(self, c: Children) -> tree.Range:
        return self._node(tree.Range, c, c[0], c[2], c[4] if len(c) > 3 else None)

    def pipe(self, c: Children) -> tree.Pipe:
        value, *stages = _trees(c)
        return self._node(tree.Pipe, c, value, tuple(stages))

    def binary(self, c: Children) -> tree.Binary:
        return self._node(tree.Binary, c, str(c[1]), c[0], c[2])

    def unary(self, c: Children) -> tree.Unary:
        return self._node(tree.Unary, c, str(c[0]), c[1])

    def compare(self, c: Children) -> tree.Compare:
        first, *rest = _trees(c)
        return self._node(tree.Compare, c, first, tuple(map(str, c[1::2])), tuple(rest))

    def name(self, c: Children) -> tree.Name:
        if c[0] in ("if", "fn", "not"):
            self.mistakes.append(
                Diagnostic(
                    "E-SYNTAX",
                    f"`{c[0]} ...` is not an operand",
                    self._span(c[0], c[0]),
                    help="put it in parentheses: a + (if c then x else y)",
                )
            )
        elif c[0] in RESERVED and c[0] not in WORDS:
            span = self._span(c[0], c[0])
            if span.source.lines[span.line - 1][: span.column - 1].strip():
                self._reserved(_token(c[0]), "a value")
            else:
                title = f"an expression is missing before `{c[0]}`"
                self.mistakes.append(Diagnostic("E-SYNTAX", title, span, help="finish the line before it"))
        return self._node(tree.Name, c, str(c[0]))

    def number(self, c: Children) -> tree.Number:
        text = str(c[0])
        value, unit = number(text, self._span(c[0], c[0]))
        return self._node(tree.Number, c, text, value, unit)

    def string(self, c: Children) -> tree.String:
        return self._node(tree.String, c, str(c[0])[1:-1])

    def group(self, c: Children) -> tree.Group:
        return self._node(tree.Group, c, c[1])

    def tuple_(self, c: Children) -> tree.Tuple:
        return self._node(tree.Tuple, c, _trees(c))

    def list_(self, c: Children) -> tree.List:
        return self._node(tree.List, c, _trees(c))

    def comprehension(self, c: Children) -> tree.Comprehension:
        item, iterable, *condition = _trees(c)
        return self._node(tree.Comprehension, c, item, self._bound(c[3]), iterable, condition[0] if condition else None)

    def choice(self, c: Children) -> tree.Choice:
        return self._node(tree.Choice, c, _trees(c))

    def config(self, c: Children) -> tree.Config:
        self._same_line(c)
        return self._node(tree.Config, c, c[0], _all(tree.Arg, c))

    def call(self, c: Children) -> tree.Call:
        self._same_line(c)
        return self._node(tree.Call, c, c[0], _all(tree.Arg, c))

    def attribute(self, c: Children) -> tree.Attribute:
        return self._node(tree.Attribute, c, c[0], self._name(c[2]))

    def label(self, c: Children) -> tree.Label:
        return self._node(tree.Label, c, c[0], self._name(c[2]))

    def arg(self, c: Children) -> tree.Arg:
        return self._node(tree.Arg, c, self._name(c[0]) if len(c) > 1 else None, c[-1])

    # -- shared ----------------------------------------------------------------------------

    def _node(self, kind: type[Node], c: Children, *fields: object) -> Node:
        span = self._span(c[0], c[-1])
        depth = 1 + max((self._depth[id(x)] for x in c if isinstance(x, Tree)), default=0)
        if depth > MAX_DEPTH:
            raise too_deep(span)
        node = kind(span, *fields)
        self._depth[id(node)] = depth
        return node

    def _part(self, kind: str, c: Children) -> Part:
        return self._node(Part, c, kind, _trees(c))

    def _span(self, first: Child, last: Child) -> Span:
        start, end = self._place(first), self._place(last)
        return Span(self.source, start[0], start[1], end[2], end[3])

    @staticmethod
    def _place(x: Child) -> tuple[int, int, int, int]:
        if isinstance(x, Tree):
            return x.span.line, x.span.column, x.span.end_line, x.span.end_column
        return x.line or 1, x.column or 1, x.end_line or 1, x.end_column or 1

    def _name(self, child: Child) -> tree.Name:
        """A name where any word will do: a label, an attribute, an argument's name."""
        return tree.Name(self._span(child, child), str(_token(child)))

    def _bound(self, child: Child, role: str = "a name") -> tree.Name:
        """A name of the user's making, which no reserved word may be."""
        token = _token(child)
        if str(token) in RESERVED:
            self._reserved(token, role)
        return self._name(token)

    def _reserved(self, token: Token, role: str) -> None:
        self.mistakes.append(reserved(str(token), self._span(token, token), role))

    def _same_line(self, c: Children) -> None:
        # Newlines are whitespace, so `x = a` followed by a line `(b)` would silently mean a(b).
        callee, bracket = c[0], _token(c[1])
        assert isinstance(callee, Tree)
        if bracket.line != callee.span.end_line:
            self.mistakes.append(
                Diagnostic(
                    "E-JUXTAPOSED",
                    f"`{bracket}` at the start of a line is read as part of the line before it",
                    self._span(bracket, bracket),
                    notes=((callee.span, "applied to this"),),
                    help=f"no statement begins with `{bracket}`; to apply the line before, put `{bracket}` at its end",
                )
            )


def reserved(word: str, span: Span, role: str = "a name") -> Diagnostic:
    return Diagnostic(
        "E-RESERVED",
        f"`{word}` is a reserved word, it cannot be {role}",
        span,
        help=f"choose another name; a label (@{word}), an attribute (.{word}) or an argument name may be `{word}`",
    )


def too_deep(span: Span) -> ArchError:
    start = replace(span, end_line=span.line, end_column=span.column + 1)
    return error(
        "E-NESTING",
        f"nested more than {MAX_DEPTH} deep",
        start,
        help="name a part with `let`, `def` or an assignment, and use the name",
    )


def number(text: str, span: Span | None = None) -> tuple[int | float, str]:
    """Value in base units, and the unit: "" (k M G T included), "MACs", "B" or "s". Raises E-NUMBER."""
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > 60 or abs(int(match[3] or 0)) > 200:
        raise error(
            "E-NUMBER",
            "a number of this size has no use here",
            span,
            help="at most 60 digits, 1e-200 to 1e200",
        )
    digits, fraction, exponent, time, scale, suffix = match.groups()
    value = Fraction(digits + (fraction or "")) * Fraction(10) ** int(exponent or 0)
    if time:
        return float(value / (1000 if time == "ms" else 1_000_000)), "s"
    value *= SCALES[scale]
    whole = value.denominator == 1 and ((fraction is None and exponent is None) or scale + suffix != "")
    return int(value) if whole else float(value), UNITS[suffix]


def _token(child: Child) -> Token:
    assert isinstance(child, Token)
    return child


def _tokens(kind: str, c: Children) -> list[Token]:
    return [x for x in c if isinstance(x, Token) and x.type == kind]


def _has(kind: str, c: Children) -> bool:
    return any(isinstance(x, Token) and x.type == kind for x in c)


def _trees(c: Children) -> tuple[Tree, ...]:
    return tuple(x for x in c if isinstance(x, Tree))


def _all(kind: type[Node], c: Children) -> tuple[Node, ...]:
    return tuple(x for x in c if isinstance(x, kind))


def _one(kind: type[Node], c: Children) -> Node:
    return _all(kind, c)[0]


def _items(kind: str, c: Children) -> tuple[Tree | None, ...]:
    """The items of the part of that kind, or none where it is absent."""
    return next((x.items for x in c if isinstance(x, Part) and x.kind == kind), ())
