"""A queue of comments: hands each out once, in textual order, to the piece of text that asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from archdsl.diagnostics import Span
from archdsl.syntax.tree import Comment

Place: TypeAlias = tuple[int, int]
"""Line and column."""


class Comments:
    """The comments of one file that are not printed yet."""

    def __init__(self, comments: Iterable[Comment]) -> None:
        self._left = sorted(comments, key=lambda c: (c.span.line, c.span.column), reverse=True)

    def numbered(self, line: int, column: int) -> list[tuple[int, str]]:
        """Those before a place, with their lines."""
        out = []
        while self._left and (self._left[-1].span.line, self._left[-1].span.column) < (line, column):
            comment = self._left.pop()
            out.append((comment.span.line, comment.text))
        return out

    def before(self, line: int, column: int) -> list[str]:
        """Those before a place."""
        return [text for _, text in self.numbered(line, column)]

    def beside(self, span: Span, limit: Place | None = None) -> str | None:
        """The one behind a stretch of text on its last line, if it stands before `limit`."""
        if not self._left or self._left[-1].span.line != span.end_line:
            return None
        place = self._left[-1].span
        if limit is not None and limit <= (place.line, place.column):
            return None
        return self._left.pop().text

    def opening(self, body: Span, first: Span | None) -> str | None:
        """The one behind the opening brace of a body, on its line."""
        if not self._left or self._left[-1].span.line != body.line:
            return None
        if first is not None and first.line == body.line:
            return None
        return self._left.pop().text

    def within(self, span: Span) -> bool:
        """Whether any lies inside a stretch of text."""
        for comment in reversed(self._left):
            place = (comment.span.line, comment.span.column)
            if place >= (span.end_line, span.end_column):
                return False
            if place >= (span.line, span.column):
                return True
        return False
