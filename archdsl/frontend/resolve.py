"""Checks a file's names before anything is evaluated: what is unknown, declared twice, or mislabelled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import dropwhile

from archdsl.diagnostics import Diagnostic, did_you_mean
from archdsl.frontend import places
from archdsl.frontend.names import children, label_mistakes
from archdsl.syntax import tree

STATIC_KINDS = ("int", "float", "bool", "str", "fn", "list")
TENSOR_KINDS = {"map": 3, "tokens": 2, "vec": 1, "scores": 3, "any": 1}
"""Kinds a port may have, and how many dims its type may name."""
MODE_NAMES = frozenset({"training", "deploy"})
SPACE_NAMES = frozenset({"params", "flops", "acts", "latency", "proxy", "train", "deploy"})
"""Measures that `check`, `require` and a space's goals may mention."""
ARCH_PARAMETERS = frozenset({"classes", "in_chans", "drop_rate", "dpr"})


MISTAKE_LIMIT = 20
"""What a file that is no spec at all is told; each suggestion compares a name with all others."""


class _Enough(Exception):
    """There are `MISTAKE_LIMIT` mistakes."""


@dataclass
class Names:
    """Names visible at some point, for lookups and suggestions."""

    parent: Names | None = None
    names: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        at: Names | None = self
        while at is not None:
            if name in at.names:
                return True
            at = at.parent
        return False

    def all(self) -> set[str]:
        return self.names | (self.parent.all() if self.parent else set())


def resolve(
    file: tree.File, outer: Collection[str], imported: Collection[str], parameters: Mapping[str, tuple[str, ...] | None]
) -> list[Diagnostic]:
    """All name mistakes of a file. `outer` are builtin and prelude names; `parameters` the parameter names of
    every arch and variant in sight (None where unknown)."""
    return _Resolver(file, set(outer) | MODE_NAMES, set(imported), parameters).run()


class _Resolver:
    def __init__(
        self, file: tree.File, outer: set[str], imported: set[str], parameters: Mapping[str, tuple[str, ...] | None]
    ) -> None:
        self.file, self.parameters = file, parameters
        self.found: list[Diagnostic] = []
        self.top = Names(Names(None, outer), set(imported))
        self.unset: set[str] = set()
        """Parameters of a space's base, while what the space sets is checked."""
        self.input: tree.Input | None = None
        """That of the arch which is being checked."""

    def report(self, code: str, title: str, span: object, **more: object) -> None:
        self.found.append(Diagnostic(code, title, span, **more))  # type: ignore[arg-type]
        if len(self.found) >= MISTAKE_LIMIT:
            raise _Enough

    def run(self) -> list[Diagnostic]:
        with suppress(_Enough):
            self.declarations()
            for item in self.file.items:
                self.item(item)
        return self.found

    def declarations(self) -> None:
        seen: dict[str, tree.Name] = {}
        for item in self.file.items:
            names = [n.alias or n.name for n in item.names] if isinstance(item, tree.Import) else []
            if isinstance(item, (tree.Let, tree.Def, tree.Extern, tree.Arch, tree.Variant, tree.Space)):
                names = [item.name]
            for name in names:
                if name.id in seen:
                    self.report(
                        "E-DUPLICATE",
                        f"`{name.id}` is declared twice in this file",
                        name.span,
                        notes=((seen[name.id].span, "first declared here"),),
                    )
                seen.setdefault(name.id, name)
                self.top.names.add(name.id)

    def item(self, item: tree.Item) -> None:
        match item:
            case tree.Let():
                self.expr(item.value, self.top)
                self.found += label_mistakes((item.value,))
            case tree.Def():
                self.definition(item)
            case tree.Extern():
                names = self.signature(item.statics, item.ports, self.top)
                for result in item.results:
                    self.expr(result, names)
                for cost in item.costs:
                    self.expr(cost.value, names)
            case tree.Arch():
                self.arch(item)
            case tree.Variant():
                self.variant(item)
            case tree.Check():
                if item.name.id not in self.parameters:
                    self.unknown(item.name, "architecture", self.parameters)
                names = Names(self.top, set(SPACE_NAMES))
                for condition in item.conditions:
                    self.expr(condition, names)
            case tree.Space():
                self.space(item)

    def unknown(self, name: tree.Name, noun: str, candidates: Collection[str]) -> None:
        help_ = did_you_mean(name.id, candidates)
        if name.id in self.unset:
            help_ = f"what a space sets sees what stands above it: set `{name.id}` there, or write its value"
        self.report("E-NAME", f"unknown {noun} `{name.id}`", name.span, help=help_)

    def signature(self, statics: Sequence[tree.Param], ports: Sequence[tree.Param], outer: Names) -> Names:
        """Names in force in a body; reports parameters declared twice and statics that are shape binders too."""
        names = Names(outer)
        first: dict[str, tree.Param] = {}
        for param in (*statics, *ports):
            if param.name.id in first:
                self.report(
                    "E-DUPLICATE",
                    f"parameter `{param.name.id}` is declared twice",
                    param.name.span,
                    notes=((first[param.name.id].name.span, "first declared here"),),
                )
            first[param.name.id] = param
        binders: dict[str, tree.Name] = {}
        for port in ports:
            for d in port.type.dims if port.type is not None else ():
                if isinstance(d, tree.Name) and d.id != "_" and d.id not in self.top:
                    binders.setdefault(d.id, d)
        for param in statics:
            if param.name.id in binders:
                self.report(
                    "E-BINDER",
                    f"`{param.name.id}` is both a compile-time parameter and a shape variable",
                    binders[param.name.id].span,
                    notes=((param.name.span, "declared as a parameter here"),),
                    help="rename one of them; an input's size is inferred, never given",
                )
        names.names |= first.keys() | binders.keys()
        for param in (*statics, *ports):
            if param.type is not None:
                inner = names if param in ports else Names(names, _binders_of(param.type))
                self.type(param.type, inner)
            if param.default is not None:
                self.expr(param.default, names)
        return names

    def type(self, ref: tree.TypeRef, names: Names) -> None:
        kind = ref.name.id
        most = TENSOR_KINDS.get(kind, 1)
        if kind not in TENSOR_KINDS and kind not in STATIC_KINDS:
            self.report(
                "E-TYPE",
                f"unknown type `{kind}`",
                ref.name.span,
                help=did_you_mean(kind, [*TENSOR_KINDS, *STATIC_KINDS])
                or "tensors are map tokens vec scores any; compile-time values int float bool str fn list",
            )
        elif len(ref.dims) > most:
            extra = ref.dims[most]
            form = {"map": "map[C, H, W]", "tokens": "tokens[N, C]", "vec": "vec[C]", "scores": "scores[h, Nq, Nk]"}
            self.report(
                "E-TYPE",
                f"`{kind}` has {most} dimension{'s' * (most > 1)}, this type names {len(ref.dims)}",
                extra.span if extra is not None else ref.span,
                help=f"write {form.get(kind, kind + '[n]')}, or fewer sizes",
            )
        for d in ref.dims:
            if d is not None:
                self.expr(d, names)
        for sub in (*ref.ports, *ref.results):
            self.type(sub, names)

    def definition(self, d: tree.Def) -> None:
        names = self.signature(d.statics, d.ports, self.top)
        for result in d.results:
            self.type(result, Names(names, _binders_of(result)))
        self.body((d.body,) if not isinstance(d.body, tree.Body) else d.body.statements, names)

    def arch(self, a: tree.Arch) -> None:
        names = self.signature(a.params, (), self.top)
        self.input = next((s for s in a.body.statements if isinstance(s, tree.Input)), None)
        self.body(a.body.statements, names)
        if self.input is None:
            self.report(
                "E-INPUT",
                f"`{a.name.id}` declares no input",
                a.name.span,
                help="begin with `input img: map[3, 224, 224]`",
            )

    def body(self, statements: Sequence[tree.Tree], names: Names) -> None:
        """Checks one body and the bodies inside it; its assignments are visible throughout."""
        inner = Names(names, assigned(statements))
        for statement in statements:
            self.expr(statement, inner)
        self.labels(statements)

    def labels(self, statements: Sequence[tree.Tree]) -> None:
        self.found += label_mistakes(statements)

        def visit(node: tree.Tree) -> None:
            if isinstance(node, (tree.Stage, tree.Blocks, tree.RegionBlock)):
                self.labels(node.body.statements)
            elif isinstance(node, tree.Lambda):
                self.labels((node.body,))
            else:
                for child in children(node):
                    visit(child)

        for node in statements:
            visit(node)

    def variant(self, v: tree.Variant) -> None:
        base = v.value.callee if isinstance(v.value, tree.Config) else v.value
        if not isinstance(base, tree.Name) or base.id not in self.parameters:
            if isinstance(base, tree.Name):
                self.unknown(base, "architecture", self.parameters)
            else:
                self.report(
                    "E-VARIANT",
                    "this is not a variant of an arch",
                    v.value.span,
                    help=f"write arch {v.name.id} = base[parameter = value]",
                )
            return
        below = dropwhile(lambda item: item is not v, self.file.items)
        if any(isinstance(item, (tree.Arch, tree.Variant)) and item.name.id == base.id for item in below):
            itself = "itself" if base.id == v.name.id else f"`{base.id}`, which stands below"
            self.report(
                "E-VARIANT",
                f"`{v.name.id}` is a variant of {itself}",
                base.span,
                help="a variant stands below the arch that it changes",
            )
            return
        known = self.parameters[base.id]
        for arg in v.value.args if isinstance(v.value, tree.Config) else ():
            if arg.name is None:
                text = places.shown(arg.value)
                self.report(
                    "E-VARIANT",
                    "this override does not say which parameter it sets",
                    arg.span,
                    help=f"write {known[0]} = {text}" if known and len(known) == 1 else f"write parameter = {text}",
                )
            elif known is not None and arg.name.id not in known:
                self.report(
                    "E-PARAMETER",
                    f"`{base.id}` has no parameter `{arg.name.id}`",
                    arg.name.span,
                    help=did_you_mean(arg.name.id, known),
                )
            self.expr(arg.value, Names(self.top, set(known or ())))

    def space(self, s: tree.Space) -> None:
        known = self.parameters.get(s.base.id)
        if s.base.id not in self.parameters:
            self.unknown(s.base, "architecture", self.parameters)
        names, set_above = Names(self.top, set(SPACE_NAMES) | set(known or ())), Names(self.top)
        for item in s.items:
            if isinstance(item, (tree.Let, tree.Binding)):
                if isinstance(item, tree.Binding) and known is not None and item.name.id not in known:
                    self.report(
                        "E-PARAMETER",
                        f"space `{s.name.id}` sets `{item.name.id}`, which is not a parameter of `{s.base.id}`",
                        item.name.span,
                        help=did_you_mean(item.name.id, known),
                    )
                self.unset = set(known or ())
                self.expr(item.value, set_above, choices=True)
                self.unset = set()
                set_above.names.add(item.name.id)
                names.names.add(item.name.id)
            else:
                for child in children(item):
                    self.expr(child, names)

    def expr(self, t: tree.Tree, names: Names, choices: bool = False) -> None:
        match t:
            case tree.Name():
                if t.id not in names:
                    self.unknown(t, "name", names.all())
            case tree.Config() | tree.Call():
                self.expr(t.callee, names, choices)
                for arg in t.args:
                    self.expr(arg.value, names, choices)
            case tree.Attribute() | tree.Label():
                self.expr(t.value, names, choices)
            case tree.Comprehension():
                self.expr(t.iterable, names, choices)
                inner = Names(names, {t.name.id})
                self.expr(t.item, inner, choices)
                if t.condition is not None:
                    self.expr(t.condition, inner, choices)
            case tree.Lambda():
                self.expr(t.body, Names(names, {p.id for p in t.params}), choices)
            case tree.Choice():
                if not choices:
                    self.report(
                        "E-CHOICE",
                        "an open choice {a | b}: build needs a concrete value",
                        t.span,
                        help="write one of the alternatives; only a space leaves choices open",
                    )
                for option in t.options:
                    self.expr(option, names, choices)
            case tree.Input():
                if t is not self.input:
                    self.report(
                        "E-INPUT",
                        "`input` stands once, at the beginning of an arch",
                        t.span,
                        help="one image comes in; a def names the tensors it takes in parentheses",
                    )
                self.type(t.type, names)
            case tree.Assign():
                self.expr(t.value, names)
            case tree.Update() | tree.Share():
                if isinstance(t, tree.Update):
                    self.expr(t.name, names)
                self.expr(t.value, names)
            case tree.For():
                self.expr(t.iterable, names)
                for s in t.body.statements:
                    self.expr(s, names)
            case tree.Blocks():
                self.expr(t.count, names)
                for s in t.body.statements:
                    self.expr(s, names)
            case tree.Stage():
                if t.iterable is not None:
                    self.expr(t.iterable, names)
                for s in t.body.statements:
                    self.expr(s, names)
                for result in t.results:
                    self.expr(result, names)
            case tree.RegionBlock():
                for s in t.body.statements:
                    self.expr(s, names)
            case tree.Require():
                self.expr(t.condition, Names(names, set(SPACE_NAMES)))
            case tree.TypeRef():
                self.type(t, names)
            case _:
                for child in children(t):
                    self.expr(child, names, choices)


def _binders_of(ref: tree.TypeRef) -> set[str]:
    out = {d.id for d in ref.dims if isinstance(d, tree.Name)} | {"_"}
    for sub in (*ref.ports, *ref.results):
        out |= _binders_of(sub)
    return out


def returns(node: tree.Tree) -> bool:
    """Whether a statement, or one inside it, returns."""
    if isinstance(node, tree.Return):
        return True
    inside = (tree.If, tree.For, tree.Blocks, tree.Stage, tree.RegionBlock, tree.Body)
    return isinstance(node, inside) and any(map(returns, children(node)))


def assigned(statements: Sequence[tree.Tree]) -> set[str]:
    """Names a body gives a value somewhere, nested control flow and regions included."""
    out: set[str] = set()

    def visit(node: tree.Tree) -> None:
        match node:
            case tree.Assign():
                out.update(n.id for n in node.names)
            case tree.Share() | tree.Input() | tree.Update():
                out.add(node.name.id)
            case tree.For():
                out.add(node.name.id)
                if node.index is not None:
                    out.add(node.index.id)
            case tree.Blocks() if node.name is not None:
                out.add(node.name.id)
            case tree.Stage() if node.iterable is not None:
                out.add(node.name.id)
        if isinstance(node, (tree.If, tree.For, tree.Blocks, tree.Stage, tree.RegionBlock, tree.Body)):
            for child in children(node):
                visit(child)

    for statement in statements:
        visit(statement)
    return out
