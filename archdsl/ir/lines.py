"""Turns the text IR into lines: the grammar's trees, with words, values, types and places as records."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from archdsl.diagnostics import ArchError, Source, Span, error
from archdsl.ir.sizes import Expr
from archdsl.syntax.lalr import END, Reader, Stuck, Token, TooDeep, Tree

VERSION = 1
MAX_DEPTH = 100
"""Of brackets and of the expressions of sizes."""

Line: TypeAlias = "Tree"
"""A line of the text, or a piece of one: the grammar's rule and its parts."""


@dataclass(frozen=True, slots=True)
class Formula:
    """The expression of a size, where it stands, and how deep it is."""

    expr: Expr
    at: Token
    depth: int = 1


Raw: TypeAlias = "int | float | bool | str | Formula | tuple[Raw, ...] | None"
"""A Static whose sizes still lack their numbers, which the inputs define."""


@dataclass(frozen=True, slots=True)
class Box:
    """A compile-time value as a part of a line."""

    value: Raw


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    at: Token


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    value: Raw
    at: Token


@dataclass(frozen=True, slots=True)
class Origin:
    """A place; `file` is None for the graph's own source."""

    file: str | None
    numbers: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Type:
    """A type as written: its canonical text, and its kind, sizes and axes for an input to use."""

    text: str
    kind: str
    dims: tuple[Raw, ...]
    axes: tuple[tuple[str, Raw], ...]
    at: Token


_T = TypeVar("_T")


def of(kind: type[_T], line: Line | None) -> list[_T]:
    return [] if line is None else [p for p in line.children if isinstance(p, kind)]


def tokens(line: Line | None, *kinds: str) -> list[Token]:
    return [t for t in of(Token, line) if t.type in kinds]


def piece(line: Line | None, rule: str) -> Line | None:
    return next((p for p in of(Tree, line) if p.data == rule), None)


def string(source: Source, token: Token, text: str | None = None) -> str:
    try:
        value = json.loads(str(token) if text is None else text, strict=False)
    except ValueError:
        raise mistake(source, token, "a string with an unknown escape", "escape as JSON does") from None
    assert isinstance(value, str)
    return value


def integer(source: Source, token: Token, digits: str | None = None) -> int:
    try:
        return int(str(token) if digits is None else digits)
    except ValueError:  # Python refuses thousands of digits
        raise mistake(source, token, "a number with too many digits") from None


def read_lines(source: Source) -> list[Line]:
    """The lines of a text. Raises ArchError with code E-IR."""
    try:
        lines: list[Line] = Reader("ir", source.text, Builder(source), MAX_DEPTH).read()
    except TooDeep as e:
        raise mistake(source, e.token, f"brackets nest deeper than {MAX_DEPTH}") from None
    except Stuck as e:
        raise stuck(source, e) from None
    return lines


@functools.lru_cache(maxsize=4096)
def quoted(text: str) -> str:
    """A string in quotes, with JSON's escapes."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


class Builder:
    """One method a rule whose parts become one record; other rules stay trees. Sizes have no values yet."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def start(self, c: list[object]) -> list[Line]:
        return [x for x in c if isinstance(x, Tree)]

    def version(self, c: list[Token]) -> Token:
        if str(c[1]) != str(VERSION):
            title = f"the text is written in ir {c[1]}; this archdsl reads ir {VERSION}"
            raise mistake(self.source, c[1], title, "build the spec again")
        return c[1]

    def word(self, c: list[Token]) -> Word:
        return Word(string(self.source, c[0]) if c[0].type == "STRING" else str(c[0]), c[0])

    def setting(self, c: list[object]) -> Setting:
        word, _, box = c
        assert isinstance(word, Word) and isinstance(box, Box)
        return Setting(word.text, box.value, word.at)

    def origin(self, c: list[Token]) -> Origin:
        a, b, d, e = (integer(self.source, c[-1], digits) for digits in re.split("[:-]", c[-1]))
        return Origin(string(self.source, c[1]) if c[1].type == "STRING" else None, (a, b, d, e))

    # -- types -----------------------------------------------------------------------------

    def type(self, c: list[object]) -> Type:
        tokens = [t for t in c if isinstance(t, Token)]
        kind = next(t for t in tokens if t.type == "NAME")
        written = [p for p in c if isinstance(p, (Box, Setting))]
        dims = tuple(Formula(p.name, p.at) if isinstance(p, Setting) else p.value for p in written)
        axes = tuple((p.name, p.value) for p in written if isinstance(p, Setting))
        text = "const " if tokens[0].type == "CONST" else ""
        text += f"{kind}[{', '.join('?' if isinstance(d, Formula) else str(d) for d in dims)}]"
        text += "".join(f" at {t}" for t in tokens if t.type == "EXTENT")
        text += "".join(f" in {p.text}" for p in c if isinstance(p, Word))
        return Type(text, str(kind), dims, axes, tokens[0])

    def frame_type(self, c: list[object]) -> Type:
        kind, frame = c
        assert isinstance(kind, Token) and isinstance(frame, Word)
        return Type(f"{kind} {frame.text}", str(kind), (), (), kind)

    def frame(self, c: list[Token]) -> Word:
        inner = " ".join(str(t) for t in c[2:-1])
        return Word(f"{c[0]}[{inner}]", c[0])

    def dim(self, c: list[Token]) -> Box:
        return Box(integer(self.source, c[0]))

    def axis_dim(self, c: list[Token]) -> Setting:
        return Setting(str(c[0]), integer(self.source, c[2]), c[0])

    # -- values ----------------------------------------------------------------------------

    def value(self, c: list[object]) -> Box:
        part = c[0]
        if isinstance(part, Box):
            return part
        assert isinstance(part, Token)
        if part.type == "INT":
            return Box(integer(self.source, part))
        if part.type == "FLOAT":
            return Box(float(part))
        if part.type == "STRING":
            return Box(string(self.source, part))
        return Box({"TRUE": True, "FALSE": False, "NONE": None}[part.type])

    def listing(self, c: list[object]) -> Box:
        return Box(tuple(p.value for p in c if isinstance(p, Box)))

    def size(self, c: list[object]) -> Box:
        formula = c[1]
        assert isinstance(formula, Formula)
        return Box(formula)

    def integer(self, c: list[Token]) -> Formula:
        return Formula(integer(self.source, c[0]), c[0])

    def axis(self, c: list[Token]) -> Formula:
        return Formula(str(c[0]), c[0])

    def group(self, c: list[object]) -> object:
        return c[1]

    def extreme(self, c: list[object]) -> Formula:
        name, _, left, _, right, _ = c
        assert isinstance(name, Token)
        if name not in ("min", "max"):
            title = f"`{name}` is not a function of sizes"
            raise mistake(self.source, name, title, "sizes know min and max")
        return self._formula(str(name), left, right)

    def sum(self, c: list[object]) -> Formula:
        left, op, right = c
        if op == "-" and isinstance(right, Formula) and isinstance(right.expr, int) and right.expr > 0:
            # A constant is taken away by adding its negative, as sizes.simplify does.
            return self._formula("+", left, Formula(-right.expr, right.at))
        return self._formula(str(op), left, right)

    def product(self, c: list[object]) -> Formula:
        left, op, right = c
        return self._formula(str(op), left, right)

    def _formula(self, op: str, left: object, right: object) -> Formula:
        assert isinstance(left, Formula) and isinstance(right, Formula)
        depth = max(left.depth, right.depth) + 1
        if depth > MAX_DEPTH:
            raise mistake(self.source, left.at, f"an expression deeper than {MAX_DEPTH}")
        return Formula((op, left.expr, right.expr), left.at, depth)


def mistake(source: Source, at: Token | None, title: str, help: str = "") -> ArchError:
    place = Span(source, 1, 1, 1, 1)
    if at is not None:
        place = Span(source, at.line or 1, at.column or 1, at.end_line or 1, at.end_column or 1)
    return error("E-IR", title, place, help=help)


def stuck(source: Source, e: Stuck) -> ArchError:
    if e.token is None:
        begun = source.text[e.offset]
        title, width = "a string is not closed" if begun == '"' else f"no word begins with {quoted(begun)}", 1
    elif e.token.type == END:
        title, width = "the text ends early", 1
    elif e.token.type == "NEWLINE":
        title, width = "the line ends early", 1
    else:
        title, width = f"`{e.token}` cannot stand here", len(e.token)
    wanted = sorted(_SHOWN.get(t, f"`{t.lower()}`") for t in e.accepts)
    place = Span(source, e.line, e.column, e.line, e.column + width)
    more = " ..." if len(wanted) > 8 else ""
    return error("E-IR", title, place, help="expected " + ", ".join(wanted[:8]) + more if wanted else "")


_SHOWN = {
    END: "the end",
    "NEWLINE": "a new line",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "EQUAL": "`=`",
    "COLON": "`:`",
    "COMMA": "`,`",
    "ARROW": "`->`",
    "ABSENT": "`_`",
    "PLUS": "`+`",
    "MINUS": "`-`",
    "MULTIPLY": "`*`",
    "COMPARE": "a comparison",
    "VALUE": "a value like %stem",
    "WEIGHT": "a weight path like @stem",
    "POSITIONS": "a place like 9:14-9:31",
    "EXTENT": "a size like 7x7",
    "INT": "an integer",
    "FLOAT": "a number",
    "NAME": "a name",
    "STRING": "a string",
}
