"""A spec file with its imports read and names resolved: what can be built from it, checked and elaborated."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from archdsl.cost import price
from archdsl.diagnostics import ArchError, Diagnostic, Source, did_you_mean, error
from archdsl.frontend import places
from archdsl.frontend.builtins import BUILTINS, CONSTANTS
from archdsl.frontend.elaborate import Elaborator
from archdsl.frontend.names import Sites, children, mentions, name_sites, root_name
from archdsl.frontend.resolve import resolve
from archdsl.frontend.values import Architecture, Builtin, Data, Function, Record, Scope, is_number, show
from archdsl.ir.graph import Graph
from archdsl.ops.base import Op
from archdsl.ops.vocabulary import Vocabulary
from archdsl.resources import specs_dir
from archdsl.syntax import tree
from archdsl.syntax.parser import parse, read_source
from archdsl.syntax.tree import Space

PRELUDE = "std/prelude.arch"
IMPORT_DEPTH = 50
MEASURES = ("params", "flops", "acts")
"""What a `check` or a `require` may ask of a graph."""


@dataclass
class _File:
    """One file being loaded: its tree, its scope, and what it offers to importers."""

    tree: tree.File
    scope: Scope
    architectures: dict[str, Architecture] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)


class Loader:
    """Reads files and their imports once each. `sites` are the call-site names, kept across elaborations."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.files: dict[Path, _File] = {}
        self.loading: list[Path] = []
        self.root: Path | None = None
        """The directory that imports must stay below; None while only shipped files are read."""
        self.names = SiteNames(vocabulary)
        names: dict[str, Data] = dict(CONSTANTS)
        names |= {n: Function(n, b) for n, b in BUILTINS.items()}
        for name in ("sum", "unframe"):
            names[name] = Function(name, Builtin(name, lambda *_: None))
        self.builtins = Scope(Scope(None, OpNames(vocabulary)), names)
        prelude = self.load(specs_dir() / PRELUDE, None, self.builtins)
        self.prelude = Scope(self.builtins, dict(prelude.scope.names))

    def load(self, path: Path, source: Source | None, outer: Scope) -> _File:
        key = _real(path) if source is None or path.is_file() else Path(f"<{source.name}>")
        if key in self.files:
            return self.files[key]
        file = parse(source if source is not None else read_source(path, _shown(path)))
        self.loading.append(key)
        try:
            self.files[key] = loaded = self.loaded(file, path, outer)
        finally:
            self.loading.pop()
        return loaded

    def loaded(self, file: tree.File, path: Path, outer: Scope) -> _File:
        """A parsed file with its imports taken and its names resolved."""
        loaded = _File(file, Scope(outer))
        mistakes: list[Diagnostic] = []
        imported: set[str] = set()
        for item in file.items:
            if isinstance(item, tree.Import):
                try:
                    imported |= self.take(item, path, loaded, outer)
                except ArchError as e:
                    mistakes += e.diagnostics
                    imported |= {(n.alias or n.name).id for n in item.names}
        parameters: dict[str, tuple[str, ...] | None] = {
            n: tuple(p.name.id for p in a.tree.params) for n, a in loaded.architectures.items()
        }
        for item in file.items:
            if isinstance(item, tree.Arch):
                parameters[item.name.id] = tuple(p.name.id for p in item.params)
            elif isinstance(item, tree.Variant):
                parameters[item.name.id] = parameters.get(root_name(item.value) or "")
        mistakes += resolve(file, outer.visible(), imported, parameters)
        if mistakes:
            raise ArchError(*mistakes)
        self.declare(loaded)
        return loaded

    def take(self, item: tree.Import, path: Path, into: _File, outer: Scope) -> set[str]:
        """Makes an import's names visible; a relative file is looked for beside the importer, then among ours."""
        name = item.file.value
        candidates = [path.parent / name, specs_dir() / name]
        target = next((c for c in candidates if _is_file(c)), None)
        if target is not None and not self.reaches(target):
            raise error(
                "E-IMPORT",
                f"`{name}` leaves the directory of the spec",
                item.file.span,
                help="imports stay below the directory of the file that is compiled, or among the shipped specs: "
                "move the file there, or compile a file further up",
            )
        if target is not None and len(self.loading) >= IMPORT_DEPTH:
            raise error(
                "E-IMPORT",
                f"imports are nested more than {IMPORT_DEPTH} deep",
                item.file.span,
                help="import directly from the file that defines a name",
            )
        if target is None:
            raise error(
                "E-IMPORT", f"there is no file `{name}` to import from", item.file.span, help=_importable(name, path)
            )
        if _real(target) in self.loading:
            circle = [*self.loading[self.loading.index(_real(target)) :], target]
            chain = " -> ".join(p.name for p in circle)
            raise error(
                "E-IMPORT-CYCLE",
                "this file imports itself" if len(circle) == 2 else f"files import each other in a circle: {chain}",
                item.file.span,
                help="remove the import: everything in this file is in sight already"
                if len(circle) == 2
                else "move what both need into a third file",
            )
        shipped = _real(specs_dir()) / "std" in _real(target).parents
        source = self.load(target, None, self.builtins if shipped else outer)
        names = set()
        for n in item.names:
            alias = (n.alias or n.name).id
            if n.name.id in source.architectures:
                into.architectures[alias] = source.architectures[n.name.id]
                into.scope.names[alias] = source.architectures[n.name.id]
            elif n.name.id in source.scope.names:
                into.scope.names[alias] = source.scope.names[n.name.id]
            else:
                offered = source.scope.names.keys() | source.architectures.keys()
                raise error(
                    "E-IMPORT",
                    f"{name} does not define `{n.name.id}`",
                    n.name.span,
                    help=did_you_mean(n.name.id, offered) or f"it defines {', '.join(sorted(offered)) or 'nothing'}",
                )
            names.add(alias)
        return names

    def reaches(self, target: Path) -> bool:
        """Whether an import may read a file, wherever links lead: a spec somebody sent reads nothing else of ours."""
        within = [_real(specs_dir())] if self.root is None else [self.root, _real(specs_dir())]
        return any(_real(target).is_relative_to(directory) for directory in within)

    def declare(self, file: _File) -> None:
        """Fills a file's scope: defs and externs first, then lets in order, then archs and variants."""
        scope = file.scope
        for item in file.tree.items:
            if isinstance(item, (tree.Def, tree.Extern)):
                scope.names[item.name.id] = Function(item.name.id, item, scope)
        evaluator = Elaborator(self.vocabulary, self.names.of)
        evaluator.home = file.tree.source
        for item in file.tree.items:
            if isinstance(item, tree.Let):
                try:
                    scope.names[item.name.id] = evaluator.evaluate(item.value, scope)
                except ArchError as e:
                    evaluator.recover(e, (item.name.id,), scope)
        evaluator.report()
        for item in file.tree.items:
            if isinstance(item, tree.Arch):
                file.architectures[item.name.id] = Architecture(item.name.id, item, scope, declared=item)
                scope.names[item.name.id] = file.architectures[item.name.id]
            elif isinstance(item, tree.Variant):
                base = file.architectures[root_name(item.value) or ""]
                args = item.value.args if isinstance(item.value, tree.Config) else ()
                over = tuple((a.name.id, a.value, scope) for a in args if a.name is not None)
                made = Architecture(item.name.id, base.tree, base.scope, base.overrides + over, declared=item)
                file.architectures[item.name.id] = made
                scope.names[item.name.id] = made
            elif isinstance(item, tree.Space):
                file.spaces[item.name.id] = item


class OpNames(dict[str, Data]):
    """Ops as functions, by name; an op is imported when its function is first read."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(dict.fromkeys(vocabulary.callables()))
        self.vocabulary = vocabulary

    def __getitem__(self, name: str) -> Data:
        value = super().__getitem__(name)
        if value is None:
            value = self[name] = Function(name, self.vocabulary[name])
        return value


class SiteNames:
    """Call-site names of bodies, computed once a body."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.known: dict[tree.Tree, Sites] = {}

    def of(self, owner: tree.Tree, body: Sequence[tree.Tree], region: bool) -> Sites:
        sites = self.known.get(owner)
        if sites is None:
            sites = self.known[owner] = name_sites(body, self.owns, region)
        return sites

    def owns(self, callee: tree.Expr) -> bool:
        """Whether a call may own weights: any call but of a weightless op or a compile-time function.

        Elision looks at this, so that adding a dropout or an activation beside a block renames nothing.
        """
        name = root_name(callee)
        if name is None:
            return True
        cls = self.vocabulary.get(name)
        if cls is not None and cls.callable:
            return cls.weights is not Op.weights
        return name not in BUILTINS and name not in ("sum", "unframe")


@dataclass(frozen=True)
class Program:
    """A spec: the architectures and spaces a file declares, ready to be elaborated."""

    path: Path
    source: Source
    file: tree.File
    architectures: Mapping[str, Architecture]
    """Those declared in this file, in textual order."""
    spaces: Mapping[str, tree.Space]
    scope: Scope
    loader: Loader

    @staticmethod
    def open(path: str | Path, vocabulary: Vocabulary | None = None, loader: Loader | None = None) -> Program:
        """Reads a file. Raises ArchError with every mistake of the first phase that finds any."""
        return Program.parse(read_source(Path(path)), Path(path), vocabulary, loader)

    @staticmethod
    def parse(
        source: Source, path: Path | None = None, vocabulary: Vocabulary | None = None, loader: Loader | None = None
    ) -> Program:
        loader = loader or Loader(vocabulary or Vocabulary.of())
        where = path or Path(source.name)
        loader.root = _real(where.parent)
        loaded = loader.load(where, source, loader.prelude)
        own = {
            i.name.id: loaded.architectures[i.name.id]
            for i in loaded.tree.items
            if isinstance(i, (tree.Arch, tree.Variant))
        }
        return Program(where, source, loaded.tree, own, loaded.spaces, loaded.scope, loader)

    @property
    def archs(self) -> tuple[str, ...]:
        return tuple(self.architectures)

    def buildable(self, name: str) -> bool:
        """Whether every parameter of an arch has a value."""
        arch = self.architectures[name]
        given = {n for n, _, _ in arch.overrides}
        return all(p.default is not None or p.name.id in given for p in arch.tree.params)

    def architecture(self, name: str | None = None) -> Architecture:
        """An arch by name; without a name, the first that can be built. Raises ArchError."""
        if name is None:
            name = next((n for n in self.architectures if self.buildable(n)), None)
            if name is None:
                missing = next(iter(self.architectures.values()), None)
                needs = [p.name.id for p in missing.tree.params if p.default is None] if missing else []
                raise error(
                    "E-SPEC",
                    f"{self.source.name} declares no architecture that can be built",
                    help=f"declare a variant: arch b = {missing.name}[{', '.join(f'{n} = ...' for n in needs)}]"
                    if missing
                    else "an architecture is declared by `arch name { ... }`",
                )
        if name not in self.architectures:
            raise error(
                "E-SPEC",
                f"{self.source.name} declares no architecture `{name}`",
                help=did_you_mean(name, self.architectures),
            )
        return self.architectures[name]

    def elaborate(
        self,
        arch: str | None = None,
        *,
        mode: str = "eval",
        input: tuple[int, int, int] | None = None,
        overrides: Mapping[str, object] | None = None,
        decide: Callable[[str, int], int] | None = None,
    ) -> Graph:
        """The graph of an architecture at an input size (channels, height, width), with parameters overridden.

        An override is a Python value (lists become tuples), a Function, or archdsl text to be evaluated in the file's
        scope (`"mlp[2]"`). Raises ArchError.
        """
        return self._elaborate(arch, mode, input, overrides, decide)[0]

    def _elaborate(
        self,
        arch: str | None,
        mode: str,
        input: tuple[int, int, int] | None = None,
        overrides: Mapping[str, object] | None = None,
        decide: Callable[[str, int], int] | None = None,
    ) -> tuple[Graph, bool]:
        """The graph, and whether it depends on the mode."""
        found = self.architecture(arch)
        evaluator = Elaborator(self.loader.vocabulary, self.loader.names.of, mode, decide)
        given = {k: self.override(found, k, v, evaluator) for k, v in (overrides or {}).items()}
        graph = evaluator.elaborate(found, given, self.source.name, input)
        mistakes = self.requirements(evaluator, graph)
        if mistakes:
            raise ArchError(*mistakes)
        return graph, evaluator.mode_read

    def override(self, arch: Architecture, name: str, value: object, evaluator: Elaborator) -> Data:
        names = [p.name.id for p in arch.tree.params]
        if name not in names:
            raise error("E-PARAMETER", f"`{arch.name}` has no parameter `{name}`", help=did_you_mean(name, names))
        if isinstance(value, str):
            source = Source(f"--set {name}", f"let {name} = {value}\n")
            file = parse(source)
            mistakes = resolve(file, self.scope.visible(), (), {})
            if mistakes:
                raise ArchError(*mistakes)
            item = file.items[0]
            assert isinstance(item, tree.Let)
            return evaluator.evaluate(item.value, Scope(self.scope))
        return _data(value)

    def requirements(self, evaluator: Elaborator, graph: Graph) -> list[Diagnostic]:
        """The `require`s that do not hold; those that mention costs mean the eval graph."""
        if not evaluator.deferred:
            return []
        out: list[Diagnostic] = []
        for statement, scope in evaluator.deferred:
            costly = any(mentions(statement.condition, n) for n in MEASURES)
            if costly and graph.mode != "eval":
                continue
            inner = Scope(scope, _measures(graph) if costly else {})
            if evaluator.truth(statement.condition, inner, None):
                continue
            text = statement.message.value if statement.message is not None else places.shown(statement.condition)
            span = statement.condition.span
            facts = _facts(statement.condition, inner, evaluator)
            out.append(
                Diagnostic(
                    "E-REQUIRE",
                    f"`{graph.name}` does not meet a requirement: {text}",
                    span,
                    label=facts,
                    notes=tuple(evaluator.whence(span)),
                )
            )
        return out

    def check(self) -> list[Diagnostic]:
        """Elaborates every buildable arch in every mode and tests the file's `check`s; all mistakes, each once."""
        found: dict[tuple[object, ...], Diagnostic] = {}
        graphs: dict[tuple[str, str], Graph] = {}
        for name in self.architectures:
            if not self.buildable(name):
                continue
            for mode in ("eval", "train", "deploy"):
                try:
                    graph, depends = self._elaborate(name, mode)
                except ArchError as e:
                    for d in e.diagnostics:
                        found.setdefault((d.code, d.span), d)
                    break
                graphs[name, mode] = graph
                if not depends:
                    graphs[name, "train"] = graphs[name, "deploy"] = graph
                    break
        for name, arch in self.architectures.items():
            if (name, "eval") in graphs and (name, "train") in graphs:
                for d in _untrained(arch, graphs[name, "eval"], graphs[name, "train"]):
                    found.setdefault((d.code, d.span), d)
        for item in self.file.items:
            if isinstance(item, tree.Check) and (item.name.id, "eval") in graphs:
                for d in self.check_item(item, graphs):
                    found.setdefault((d.code, d.span), d)
        if self.spaces:
            from archdsl.frontend.space import Space

            for name in self.spaces:
                try:
                    mistakes = Space.open(self, name).check()
                except ArchError as e:
                    mistakes = list(e.diagnostics)
                for d in mistakes:
                    found.setdefault((d.code, d.span), d)
        return list(found.values())

    def check_item(self, item: tree.Check, graphs: Mapping[tuple[str, str], Graph]) -> list[Diagnostic]:
        out: list[Diagnostic] = []
        graph = graphs[item.name.id, "eval"]
        eval_measures = _measures(graph)
        names = dict(eval_measures)
        for mode in ("train", "deploy"):
            other = graphs.get((item.name.id, mode))
            if other is not None:
                measures = eval_measures if other is graph else _measures(other)
                names[mode] = Record(measures.__getitem__, MEASURES)
        evaluator = Elaborator(self.loader.vocabulary, self.loader.names.of)
        for condition in item.conditions:
            try:
                holds = evaluator.truth(condition, Scope(self.scope, dict(names)), None)
            except ArchError as e:
                out += e.diagnostics
                continue
            if not holds:
                out.append(
                    Diagnostic(
                        "E-CHECK",
                        f"check failed for `{item.name.id}`: {places.shown(condition)}",
                        condition.span,
                        label=_facts(condition, Scope(self.scope, names), evaluator),
                        help="measured at the declared input, in the eval graph unless a mode is named",
                    )
                )
        return out


def _real(path: Path) -> Path:
    """The file that links lead to; unlike `Path.resolve`, links in a circle are no exception."""
    return Path(os.path.realpath(path))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that the file system cannot hold
        return False


def _shown(path: Path) -> str | None:
    """How messages call an imported file: a shipped one as an import names it."""
    shipped = specs_dir()
    return path.relative_to(shipped).as_posix() if path.is_relative_to(shipped) else None


def _untrained(arch: Architecture, used: Graph, trained: Graph) -> list[Diagnostic]:
    """The first weight that the eval graph uses and the train graph lacks, or has in another shape."""
    for path, param in used.params.items() if used is not trained else ():
        other = trained.params.get(path)
        if other is None or other.shape != param.shape:
            shape = "x".join(map(str, param.shape))
            why = "training has none" if other is None else f"in training it is {'x'.join(map(str, other.shape))}"
            node = next(n for n in used.nodes() if any(p == path for _, p in n.params))
            return [
                Diagnostic(
                    "E-MODE",
                    f"`{arch.name}` uses a weight `{path}` of {shape} when it is evaluated, but {why}",
                    node.span,
                    help="what training does differently may add weights, never replace them",
                )
            ]
    return []


def _measures(graph: Graph) -> dict[str, Data]:
    total = price(graph).total
    return {"params": int(total.params), "flops": int(total.macs), "acts": int(total.activations)}


def _facts(condition: tree.Tree, scope: Scope, evaluator: Elaborator) -> str:
    """What the names in a condition are, as `params = 28.29M`."""
    found: dict[str, Data] = {}

    def visit(node: tree.Tree) -> None:
        if isinstance(node, (tree.Name, tree.Attribute)):
            value = evaluator.evaluate(node, scope)
            if value is None or isinstance(value, (int, float, str, tuple)):
                found[places.shown(node)] = value
            return
        for child in children(node):
            visit(child)

    visit(condition)
    return ", ".join(f"{name} = {_amount(value)}" for name, value in found.items())


def _amount(value: Data) -> str:
    """A number as a spec would write it, to four digits and more where it is small."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 100_000:
        scale, unit = (1e9, "G") if value >= 1e9 else (1e6, "M")
        return f"{value / scale:.4g}{unit}" if value < 1e6 else f"{value / scale:.2f}{unit}"
    return show(value)


def _importable(name: str, path: Path) -> str:
    """Files that an import could have meant."""
    beside = {p.name for p in path.parent.glob("*.arch")} - {path.name}
    shipped = {f"std/{p.name}" for p in (specs_dir() / "std").glob("*.arch")}
    close = did_you_mean(name, beside | shipped)
    return close or f"files are found beside this one, and shipped are {', '.join(sorted(shipped))}"


def _data(value: object) -> Data:
    if isinstance(value, (list, tuple)):
        return tuple(_data(v) for v in value)
    if value is None or isinstance(value, (bool, str, Function)) or is_number(value):  # type: ignore[arg-type]
        return value  # type: ignore[return-value]
    raise TypeError(f"an override must be a number, bool, str, none or list of them, got {type(value).__name__}")
