"""Turns small pieces of spec text into programs, graphs and the mistakes in them, for tests of the front end."""

from __future__ import annotations

from pathlib import Path

from archdsl.diagnostics import ArchError, Diagnostic, Source
from archdsl.frontend.program import Program
from archdsl.ir.graph import Graph

HERE = Path(__file__).parent
SPECS = tuple(sorted((HERE.parent / "specs").glob("*.arch")))
LANGUAGE = tuple(sorted((HERE / "language").glob("*.arch")))


def spec(body: str, defs: str = "", params: str = "dim = 8, classes = 10, dpr = 0.1", image: str = "3, 32, 32") -> str:
    """A whole file: `defs`, and an arch `a` with `body`; `x` is an 8-channel map unless the body begins with `|`."""
    stem = "  x = conv@first[8](img)\n"
    if body.startswith("|"):
        stem, body = "", body[1:]
    if "return" not in body:
        body += "\n  head { return x |> gap |> linear@fc[classes] }"
    return f"language 1\n{defs}\narch a[{params}] {{\n  input img: map[{image}]\n{stem}  {body}\n}}\n"


def program(text: str, at: Path | None = None) -> Program:
    return Program.parse(Source("spec.arch", text), at)


def graph(text: str, arch: str | None = None, mode: str = "eval", **more: object) -> Graph:
    return program(text).elaborate(arch, mode=mode, **more)  # type: ignore[arg-type]


def paths(text: str, arch: str | None = None, mode: str = "eval") -> list[str]:
    """Weight paths, biases and statistics left out."""
    left_out = ("bias", "running_mean", "running_var", "num_batches_tracked")
    return [p for p in graph(text, arch, mode).params if not p.endswith(left_out)]


def mistakes(text: str, arch: str | None = None, mode: str = "eval", **more: object) -> list[Diagnostic]:
    """What is wrong with a text: what opening it, or elaborating one of its archs, reports."""
    try:
        graph(text, arch, mode, **more)
    except ArchError as e:
        return list(e.diagnostics)
    return []


def only(text: str, code: str, **more: object) -> Diagnostic:
    """The one mistake of a text, which has this code and a place."""
    found = mistakes(text, **more)  # type: ignore[arg-type]
    assert [d.code for d in found] == [code], found
    assert found[0].span is not None
    return found[0]


def written(diagnostic: Diagnostic) -> str:
    """The text that a mistake underlines, where it stands in one line."""
    span = diagnostic.span
    assert span is not None and span.line == span.end_line
    return span.source.lines[span.line - 1][span.column - 1 : span.end_column - 1]
