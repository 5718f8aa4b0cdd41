"""Names the call sites of a body: which path segment each call contributes, and which one call a body *is*."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from archdsl.diagnostics import Diagnostic
from archdsl.syntax import tree

OWN_SCOPE = (tree.RegionBlock, tree.Stage, tree.Blocks, tree.Lambda, tree.Def, tree.Extern)
"""Constructs whose bodies name their own call sites."""

_FIELDS: dict[type, tuple[str, ...]] = {}


def children(node: tree.Tree) -> Iterator[tree.Tree]:
    """Direct sub-trees, in textual order."""
    cls = type(node)
    if cls not in _FIELDS:
        _FIELDS[cls] = tuple(f.name for f in dataclasses.fields(node) if f.name not in ("span", "source"))
    for name in _FIELDS[cls]:
        value = getattr(node, name)
        if isinstance(value, tree.Tree):
            yield value
        elif isinstance(value, tuple):
            yield from (v for v in value if isinstance(v, tree.Tree))


def mentions(node: tree.Tree, name: str) -> bool:
    """Whether a name occurs anywhere in a tree, shadowed or not; labels and names of arguments stand for nothing."""
    if isinstance(node, tree.Name):
        return node.id == name
    aside = node.name if isinstance(node, (tree.Label, tree.Arg)) else None
    return any(mentions(child, name) for child in children(node) if child is not aside)


def root_name(expr: tree.Tree) -> str | None:
    """`f` of f[...], f@label, f(...), (f)."""
    while True:
        match expr:
            case tree.Config() | tree.Call():
                expr = expr.callee
            case tree.Label() | tree.Attribute():
                expr = expr.value
            case tree.Group():
                expr = expr.inner
            case tree.Name():
                return expr.id
            case _:
                return None


def label_of(expr: tree.Tree) -> tree.Name | None:
    """The explicit label on a callee, however it is configured: linear@qkv[96] and linear[96]@qkv alike."""
    while isinstance(expr, (tree.Config, tree.Call, tree.Label)):
        if isinstance(expr, tree.Label):
            return expr.name
        expr = expr.callee
    return None


@dataclass(frozen=True, slots=True)
class Site:
    """One call in a body: the node evaluation dispatches on, the callee's text, and its label."""

    node: tree.Tree
    callee: tree.Expr
    label: tree.Name | None
    looped: bool


@dataclass(frozen=True)
class Sites:
    """The call sites of one body.

    `segment` maps a site, and a `blocks` loop, to its path segment; `whole` is the site that the body *is*.
    """

    sites: tuple[Site, ...]
    segment: dict[tree.Tree, str]
    whole: tree.Tree | None


def collect(body: Sequence[tree.Tree]) -> list[Site]:
    """All call sites of a body in textual order, not descending into regions and lambdas."""
    out: list[Site] = []

    def visit(node: tree.Tree, looped: bool) -> None:
        if isinstance(node, OWN_SCOPE):
            return
        looped = looped or isinstance(node, (tree.For, tree.Comprehension))
        if isinstance(node, tree.Call):
            out.append(Site(node, node.callee, label_of(node.callee), looped))
        elif isinstance(node, tree.Config) and root_name(node) == "param":
            out.append(Site(node, node, label_of(node), looped))
        elif isinstance(node, tree.Pipe):
            visit(node.value, looped)
            for stage in node.stages:
                if isinstance(stage, tree.Call):
                    visit(stage, looped)
                else:
                    out.append(Site(stage, stage, label_of(stage), looped))
                    for child in children(stage):
                        visit(child, looped)
            return
        for child in children(node):
            visit(child, looped)

    for node in body:
        visit(node, False)
    return out


def name_sites(body: Sequence[tree.Tree], owns: Callable[[tree.Expr], bool], region: bool) -> Sites:
    """Segments for a body's sites; `owns(callee)` says whether a call of it may own weights.

    An automatic name used several times in the body is numbered in textual order from 1. A region or lambda
    body (`region`) whose only weight-owning site is one unlabelled call outside any loop *is* that call.
    """
    sites = collect(body)
    automatic: dict[str, list[Site]] = {}
    for site in sites:
        name = root_name(site.callee)
        if site.label is None and name is not None:
            automatic.setdefault(name, []).append(site)
    segment: dict[tree.Tree, str] = {}
    for site in sites:
        if site.label is not None:
            segment[site.node] = "" if site.label.id == "_" else site.label.id
    for name, group in automatic.items():
        for i, site in enumerate(group, 1):
            segment[site.node] = name if len(group) == 1 else f"{name}{i}"
    loops = [n for n in _statements(body) if isinstance(n, tree.Blocks)]
    unlabelled = [n for n in loops if n.label is None]
    for loop in loops:
        name = loop.label.id if loop.label is not None else "blocks"
        if loop.label is None and len(unlabelled) > 1:
            name += str(unlabelled.index(loop) + 1)
        segment[loop] = name
    whole = None
    if region:
        owning = [s for s in sites if owns(s.callee)]
        shares = any(isinstance(n, tree.Share) for n in _statements(body))
        nested = any(isinstance(n, (tree.RegionBlock, tree.Stage, tree.Blocks)) for n in _statements(body))
        if len(owning) == 1 and not shares and not nested and owning[0].label is None and not owning[0].looped:
            whole = owning[0].node
    return Sites(tuple(sites), segment, whole)


def _statements(body: Sequence[tree.Tree]) -> Iterator[tree.Tree]:
    for node in body:
        yield node
        if isinstance(node, (tree.Body, tree.If, tree.For)):
            yield from _statements(list(children(node)))


def label_mistakes(body: Sequence[tree.Tree]) -> list[Diagnostic]:
    """Labels used twice in one body, equal to a shared name, or on a function value that never becomes a call."""
    out: list[Diagnostic] = []
    sites = collect(body)
    seen: dict[str, tree.Name] = {}
    shared = {n.name.id: n.name for n in _statements(body) if isinstance(n, tree.Share)}
    labels = [(s.label, root_name(s.callee)) for s in sites if s.label is not None]
    labels += [(n.label, None) for n in _statements(body) if isinstance(n, tree.Blocks) and n.label is not None]
    for label, callee in sorted(labels, key=lambda found: (found[0].span.line, found[0].span.column)):
        name = label.id
        if callee in shared:
            note = ((shared[callee].span, "shared here"),)
            out.append(
                Diagnostic(
                    "E-LABEL",
                    f"label `@{name}` is dropped: `{callee}` is shared, and its weights live under its own name",
                    label.span,
                    notes=note,
                    help="drop the label",
                )
            )
        elif name == "_":
            continue
        elif name in shared:
            note = ((shared[name].span, "shared here"),)
            out.append(
                Diagnostic(
                    "E-LABEL",
                    f"label `@{name}` equals the shared name `{name}`",
                    label.span,
                    notes=note,
                    help="choose another label: both would live under one weight path",
                )
            )
        elif name in seen:
            note = ((seen[name].span, "first used here"),)
            out.append(
                Diagnostic(
                    "E-LABEL",
                    f"label `@{name}` is used twice in one body",
                    label.span,
                    notes=note,
                    help="every call site owns its weights; to reuse them write `share` once and call it twice",
                )
            )
        seen.setdefault(name, label)
    used = {id(s.label) for s in sites if s.label is not None}

    def visit(node: tree.Tree) -> None:
        if isinstance(node, OWN_SCOPE):
            return
        if isinstance(node, tree.Label) and not isinstance(node.value, tree.Choice) and id(node.name) not in used:
            out.append(
                Diagnostic(
                    "E-LABEL",
                    f"label `@{node.name.id}` is dropped: it stands on a function value, not on a call",
                    node.name.span,
                    help="label the place where the function is called; a block passed as a parameter is named by it",
                )
            )
        for child in children(node):
            visit(child)

    for node in body:
        visit(node)
    return out
