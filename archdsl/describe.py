"""Turns what the compiler holds into pages: the table of the vocabulary, one op's reference, a syntax tree."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

from archdsl.diagnostics import did_you_mean, error
from archdsl.ops.base import KINDS, Example, Op, ShapeError
from archdsl.ops.vocabulary import Vocabulary
from archdsl.syntax.tree import Comment, Tree

if TYPE_CHECKING:
    from rich.table import Table


def vocabulary_table(vocabulary: Vocabulary) -> Table:
    """One line an op: its signature and what it is."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("op")
    table.add_column("what it does")
    for name, cls in vocabulary.items():
        if not cls.callable:
            continue
        table.add_row(_plain(signature(name, cls)), _plain(_summary(cls)))
    return table


def op_page(vocabulary: Vocabulary, name: str) -> str:
    """An op's signature, documentation, attributes with their bounds, and examples with the shapes they give.

    Raises E-NAME for a name that is no op.
    """
    if name not in vocabulary or not vocabulary[name].callable:
        raise error("E-NAME", f"there is no op `{name}`", help=did_you_mean(name, vocabulary))
    cls = vocabulary[name]
    out = [signature(name, cls), "", inspect.cleandoc(cls.__doc__ or "")]
    rows = [_attribute(f) for f in dataclasses.fields(cls)]
    if rows:
        width, kinds = max(len(r[0]) for r in rows), max(len(r[1]) for r in rows)
        out += ["", "attributes"]
        out += [f"  {n:<{width}}  {kind:<{kinds}}  {doc}".rstrip() for n, kind, doc in rows]
    out += ["", f"positions   {cls.order.value}", f"channels    {' or '.join(cls.axes)}"]
    if cls.affine:
        out.append("rep def     allowed inside: affine and shift-invariant")
    if cls.examples:
        out += ["", "examples"]
        for example in cls.examples:
            out += _example(name, cls, example)
    return "\n".join(out)


def tree_text(root: Tree) -> str:
    """A syntax tree, one construct a line: its class, its words and numbers, where it starts."""
    out = []
    todo: list[tuple[int, str, Tree]] = [(0, "", root)]
    while todo:
        depth, role, at = todo.pop()
        words, parts = [], []
        for f in dataclasses.fields(at):
            value = getattr(at, f.name)
            items = [(f.name, value)]
            if isinstance(value, tuple):
                items = [(f"{f.name}.{i}", v) for i, v in enumerate(value)]
            parts += [(depth + 1, name, v) for name, v in items if isinstance(v, Tree) and not isinstance(v, Comment)]
            words += [f"{name}={v!r}" for name, v in items if isinstance(v, (str, int, float)) and v != ""]
        place = f"{at.span.line}:{at.span.column}"
        out.append(f"{'  ' * depth}{f'{role} ' if role else ''}{' '.join([type(at).__name__, *words])}  {place}")
        todo += reversed(parts)
    return "\n".join(out)


def signature(name: str, cls: type[Op]) -> str:
    """`conv[dim, k = 1, s = 1](x)`."""
    statics = []
    for f in dataclasses.fields(cls):
        statics.append(f.name if f.default is dataclasses.MISSING else f"{f.name} = {_literal(f.default)}")
    ports = [p for p in cls.ports if p != "frame?"]
    brackets = f"[{', '.join(statics)}]" if statics else ""
    return f"{name}{brackets}({', '.join(ports)})"


def _summary(cls: type[Op]) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _attribute(f: dataclasses.Field[object]) -> tuple[str, str, str]:
    kinds = [k.strip() for k in str(f.type).replace('"', "").split("|")]
    kind = " or ".join("none" if k == "None" else KINDS.get(k, k) for k in kinds)
    meta = f.metadata
    doc = str(meta.get("doc", ""))
    low, high, choices, search = (meta.get(k) for k in ("low", "high", "choices", "search"))
    if choices:
        doc += f"; one of {', '.join(_literal(c) for c in choices)}"
    elif low is not None or high is not None:
        bounds = [f"from {low:g}" if low is not None else "", f"to {high:g}" if high is not None else ""]
        doc += f"; {' '.join(b for b in bounds if b)}"
    if search:
        doc += f"; search tries {', '.join(_literal(s) for s in search)}"
    return f.name, kind, doc


def _example(name: str, cls: type[Op], example: Example) -> list[str]:
    statics = ", ".join(f"{k} = {_literal(v)}" for k, v in example.attrs.items())
    inputs = ", ".join("none" if t is None else t.short() for t in example.inputs)
    call = f"  {name}{f'[{statics}]' if statics else ''}({inputs})"
    try:
        op = cls(**example.attrs).resolve(*example.inputs)
        results = op.infer(*example.inputs)
        weights = op.weights(*example.inputs)
    except ShapeError as e:
        return [call, f"    {e.message}"]
    out = [call, f"    -> {', '.join(t.short() for t in results)}"]
    out += [f"    {w.kind} {w.role or name} [{', '.join(str(int(n)) for n in w.shape)}]" for w in weights]
    return out


def _literal(value: object) -> str:
    """A compile-time value as the language writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _plain(text: str) -> str:
    """Text whose brackets rich must not read as markup."""
    from rich.markup import escape

    return escape(text)
