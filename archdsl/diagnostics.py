"""Turns a user's mistake into text: sources, spans, diagnostics with stable codes, and their rendering."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One text, with the name under which messages show it (as the user wrote it, never made absolute)."""

    name: str
    text: str
    lines: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(self.text.split("\n")))


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a source: 1-based line and column of its start, and of the column just after its end."""

    source: Source
    line: int
    column: int
    end_line: int
    end_column: int

    def to(self, other: Span) -> Span:
        """From the start of this span to the end of `other`."""
        return replace(self, end_line=other.end_line, end_column=other.end_column)

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Diagnostic:
    """One mistake: a title that states the fact, the smallest wrong span, and a way out.

    `label` is written beside the underline; `notes` are further places that explain it; `trace` is where the
    shape came from, oldest first; `path` is the call path ("stages.2.blocks.0.attn") it was found at.
    """

    code: str
    title: str
    span: Span | None = None
    label: str = ""
    notes: tuple[tuple[Span, str], ...] = ()
    trace: tuple[tuple[str, str, Span | None], ...] = ()
    path: str = ""
    help: str = ""
    severity: str = "error"


class ArchError(Exception):
    """A user's mistake, or several independent ones; carries diagnostics and never reaches a user as a traceback."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("\n".join(d.title for d in diagnostics))
        self.diagnostics = diagnostics


def error(code: str, title: str, span: Span | None = None, **more: object) -> ArchError:
    """An ArchError with one diagnostic; `more` are Diagnostic's other fields."""
    return ArchError(Diagnostic(code, title, span, **more))  # type: ignore[arg-type]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A help text naming the closest candidate, or ""."""
    import difflib

    close = difflib.get_close_matches(name, sorted(set(candidates)), 1, 0.6)
    return f"did you mean `{close[0]}`?" if close else ""


_WIDEST = 160


def render(diagnostic: Diagnostic) -> str:
    """The diagnostic as plain text, in the form shown in docs/errors.md."""
    d = diagnostic
    out = [f"{d.severity}[{d.code}]: {d.title}"]
    beside = [n for n in d.notes if d.span is not None and _beside(d.span, n[0])]
    if d.span is not None:
        out += _excerpt(d.span, d.label, beside=beside)
    for span, text in d.notes:
        if (span, text) not in beside:
            out += _excerpt(span, text, mark="-")
    if d.trace:
        out.append("   = where the shape came from")
        width = max(len(name) for name, _, _ in d.trace)
        shapes = max(len(shape) for _, shape, _ in d.trace)
        for name, shape, place in d.trace:
            where = "" if place is None else f"   {place.source.name}:{place.line}"
            out.append(f"       {name:<{width}}   {shape:<{shapes}}{where}".rstrip())
    if d.path:
        out.append(f"   = in {d.path}")
    if d.help:
        out.append(f"   = help: {d.help}")
    return "\n".join(out)


def render_all(diagnostics: Sequence[Diagnostic]) -> str:
    return "\n\n".join(render(d) for d in diagnostics)


def _beside(span: Span, other: Span) -> bool:
    """Whether both lie on one line, apart from each other, so that one excerpt can show them."""
    if span.source is not other.source or not span.line == span.end_line == other.line == other.end_line:
        return False
    return other.end_column <= span.column or span.end_column <= other.column


def _excerpt(span: Span, label: str, mark: str = "^", beside: Sequence[tuple[Span, str]] = ()) -> list[str]:
    lines = span.source.lines
    out = [f"  --> {span}"]
    if not 1 <= span.line <= len(lines):
        return out
    text = lines[span.line - 1].rstrip("\r").expandtabs(1)
    left = 0
    if len(text) > _WIDEST:  # a very long line: show the part around the span
        left = max(0, span.column - 1 - _WIDEST // 2)
        text = text[left : left + _WIDEST]
        beside = [(s, t) for s, t in beside if left < s.column and s.end_column <= left + _WIDEST]
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    number = str(span.line)
    gap = " " * len(number)
    tail = " ..." if span.end_line != span.line else ""
    out += [f"{gap} |", f"{number} | {text}{tail}"]
    marks = [(_stretch(span, text, left), mark, label), *((_stretch(s, text, left), "-", t) for s, t in beside)]
    return out + [f"{gap} | {row}".rstrip() for row in _underlines(sorted(marks))]


def _stretch(span: Span, text: str, left: int) -> tuple[int, int]:
    """Where a span begins and ends (exclusive) in the shown part of its line."""
    start = span.column - 1 - left
    end = span.end_column - 1 - left if span.end_line == span.line else len(text)
    return start, start + max(1, min(end, len(text)) - start)


def _underlines(marks: Sequence[tuple[tuple[int, int], str, str]]) -> list[str]:
    """Rows under a line: all marks, from left to right, with the last one's label; then the others' labels."""
    row = ""
    for (start, end), mark, _ in marks:
        row = row.ljust(start) + mark * (end - start)
    rows = [f"{row} {marks[-1][2]}"]
    for at in range(len(marks) - 2, -1, -1):
        row = ""
        for (start, _), _, label in marks[:at]:
            row = row.ljust(start) + ("|" if label else "")
        if marks[at][2]:
            rows.append(row.ljust(marks[at][0][0]) + marks[at][2])
    return rows
