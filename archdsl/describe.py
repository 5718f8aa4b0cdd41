"""Turns what the compiler holds into pages: the lists of architectures and of ops, one op's reference, a tree."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from archdsl.cost import Costs, human, price
from archdsl.diagnostics import ArchError, Diagnostic, did_you_mean, error
from archdsl.frontend.locate import spec_files
from archdsl.frontend.program import Program
from archdsl.ops.base import KINDS, Example, Op, ShapeError
from archdsl.ops.vocabulary import Vocabulary
from archdsl.syntax.tree import Comment, Tree

if TYPE_CHECKING:
    from rich.table import Table


_PAPER = re.compile(r"\b\d{4}\.\d{5}\b")


@dataclass(frozen=True)
class Model:
    """An architecture as a list shows it: where it stands, its paper's arXiv number ("" unknown), what it costs."""

    name: str
    file: Path
    paper: str
    costs: Costs

    @property
    def input(self) -> str:
        return "x".join(map(str, self.costs.input))

    def as_dict(self) -> dict[str, object]:
        fields = ("name", "resolution", "width", "depth")
        stages = [{name: getattr(row, name) for name in fields} for row in self.costs.stages]
        return {
            "name": self.name,
            "file": str(self.file),
            "paper": self.paper,
            "input": list(self.costs.input),
            "stages": stages,
            **self.costs.total.as_dict(),
        }


def models(vocabulary: Vocabulary, directory: Path | None = None) -> tuple[list[Model], list[Diagnostic]]:
    """The architectures that a bare name stands for, by file, and what is wrong with the files that cannot be read.

    Of two of one name the first counts, as where a name is looked up.
    """
    found: dict[str, Model] = {}
    mistakes: list[Diagnostic] = []
    read: set[Path] = set()
    for path in spec_files(Path() if directory is None else directory):
        if (place := path.resolve()) in read:
            continue
        read.add(place)
        try:
            for model in models_of(path, vocabulary):
                found.setdefault(model.name, model)
        except ArchError as e:
            mistakes += e.diagnostics
    return sorted(found.values(), key=lambda model: model.file.name), mistakes


def models_of(path: Path, vocabulary: Vocabulary) -> list[Model]:
    """The architectures of a file that can be built, in its order. Raises ArchError."""
    program = Program.open(path, vocabulary)
    names = [name for name in program.archs if program.buildable(name)]
    return [Model(name, path, _paper(program, name), price(program.elaborate(name))) for name in names]


def models_table(models: Sequence[Model]) -> Table:
    """One line an architecture."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("architecture", no_wrap=True)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    table.add_column("input", no_wrap=True)
    table.add_column("stages: positions·channels ×blocks")
    table.add_column("paper", no_wrap=True)
    table.add_column("file")
    for model in models:
        costs = model.costs
        numbers = human(costs.params), human(costs.macs)
        file = model.file.name if model.file.is_absolute() else str(model.file)
        table.add_row(model.name, *numbers, model.input, costs.picture, model.paper, _plain(file))
    return table


def _paper(program: Program, name: str) -> str:
    """The arXiv number in the comment right above an arch, else the first one of the file's opening comment."""
    comments = {c.span.line: c.text for c in program.file.comments}
    arch = program.architectures[name]
    above = (arch.declared or arch.tree).span.line - 1
    for line in (above, 1):
        if found := _PAPER.search(comments.get(line, "")):
            return found[0]
    return ""


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
