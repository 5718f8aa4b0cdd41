"""Turns automatic weight names into labels in a spec's text, so that later edits cannot rename weights."""

from __future__ import annotations

from collections.abc import Iterator

from archdsl.diagnostics import ArchError, Source, Span
from archdsl.frontend.names import Site, children, root_name
from archdsl.frontend.program import Program
from archdsl.syntax import tree
from archdsl.syntax.parser import parse
from archdsl.syntax.printer import format_file

MODES = ("eval", "train", "deploy")

Place = tuple[int, int]


def pin(program: Program) -> str:
    """The spec's text with a label on every call of this file that owns weights and has none.

    Only calls that some arch of the file makes are labelled; a region that *is* its one call keeps no segment,
    so it gets no label. Weight paths stay what they are. Raises ArchError where no arch can be elaborated.
    """
    owning = _owning(program)
    shared = {n.name.id for n in _walk(program.file) if isinstance(n, tree.Share)}
    labels: dict[Place, str] = {}
    for owner, sites in program.loader.names.known.items():
        if owner.span.source is not program.source:
            continue
        for site in sites.sites:
            name = root_name(site.callee)
            elided = site.node is sites.whole and name not in program.loader.vocabulary.callables()
            if site.label is None and not elided and name not in shared and _start(site.node.span) in owning:
                labels[_after(program, site)] = sites.segment[site.node]
        for loop, segment in sites.segment.items():
            if isinstance(loop, tree.Blocks) and loop.label is None and segment != "blocks":
                labels[loop.span.line, loop.span.column + len("blocks")] = segment
    text = _insert(program.source.text, labels)
    tidy = format_file(program.file) == program.source.text
    return format_file(parse(Source(program.source.name, text))) if tidy else text


def _owning(program: Program) -> set[Place]:
    """Where the calls of this file stand that own weights, in any arch and mode."""
    found: set[Place] = set()
    mistakes: list[ArchError] = []
    buildable = [name for name in program.archs if program.buildable(name)]
    for name in buildable:
        for mode in MODES:
            try:
                graph = program.elaborate(name, mode=mode)
            except ArchError as e:
                mistakes.append(e)
                continue
            for node in graph.weight_nodes():
                spans = [node.span, *(r.span for r in graph.region_chain(node.region) if not r.share)]
                found |= {_start(s) for s in spans if s is not None and s.source is program.source}
    if len(mistakes) == len(buildable) * len(MODES) and mistakes:
        raise mistakes[0]
    return found


def _after(program: Program, site: Site) -> Place:
    """Where a site's label goes: behind the function's name (linear@qkv[96]), or behind a list's element."""
    at = site.callee
    while isinstance(at, tree.Config):
        at = at.callee
    span = site.callee.span
    if isinstance(at, tree.Name) and (at.id in program.scope.visible()):
        span = at.span
    return span.end_line, span.end_column


def _start(span: Span) -> Place:
    return span.line, span.column


def _walk(node: tree.Tree) -> Iterator[tree.Tree]:
    todo = [node]
    while todo:
        at = todo.pop()
        yield at
        todo += children(at)


def _insert(text: str, labels: dict[Place, str]) -> str:
    lines = text.split("\n")
    for (line, column), label in sorted(labels.items(), reverse=True):
        before, after = lines[line - 1][: column - 1], lines[line - 1][column - 1 :]
        lines[line - 1] = f"{before}@{label}{after}"
    return "\n".join(lines)
