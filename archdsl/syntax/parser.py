"""Turns a source text into a syntax tree, or into diagnostics for all of its independent mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from archdsl.diagnostics import ArchError, Diagnostic, Source, Span, error
from archdsl.syntax.build import MAX_DEPTH, Builder, too_deep
from archdsl.syntax.lalr import Reader, Stuck, Token, TooDeep
from archdsl.syntax.tree import Comment, File

MAX_BYTES = 1 << 20
MAX_MISTAKES = 20


def read_source(path: Path | str, name: str | None = None) -> Source:
    """The file as a Source that messages call `name` (default: the path as given); \\r\\n becomes \\n.

    Raises E-FILE (missing, unreadable, a directory), E-SIZE (over 1 MiB) or E-ENCODING (not UTF-8).
    """
    shown = str(path) if name is None else name
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as e:
        reason = (e.strerror if isinstance(e, OSError) else None) or str(e)
        raise error("E-FILE", f"cannot read `{shown}`: {reason[:1].lower()}{reason[1:]}") from None
    if len(data) > MAX_BYTES:
        raise error("E-SIZE", f"`{shown}` is larger than {MAX_BYTES} bytes", help="import parts from other files")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        text = data.decode("utf-8-sig", "replace").replace("\r\n", "\n")
        raise error(
            "E-ENCODING",
            f"`{shown}` is not UTF-8 text: it has a byte 0x{data[e.start]:02x}",
            _at(Source(shown, text), text.find("\N{REPLACEMENT CHARACTER}")),
            help="save the file as UTF-8",
        ) from None
    return Source(shown, text.replace("\r\n", "\n"))


def parse(source: Source) -> File:
    """The tree of a source. Raises ArchError with one diagnostic for every broken top-level item, at most 20."""
    text = source.text
    if len(text) > MAX_BYTES:
        raise error(
            "E-SIZE",
            f"`{source.name}` is larger than {MAX_BYTES} bytes",
            help="import parts from other files",
        )
    nul = text.find("\0")
    if nul >= 0:
        raise error("E-ENCODING", "a NUL character: this is not a text file", _at(source, nul))
    found: list[Diagnostic] = []
    start = 0
    while True:
        builder = Builder(source)
        reader = Reader("arch", text, builder, MAX_DEPTH)
        try:
            version, items = reader.read(start)
        except TooDeep as e:
            found += [*builder.mistakes, *too_deep(_span(source, e.token)).diagnostics]
            break
        except ArchError as e:
            found += [*builder.mistakes, *e.diagnostics]
            break
        except Stuck as e:
            from archdsl.syntax.mistakes import explain

            found += builder.mistakes
            # A keyword in the place of a name or an operand derails the reading; one message for it is enough.
            if not any(m.span and m.span.line == e.line for m in builder.mistakes):
                found.append(explain(source, e, start))
            following = _next_item(text, start, e.offset)
            if following is None or len(found) >= MAX_MISTAKES:
                break
            start = following
        else:
            found += builder.mistakes
            break
    if found:
        raise ArchError(*_in_order(found))
    return File(_whole(source), source, version, items, tuple(_comments(source, reader.tokens)))


def _next_item(text: str, start: int, stuck: int) -> int | None:
    """Where reading resumes: the first line from that of `stuck` on, but after `start`, that begins an item."""
    line = text.rfind("\n", 0, stuck) + 1
    from archdsl.syntax.mistakes import ITEM_START

    match = ITEM_START.search(text, max(line, start + 1))
    return None if match is None else match.start()


def _in_order(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """By place, each place and code once."""
    unique = {(d.code, d.span): d for d in reversed(list(found))}
    return sorted(unique.values(), key=lambda d: (d.span.line, d.span.column) if d.span else (0, 0))[:MAX_MISTAKES]


def _comments(source: Source, tokens: Iterable[Token]) -> Iterator[Comment]:
    """Comments lie in the gaps between tokens."""
    text, position = source.text, 0
    line, counted = 1, 0
    for end, following in [*((t.start_pos or 0, t.end_pos or 0) for t in tokens), (len(text), len(text))]:
        for match in _COMMENT.finditer(text, position, end):
            line += text.count("\n", counted, match.start())
            counted = match.start()
            column = match.start() - text.rfind("\n", 0, match.start())
            words = match[0].rstrip()
            yield Comment(Span(source, line, column, line, column + len(words)), words)
        position = following


_COMMENT = re.compile(r"#[^\n]*")


def _whole(source: Source) -> Span:
    return Span(source, 1, 1, len(source.lines), len(source.lines[-1]) + 1)


def _at(source: Source, offset: int) -> Span:
    line = source.text.count("\n", 0, offset) + 1
    column = offset - source.text.rfind("\n", 0, offset)
    return Span(source, line, column, line, column + 1)


def _span(source: Source, token: Token) -> Span:
    return Span(source, token.line or 1, token.column or 1, token.end_line or 1, token.end_column or 1)
