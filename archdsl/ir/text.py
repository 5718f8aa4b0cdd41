"""Turns a Graph into text, one node a line, and the text back into an equal Graph (docs/ir.md)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from archdsl.diagnostics import ArchError, Source, Span, did_you_mean
from archdsl.ir import sizes
from archdsl.ir.graph import Feature, Graph, Guard, Operation, Parameter, Region, Static, Value
from archdsl.ir.lines import (
    VERSION,
    Box,
    Formula,
    Line,
    Origin,
    Raw,
    Setting,
    Type,
    Word,
    integer,
    mistake,
    of,
    piece,
    quoted,
    read_lines,
    string,
    tokens,
)
from archdsl.ir.sizes import Condition, Size
from archdsl.ir.types import TensorType, size_text
from archdsl.syntax.lalr import Token, Tree

MODES = ("train", "eval", "tune", "deploy")

Constructors: TypeAlias = Mapping[str, Callable[..., Operation]]
"""Op classes by name; an op is built from its attributes as keywords."""


# -- graph -> text ---------------------------------------------------------------------------


def print_graph(graph: Graph) -> str:
    """The graph as text. `parse_graph` gives an equal graph back, and printing that gives the same bytes."""
    origin = f" from {quoted(graph.source)}" if graph.source else ""
    out = [f"ir {VERSION}", f"graph {_word(graph.name)} mode {graph.mode}{origin}"]
    out += [f"static {_word(name)} = {static_text(value)}" for name, value in graph.statics.items()]
    out += [_region_line(graph, region) for region in graph.regions]
    out += [_param_line(param) for param in graph.params.values()]
    inputs = {value.node for value in graph.inputs}
    for node in graph.nodes():
        names = " as " + ", ".join(map(_word, node.names)) if node.names else ""
        operands = ", ".join("_" if v is None else value_text(v) for v in graph.operands(node))
        types = ", ".join(_input_type(t) if node.path in inputs else str(t) for t in node.outputs)
        out.append(
            ("input " if node.path in inputs else "")
            + f"%{_path(node.path)}{names} = {node.op.name}{_statics(_given(node.op))}({operands})"
            + _weights(node.module, node.params)
            + f" in {node.region} : {types}{_origin(graph, node.span)}"
        )
    if graph.outputs:
        out.append("output " + ", ".join(map(value_text, graph.outputs)))
    out += [f"feature {quoted(f.stage)} {_word(f.name)} = {value_text(f.value)}" for f in graph.features]
    out += [f"guard {g.condition} {quoted(g.decision)}{_origin(graph, g.span)}" for g in graph.guards]
    return "\n".join(out) + "\n"


def static_text(value: Static) -> str:
    """A compile-time value: a size keeps its expression in braces, a float its exact value."""
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(map(static_text, value)) + "]"
    return repr(value) if isinstance(value, float) else size_text(value)


def value_text(value: Value) -> str:
    return f"%{_path(value.node)}" + (f":{value.index}" if value.index else "")


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"[A-Za-z0-9_.#]+")


def _word(text: str) -> str:
    return text if _WORD.fullmatch(text) else quoted(text)


def _path(text: str) -> str:
    return text if _PATH.fullmatch(text) else quoted(text)


def _statics(values: Iterable[tuple[str, Static]]) -> str:
    inner = ", ".join(f"{_word(name)} = {static_text(value)}" for name, value in values)
    return f"[{inner}]" if inner else ""


def _given(op: Operation) -> list[tuple[str, Static]]:
    """The attributes that are not what they would be if left out."""
    usual = {f.name: f.default for f in dataclasses.fields(op)}  # type: ignore[arg-type]
    return [(name, v) for name, v in op.attributes().items() if name not in usual or not _identical(v, usual[name])]


def _identical(a: object, b: object) -> bool:
    """Equal and of one type: 1, 1.0, True and a Size of 1 are four values."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_identical, a, b))
    return type(a) is type(b) and a == b


def _weights(module: str, params: Sequence[tuple[str, str]]) -> str:
    if not module and not params:
        return ""
    inner = (_word(r) + ("" if path == weight_path(module, r) else f" = @{_path(path)}") for r, path in params)
    return f" on @{_path(module)}" + (f"{{{', '.join(inner)}}}" if params else "")


def weight_path(module: str, role: str) -> str:
    """Where a weight of a module lives unless the graph says otherwise."""
    return f"{module}.{role}" if module and role else module or role


def _param_line(param: Parameter) -> str:
    out = f"{param.kind} @{_path(param.path)} : {static_text(param.shape)}"
    for name, value, usual in (
        ("init", param.init, "zeros"),
        ("dtype", param.dtype, ""),
        ("resize", param.resize, ""),
    ):
        out += "" if value == usual else f" {name} {quoted(value)}"
    return out


def _region_line(graph: Graph, region: Region) -> str:
    ports = ", ".join(f"{_word(name)} = {value_text(value)}" for name, value in region.ports)
    return (
        f"region {region.id} {region.kind} {_word(region.name)}{_statics(region.statics)}"
        + (f"({ports})" if ports else "")
        + (" -> " + ", ".join(map(value_text, region.results)) if region.results else "")
        + ("" if region.parent is None else f" in {region.parent}")
        + ("" if region.index is None else f" index {region.index}")
        + (f" segment {quoted(region.segment)}" if region.segment else "")
        + (f" on @{_path(region.module)}" if region.module else "")
        + (f" share @{_path(region.share)}" if region.share else "")
        + _origin(graph, region.span)
    )


def _input_type(t: TensorType) -> str:
    """An input's type, which says what the axes that all other sizes are expressed in are."""

    def show(size: int) -> str:
        return f"{size.expr} = {size}" if isinstance(size, Size) and isinstance(size.expr, str) else size_text(size)

    return f"{t.kind}[{', '.join(map(show, t.dims))}]"


def _origin(graph: Graph, span: Span | None) -> str:
    if span is None:
        return ""
    file = "" if span.source.name == graph.source else quoted(span.source.name) + ":"
    return f" from {file}{span.line}:{span.column}-{span.end_line}:{span.end_column}"


# -- text -> graph ---------------------------------------------------------------------------


def parse_graph(
    text: str,
    vocabulary: Constructors,
    *,
    name: str = "graph.ir",
    sources: Mapping[str, Source] | None = None,
) -> Graph:
    """The graph that a text denotes; result types are inferred anew and must be those written.

    `name` is what messages call the text. Spans point into `sources` by file name, or into an empty source of
    that name. Raises ArchError with code E-IR.
    """
    source = Source(name, text)
    return _Assembly(source, vocabulary, dict(sources or {})).graph(read_lines(source))


_REF = re.compile(r'%([A-Za-z0-9_.#]+|".*")(?::([0-9]+))?', re.DOTALL)
_CLAUSES = {
    "param": ("INIT", "DTYPE", "RESIZE"),
    "region": ("IN", "INDEX", "SEGMENT", "ON", "SHARE"),
    "node": ("IN", "ON"),
}


@dataclass
class _Assembly:
    """Puts a graph together from the lines of a text."""

    source: Source
    vocabulary: Constructors
    sources: dict[str, Source]
    axes: dict[str, int] = field(default_factory=dict)
    made: Graph = field(default_factory=lambda: Graph(""))

    def graph(self, lines: Sequence[Line]) -> Graph:
        def each(rule: str) -> list[Line]:
            return [x for x in lines if x.data == rule]

        headers = each("graph")
        if len(headers) != 1:
            raise self._wrong(of(Token, headers[1])[0] if headers else None, "a text has one `graph` line")
        self._header(headers[0])
        for line in each("node"):
            self._axes(line)
        for line in each("static"):
            self._static_line(line)
        for line in each("param"):
            self._param(line)
        for line in each("node"):
            self._node(line)
        for line in each("region"):
            self._region(line)
        for line in each("output"):
            self.made.outputs += self._values(line)
        for line in each("feature"):
            stage, name = self._strings(line)[0], of(Word, line)[0].text
            self.made.features.append(Feature(stage, name, self._values(line)[0]))
        for line in each("guard"):
            self._guard(line)
        return self.made

    # -- lines -----------------------------------------------------------------------------

    def _header(self, line: Line) -> None:
        mode = tokens(line, "NAME")[0]
        if mode not in MODES:
            raise self._wrong(mode, f"`{mode}` is not a mode", "modes are " + ", ".join(MODES))
        self.made.name, self.made.mode = of(Word, line)[0].text, str(mode)
        self.made.source = "".join(self._strings(line))

    def _axes(self, line: Line) -> None:
        for t in of(Type, piece(line, "types")):
            if t.axes and not tokens(line, "INPUT"):
                raise self._wrong(t.at, "only an input defines axes", "write the size as a number")
            for name, value in t.axes:
                assert isinstance(value, int)
                known = self.axes.setdefault(name, value)
                if known != value:
                    raise self._wrong(t.at, f"axis {name} is {value} here and {known} in another input")

    def _static_line(self, line: Line) -> None:
        word = of(Word, line)[0]
        self._new(word.text, self.made.statics, word.at, "static")
        self.made.statics[word.text] = self._static(of(Box, line)[0].value)

    def _param(self, line: Line) -> None:
        kind, token = of(Token, line)[:2]
        path, clauses = self._path(token), self._clauses(line)
        self._new(path, self.made.params, token, "parameter")
        shape = []
        listed = of(Box, line)[0].value
        assert isinstance(listed, tuple)
        for size in map(self._static, listed):
            if not isinstance(size, int) or isinstance(size, bool):
                raise self._wrong(token, "a shape is a list of integers")
            shape.append(size)
        text = {kind: string(self.source, token) for kind, token in clauses.items()}
        self.made.params[path] = Parameter(
            path,
            tuple(shape),
            text.get("INIT", "zeros"),
            str(kind),
            text.get("DTYPE", ""),
            text.get("RESIZE", ""),
        )

    def _node(self, line: Line) -> None:
        target, call = piece(line, "target"), piece(line, "call")
        at = tokens(target, "VALUE")[0]
        path, index = self._ref(at)
        if index:
            raise self._wrong(at, "a node is named without the number of a result")
        self._new(path, self.made.net, at, "node")
        name, clauses = tokens(call, "NAME")[0], self._clauses(line)
        if "IN" not in clauses:
            raise self._wrong(name, "a node names its region", "write `in 0` after the operands")
        op = self._op(name, self._settings(call))
        operands = [None if t.type == "ABSENT" else self._value(t) for t in tokens(call, "VALUE", "ABSENT")]
        types = of(Type, piece(line, "types"))
        is_input = bool(tokens(line, "INPUT"))
        if is_input and (operands or len(types) != 1):
            raise self._wrong(name, "an input has no operands and one result")
        outputs = (self._input(types[0]),) if is_input else self._infer(name, op, operands, types)
        module, params = self._weights(line)
        self.made.add(
            op,
            operands,
            outputs,
            path=path,
            region=integer(self.source, clauses["IN"]),
            span=self._span(line),
            module=module,
            params=params,
            names=tuple(w.text for w in of(Word, piece(target, "names"))),
        )
        if is_input:
            self.made.inputs.append(Value(path, 0, outputs[0]))

    def _op(self, name: Token, settings: Sequence[Setting]) -> Operation:
        if name not in self.vocabulary:
            raise self._wrong(name, f"there is no op `{name}`", did_you_mean(str(name), self.vocabulary))
        attrs: dict[str, Static] = {}
        known = [f.name for f in dataclasses.fields(self.vocabulary[str(name)])]  # type: ignore[arg-type]
        for setting in settings:
            self._new(setting.name, attrs, setting.at, "attribute")
            if setting.name not in known:
                title = f"`{name}` has no attribute `{setting.name}`"
                raise self._wrong(setting.at, title, did_you_mean(setting.name, known))
            attrs[setting.name] = self._static(setting.value)
        try:
            return self.vocabulary[str(name)](**attrs)
        except Exception as e:  # an op trusts what it is given; a text may say anything
            raise self._wrong(name, f"`{name}` does not take these attributes: {_reason(e)}") from None

    def _infer(
        self, name: Token, op: Operation, operands: Sequence[Value | None], types: Sequence[Type]
    ) -> tuple[TensorType, ...]:
        try:
            outputs = op.infer(*(None if v is None else v.type for v in operands))
            found = [str(t) for t in outputs]
        except Exception as e:  # see _op
            raise self._wrong(name, f"`{name}` does not take these operands: {_reason(e)}") from None
        written = [t.text for t in types]
        if written != found:
            at = next((t.at for t, f in zip(types, found, strict=False) if t.text != f), name)
            title = f"`{name}` gives {', '.join(found)}, not {', '.join(written)}"
            raise self._wrong(at, title, "types follow from the operands; change the op instead")
        return outputs

    def _input(self, t: Type) -> TensorType:
        dims = []
        for size in map(self._static, t.dims):
            assert isinstance(size, int)
            dims.append(size)
        plain = f"{t.kind}[{', '.join('?' if isinstance(d, Formula) else str(d) for d in t.dims)}]"
        if not dims or t.text != plain:
            raise self._wrong(t.at, "an input has sizes and is in no frame")
        return TensorType(t.kind, tuple(dims))

    def _region(self, line: Line) -> None:
        kind, number = tokens(line, "NAME")[0], tokens(line, "INT")[0]
        due = len(self.made.regions)
        if integer(self.source, number) != due:
            raise self._wrong(number, f"region {number} stands where region {due} is due")
        clauses = self._clauses(line)
        numbers = {k: integer(self.source, t) for k, t in clauses.items() if t.type == "INT"}
        ports = tuple((of(Word, p)[0].text, self._values(p)[0]) for p in of(Tree, piece(line, "ports")))
        self.made.regions.append(
            Region(
                due,
                numbers.get("IN"),
                str(kind),
                of(Word, line)[0].text,
                segment=string(self.source, clauses["SEGMENT"]) if "SEGMENT" in clauses else "",
                module=self._weights(line)[0],
                span=self._span(line),
                index=numbers.get("INDEX"),
                statics=tuple((s.name, self._static(s.value)) for s in self._settings(line)),
                ports=ports,
                results=self._values(piece(line, "results")),
                share=self._path(clauses["SHARE"]) if "SHARE" in clauses else "",
            )
        )

    def _guard(self, line: Line) -> None:
        left, right = of(Formula, line)
        self._number(left)
        self._number(right)
        condition = Condition(str(tokens(line, "COMPARE")[0]), left.expr, right.expr)
        self.made.guards.append(Guard(condition, self._strings(line)[0], self._span(line)))

    # -- pieces of lines -------------------------------------------------------------------

    def _clauses(self, line: Line) -> dict[str, Token]:
        """What follows each keyword, by keyword; each at most once, and only those that the line takes."""
        found: dict[str, Token] = {}
        for part in of(Tree, line):
            if part.data not in ("within", "on", "clause"):
                continue
            keyword, argument = of(Token, part)[:2]
            if keyword.type in found or keyword.type not in _CLAUSES[str(line.data)]:
                raise self._wrong(keyword, f"`{keyword}` cannot stand here")
            found[keyword.type] = argument
        return found

    def _weights(self, line: Line) -> tuple[str, tuple[tuple[str, str], ...]]:
        on = piece(line, "on")
        if on is None:
            return "", ()
        module = self._path(tokens(on, "WEIGHT")[0])
        params = []
        for part in of(Tree, on):
            role, paths = of(Word, part)[0].text, tokens(part, "WEIGHT")
            params.append((role, self._path(paths[0]) if paths else weight_path(module, role)))
        return module, tuple(params)

    def _settings(self, line: Line | None) -> list[Setting]:
        return of(Setting, piece(line, "statics"))

    def _strings(self, line: Line) -> list[str]:
        return [string(self.source, t) for t in tokens(line, "STRING")]

    def _path(self, token: Token) -> str:
        text = str(token)[1:]
        return string(self.source, token, text) if text.startswith('"') else text

    def _ref(self, token: Token) -> tuple[str, int]:
        match = _REF.fullmatch(str(token))
        assert match is not None
        path = string(self.source, token, match[1]) if match[1].startswith('"') else match[1]
        return path, integer(self.source, token, match[2]) if match[2] else 0

    def _values(self, line: Line | None) -> tuple[Value, ...]:
        return tuple(map(self._value, tokens(line, "VALUE")))

    def _value(self, token: Token) -> Value:
        path, index = self._ref(token)
        if path not in self.made:
            raise self._wrong(token, f"no node %{path} stands above", did_you_mean(path, self.made.net))
        node = self.made.node(path)
        if index >= len(node.outputs):
            raise self._wrong(token, f"%{path} has {len(node.outputs)} results, numbered from 0")
        return node.value(index)

    def _static(self, value: Raw) -> Static:
        if isinstance(value, tuple):
            return tuple(map(self._static, value))
        return sizes.of(self._number(value), value.expr) if isinstance(value, Formula) else value

    def _number(self, formula: Formula) -> int:
        try:
            return sizes.evaluate(formula.expr, self.axes)
        except KeyError as e:
            raise self._wrong(formula.at, f"no input has an axis {e.args[0]}") from None
        except ZeroDivisionError:
            raise self._wrong(formula.at, "a size divided by zero") from None

    def _span(self, line: Line) -> Span | None:
        origins = of(Origin, line)
        if not origins:
            return None
        name = self.made.source if origins[-1].file is None else origins[-1].file
        return Span(self.sources.setdefault(name, Source(name, "")), *origins[-1].numbers)

    def _new(self, name: str, known: Container[str], at: Token, noun: str) -> None:
        if name in known:
            raise self._wrong(at, f"{noun} {quoted(name)} stands twice")

    def _wrong(self, at: Token | None, title: str, help: str = "") -> ArchError:
        return mistake(self.source, at, title, help)


def _reason(fault: Exception) -> str:
    return str(fault) or type(fault).__name__
