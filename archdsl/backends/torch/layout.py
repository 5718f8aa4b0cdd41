"""Breaks long lines of emitted Python at brackets, the way formatters do."""

from __future__ import annotations

WIDTH = 120


def wrap(line: str, width: int = WIDTH) -> list[str]:
    """One logical line as physical lines of at most `width` columns where brackets allow."""
    if len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip())
    at = _split_bracket(line)
    if at is None:
        return [line]
    start, end = at
    head, body, tail = line[: start + 1], line[start + 1 : end].strip(), line[end:]
    inner = " " * (indent + 4)
    if len(inner + body) <= width and not _ends_with_comma(body):
        return [head, inner + body, " " * indent + tail]
    parts = _pieces(body)
    if len(parts) == 1 and not _may_end_in_a_comma(head) and not _ends_with_comma(body):
        parts = [(body, "")]
    out = [head]
    for part, separator in parts:
        out += wrap(inner + part + separator, width)
    return [*out, " " * indent + tail]


def _may_end_in_a_comma(head: str) -> bool:
    """Whether the last bracket is of a call or a display: a comma makes a tuple of a grouped expression or an index."""
    follows_a_value = head[-2:-1].isalnum() or head[-2:-1] in ("_", ")", "]")
    return follows_a_value == (head[-1] == "(")


def _ends_with_comma(body: str) -> bool:
    return body.endswith(",")


def _split_bracket(line: str) -> tuple[int, int] | None:
    """The last top-level bracket pair with something in it."""
    depth, start, found = 0, -1, None
    quote = ""
    for i, c in enumerate(line):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        elif c in "([{":
            if depth == 0:
                start = i
            depth += 1
        elif c in ")]}":
            depth -= 1
            if depth == 0 and i > start + 1:
                found = (start, i)
    return found


def _pieces(body: str) -> list[tuple[str, str]]:
    """The body's parts with what follows each: arguments and commas, or an expression and its `for` clauses."""
    cuts, depth, quote = [], 0, ""
    for i, c in enumerate(body):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif (depth == 0 and c == ",") or (depth == 0 and body.startswith(" for ", i)):
            cuts.append((i, i + 1))
    comprehension = any(body.startswith(" for ", a) for a, _ in cuts)
    if comprehension:
        cuts = [c for c in cuts if body.startswith(" for ", c[0])]
    out, at = [], 0
    for a, b in cuts:
        out.append((body[at:a].strip(), "" if comprehension else ","))
        at = b
    rest = body[at:].strip()
    if rest:
        out.append((rest, "" if comprehension else ","))
    return out
