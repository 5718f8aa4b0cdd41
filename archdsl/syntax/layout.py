"""Turns a document (text with possible line breaks) into lines no wider than asked where that is possible.

A group is set on one line if it fits, otherwise all of its own breaks are taken; a fill takes only those it needs.
The layout is that of Wadler's "A prettier printer"; it runs iteratively.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Cat:
    parts: tuple[Doc, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A possible break; `flat` is what stands there when it is not taken. A hard one is always taken."""

    flat: str = " "
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Nest:
    by: int
    inner: Doc


@dataclass(frozen=True, slots=True)
class Group:
    inner: Doc


@dataclass(frozen=True, slots=True)
class Fill:
    """Items with a break between neighbours; `apart` ones never follow an item that took several lines."""

    items: tuple[Doc, ...]
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Aside:
    """Text that does not count towards the width: a comment at the end of a line."""

    text: str


@dataclass(frozen=True, slots=True)
class _Next:
    """An item of a fill after the first; `before` is the one before it where they must be apart."""

    item: Doc
    before: Doc = ""


Doc: TypeAlias = str | Cat | Line | Nest | Group | Fill | Aside | _Next

SOFT = Line("")
SPACE = Line(" ")
HARD = Line("", hard=True)


def cat(*parts: Doc) -> Doc:
    return Cat(parts)


def flat(doc: Doc) -> str:
    """The document on one line."""
    return layout(doc, 1 << 30, 0)[0]


def fits(doc: Doc, width: int) -> bool:
    """Whether the document can be set on one line of that width."""
    return _fits(width, doc, [])


def layout(doc: Doc, width: int, indent: int) -> list[str]:
    """The lines of a document set at an indentation; the first line carries the indentation too."""
    out: list[str] = [" " * indent]
    column = indent
    lines: list[str] = []
    todo: list[tuple[int, bool, Doc]] = [(indent, False, doc)]  # indentation, on one line, what
    while todo:
        at, one_line, head = todo.pop()
        match head:
            case str():
                out.append(head)
                column += len(head)
            case Aside(text):
                out.append(text)
            case Cat(parts):
                todo += [(at, one_line, part) for part in reversed(parts)]
            case Nest(by, inner):
                todo.append((at + by, one_line, inner))
            case Group(inner):
                todo.append((at, one_line or _fits(width - column, inner, todo), inner))
            case Line(text, hard):
                if one_line and not hard:
                    out.append(text)
                    column += len(text)
                else:
                    lines.append("".join(out).rstrip())
                    out = [" " * at]
                    column = at
            case Fill(items, apart):
                for before, item in reversed(list(itertools.pairwise(items))):
                    todo.append((at, one_line, _Next(item, before if apart else "")))
                todo += [(at, one_line, Group(item)) for item in items[:1]]
            case _Next(item, before):
                # Stay on the line if the item fits there whole; a break is better than breaking the item.
                stays = one_line or (_fits(width - at, before, []) and _fits(width - column, Cat((SPACE, item)), todo))
                todo += [(at, stays, item if stays else Group(item)), (at, stays, SPACE)]
    return [*lines, "".join(out).rstrip()]


def _fits(room: int, doc: Doc, rest: list[tuple[int, bool, Doc]]) -> bool:
    """Whether `doc` on one line, and what must follow it on that line, is at most `room` wide."""
    todo: list[tuple[bool, Doc]] = [(True, doc)]
    behind = len(rest)
    while room >= 0:
        if not todo:
            if behind == 0:
                return True
            behind -= 1
            todo.append(rest[behind][1:])
            continue
        one_line, head = todo.pop()
        match head:
            case str():
                room -= len(head)
            case Cat(parts):
                todo += [(one_line, part) for part in reversed(parts)]
            case Nest(inner=inner) | Group(inner):
                todo.append((one_line, inner))
            case Line(text, hard):
                if hard:
                    return not one_line
                if not one_line:
                    return True
                room -= len(text)
            case _Next(item):
                if not one_line:
                    return True
                todo += [(True, item), (True, SPACE)]
            case Fill(items):
                todo += [(one_line, part) for i, item in enumerate(reversed(items)) for part in (item, SPACE)][:-1]
    return False
