"""Turns what commands found into what they print: tables, JSON and differences."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType


class Told(Protocol):
    """What a command found: as data, as a table, and in words below it."""

    def as_dict(self) -> dict[str, object]: ...

    def table(self) -> RenderableType: ...

    def text(self) -> str: ...


def tell(found: Told, as_json: bool) -> int:
    """Prints what was found as JSON, or as a table with the words below it; returns the exit status, 0."""
    if as_json:
        return print_json(found.as_dict())
    show(found.table())
    print(found.text())
    return 0


def print_json(data: object) -> int:
    """Returns the exit status, 0."""
    import json

    print(json.dumps(data, indent=2))
    return 0


def show(renderable: RenderableType) -> None:
    """Prints with rich, coloured and fitted to the terminal, or plain and unwrapped into a pipe."""
    import io

    from rich.console import Console

    tty = sys.stdout.isatty()
    text = io.StringIO()
    Console(file=text, force_terminal=tty, width=None if tty else 200, highlight=False).print(renderable)
    for line in text.getvalue().splitlines():
        print(line.rstrip())


def print_diff(name: str, old: str, new: str) -> None:
    """Prints how a file would be formatted."""
    import difflib

    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), name, f"{name} (formatted)")
    sys.stdout.writelines(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)
