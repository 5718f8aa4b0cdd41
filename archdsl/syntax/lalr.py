"""Drives a grammar's tables over a text: tokens in, the builder's methods called bottom-up, its result out."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

END = "$END"
CLOSER = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_CLOSERS = frozenset(CLOSER.values())


@dataclass(frozen=True, slots=True)
class Rule:
    """One expansion of a rule: the name it goes by, the symbol it becomes, and how many symbols it takes."""

    name: str
    origin: str
    size: int
    hidden: bool
    """Its parts become parts of the rule that uses it."""
    unwrapped: bool
    """A single part stands for the whole."""
    spliced: Sequence[int]
    """Which of its symbols are hidden rules."""


@dataclass(frozen=True, slots=True)
class Tables:
    """An LALR(1) parser. An action is the state to shift to, or ~r to reduce by rule r."""

    rules: tuple[Rule, ...]
    states: tuple[dict[str, int], ...]
    start: int
    end: int
    terminals: tuple[tuple[str, str], ...]
    """Names and regular expressions; of several that match at a place, the first one counts."""
    ignored: frozenset[str]
    scanners: dict[frozenset[str] | None, Callable[[str, int], re.Match[str] | None]] = field(default_factory=dict)
    """Compiled on first use, by the terminals they look for."""


@functools.cache
def load(name: str) -> Tables:
    """The parser of grammar `name`, from its shipped tables; all tokens are kept, absent optionals are left out."""
    found = shipped(name)
    symbols: list[str] = found["symbols"]
    return Tables(
        tuple(Rule(*fields) for fields in found["rules"]),
        tuple({symbols[i]: action for i, action in zip(row[::2], row[1::2], strict=True)} for row in found["states"]),
        found["start"],
        found["end"],
        tuple((name, pattern) for name, pattern in found["terminals"]),
        frozenset(found["ignored"]),
    )


def shipped(name: str) -> Any:
    """What the table file of grammar `name` holds (see tables.py)."""
    return json.loads(table_file(name).read_text(encoding="utf-8"))


def table_file(name: str) -> Path:
    return Path(__file__).with_name(f"_{name}_tables.json")


class Token(str):
    """A piece of a text, of the terminal `type`. Lines and columns are 1-based, positions count characters.

    The end lies just after it. Only the token of type END, which stands for the end of the text, has no place.
    """

    __slots__ = ("column", "end_column", "end_line", "end_pos", "line", "start_pos", "type")

    type: str
    start_pos: int | None
    line: int | None
    column: int | None
    end_line: int | None
    end_column: int | None
    end_pos: int | None


def _token(
    kind: str,
    text: str,
    start: int | None = None,
    line: int | None = None,
    column: int | None = None,
    end_line: int | None = None,
    end_column: int | None = None,
    end: int | None = None,
) -> Token:
    token = Token(text)
    token.type, token.start_pos, token.end_pos = kind, start, end
    token.line, token.column, token.end_line, token.end_column = line, column, end_line, end_column
    return token


@dataclass(slots=True)
class Tree:
    """What becomes of a rule that the builder has no method for."""

    data: str
    children: list[Any]


@dataclass
class Stuck(Exception):
    """The text is not of the grammar: what was read, what cannot follow it, and what could.

    `token` is None where no token begins at the place (a character the language does not use), and of type END
    at the end of the text. `line` and `column` are 1-based, `offset` counts characters.
    """

    tokens: list[Token]
    token: Token | None
    accepts: frozenset[str]
    offset: int
    line: int
    column: int


@dataclass
class TooDeep(Exception):
    """More brackets than allowed are open at `token`."""

    token: Token


@dataclass
class Reader:
    """One reading of one text; `tokens` are those read so far. Reads iteratively, so depth costs no stack.

    `builder` has one method a rule, called with the rule's children in textual order, tokens included; a rule
    without a method becomes a Tree. The parts of a rule whose name begins with an underscore become parts of the
    rule that uses it.
    """

    grammar: str
    text: str
    builder: object
    max_brackets: int = 100
    tokens: list[Token] = field(default_factory=list)

    def read(self, start: int = 0) -> Any:
        """What the builder makes of the text from offset `start` on. Raises Stuck or TooDeep."""
        tables = load(self.grammar)
        make = [None if rule.hidden else getattr(self.builder, rule.name, None) for rule in tables.rules]
        stack = [tables.start]
        values: list[Any] = []
        depth = 0
        for token in self._lex(tables, stack, start):
            if not _feed(tables, make, stack, values, token):
                raise self._stuck(tables, token, token.start_pos or 0)
            self.tokens.append(token)
            if token.type in CLOSER:
                depth += 1
                if depth > self.max_brackets:
                    raise TooDeep(token)
            elif token.type in _CLOSERS:
                depth -= 1
        end = _token(END, "")
        if not _feed(tables, make, stack, values, end):
            raise self._stuck(tables, end, len(self.text))
        return values[-1]

    def _lex(self, tables: Tables, stack: Sequence[int], start: int) -> Iterator[Token]:
        """The text's tokens. What a terminal may be depends on the state on top of the parser's stack."""
        text = self.text
        line, newline = text.count("\n", 0, start) + 1, text.rfind("\n", 0, start)
        at, end = start, len(text)
        anywhere = _scanner(tables, None)
        while at < end:
            accepted = tables.states[stack[-1]]
            match = anywhere(text, at)
            kind = None if match is None else match.lastgroup
            if kind not in accepted and kind not in tables.ignored:
                # A terminal that comes later, but is welcome here; the order is the same in both expressions.
                match = _scanner(tables, frozenset(accepted))(text, at) or match
                kind = None if match is None else match.lastgroup
            if match is None or kind is None:
                raise self._stuck(tables, None, at)
            piece, row, column = match[0], line, at - newline
            start, at = at, match.end()
            breaks = piece.count("\n")
            if breaks:
                line += breaks
                newline = start + piece.rindex("\n")
            if kind not in tables.ignored:
                yield _token(kind, piece, start, row, column, line, at - newline, at)

    def _stuck(self, tables: Tables, token: Token | None, offset: int) -> Stuck:
        # Before an LALR parser refuses a token it may have reduced what stands before, and forgotten what else
        # could have followed: read the good tokens again, and ask then.
        stack = [tables.start]
        for good in self.tokens:
            _shift(tables, stack, good.type)
        accepts = frozenset(t for t in tables.states[stack[-1]] if t.isupper() and _shift(tables, [*stack], t))
        line = self.text.count("\n", 0, offset) + 1
        column = offset - self.text.rfind("\n", 0, offset)
        return Stuck(self.tokens, token, accepts, offset, line, column)


_Make = Callable[[list[Any]], Any]


def _feed(tables: Tables, make: Sequence[_Make | None], stack: list[int], values: list[Any], token: Token) -> bool:
    """Reduces what ends before a token and shifts it, or finishes at END; False where the token cannot follow."""
    states = tables.states
    while True:
        action = states[stack[-1]].get(token.type)
        if action is None:
            return False
        if action >= 0:
            stack.append(action)
            values.append(token)
            return True
        rule = tables.rules[~action]
        children: list[Any] = []
        if rule.size:
            children = values[-rule.size :]
            del values[-rule.size :], stack[-rule.size :]
        values.append(_made(rule, make[~action], children))
        stack.append(states[stack[-1]][rule.origin])
        if token.type == END and stack[-1] == tables.end:
            return True


def _made(rule: Rule, make: _Make | None, children: list[Any]) -> Any:
    if rule.spliced:
        parts: list[Any] = []
        for i, child in enumerate(children):
            if i in rule.spliced:
                parts += child
            else:
                parts.append(child)
        children = parts
    if rule.unwrapped and len(children) == 1:
        return children[0]
    if make is not None:
        return make(children)
    return children if rule.hidden else Tree(rule.name, children)


def _shift(tables: Tables, stack: list[int], kind: str) -> bool:
    """`_feed` without values."""
    states = tables.states
    while True:
        action = states[stack[-1]].get(kind)
        if action is None:
            return False
        if action >= 0:
            stack.append(action)
            return True
        rule = tables.rules[~action]
        if rule.size:
            del stack[-rule.size :]
        stack.append(states[stack[-1]][rule.origin])
        if kind == END and stack[-1] == tables.end:
            return True


def _scanner(tables: Tables, accepted: frozenset[str] | None) -> Callable[[str, int], re.Match[str] | None]:
    """Finds the first terminal, in the grammar's order, among all of them or those accepted and ignored."""
    known = tables.scanners.get(accepted)
    if known is None:
        wanted = [
            f"(?P<{name}>{pattern})"
            for name, pattern in tables.terminals
            if accepted is None or name in accepted or name in tables.ignored
        ]
        known = tables.scanners[accepted] = re.compile("|".join(wanted)).match
    return known
