"""Matches arguments against what ops and defs declare: attributes, ports, shape variables, results."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, cast

from archdsl.diagnostics import ArchError, Span, did_you_mean
from archdsl.frontend import places
from archdsl.frontend.resolve import STATIC_KINDS, TENSOR_KINDS
from archdsl.frontend.trace import where_from
from archdsl.frontend.values import Builtin, Data, Function, Role, Scope, Tensor, is_int, is_number, show, what
from archdsl.ir.graph import Static
from archdsl.ir.types import AXES as KIND_AXES
from archdsl.ops.base import KINDS, Op, ShapeError
from archdsl.syntax import tree

if TYPE_CHECKING:
    from archdsl.frontend.calls import Caller

# -- ops ---------------------------------------------------------------------------------------


Fields = Mapping[str, tuple[frozenset[str], dataclasses.Field[object]]]


def _fields(cls: type[Op]) -> Fields:
    """An op's attributes: the kinds of value each takes, by the names that KINDS explains, and its field."""
    return _declared(cast("Hashable", cls))[0]


def _required(cls: type[Op]) -> tuple[str, ...]:
    """Names of the attributes without a default."""
    return _declared(cast("Hashable", cls))[1]


@cache
def _declared(cls: Hashable) -> tuple[Fields, tuple[str, ...]]:
    fields = {f.name: (_kinds(str(f.type)), f) for f in dataclasses.fields(cast("type[Op]", cls))}
    return fields, tuple(n for n, (_, f) in fields.items() if f.default is dataclasses.MISSING)


def _kinds(annotation: str) -> frozenset[str]:
    return frozenset({"any"} if "[" in annotation else (k.strip() for k in annotation.split("|")))


def static_names(f: Function) -> tuple[str, ...]:
    """Names of a function's compile-time parameters, in order."""
    d = f.declaration
    if isinstance(d, type):
        return tuple(_fields(d))
    if isinstance(d, (tree.Def, tree.Extern)):
        return tuple(p.name.id for p in d.statics)
    return ()


def describe(f: Function) -> str:
    """A signature in the language's notation."""
    d = f.declaration
    if isinstance(d, type):
        statics, ports = list(_fields(d)), [p for p in d.ports if p != "frame?"]
    elif isinstance(d, (tree.Def, tree.Extern)):
        statics, ports = [p.name.id for p in d.statics], [p.name.id for p in d.ports]
    elif isinstance(d, tree.Lambda):
        statics, ports = [], [p.id for p in d.params]
    else:
        assert isinstance(d, Builtin)
        statics, ports = [], ["..."]
    return f.name + (f"[{', '.join(statics)}]" if statics else "") + f"({', '.join(ports)})"


def attributes(cls: type[Op], config: Mapping[str, Data]) -> dict[str, Static]:
    """An op's attributes from its configuration, with types and bounds checked. Raises ShapeError."""
    fields = _fields(cls)
    out: dict[str, Static] = {}
    for name, value in config.items():
        kinds, field = fields[name]
        checked = _attribute(name, kinds, value, cls)
        _bounded(name, checked, field.metadata, cls)
        out[name] = checked
    missing = [n for n in _required(cls) if n not in out]
    if missing:
        raise ShapeError(
            f"`{_name(cls)}` needs its compile-time parameter `{missing[0]}`",
            code="E-PARAMETER",
            help=f"write {_name(cls)}[{_example(fields[missing[0]][1])}]",
        )
    return out


def _name(cls: type[Op]) -> str:
    from archdsl.ops.base import op_name

    return op_name(cls)


def _example(field: dataclasses.Field[object]) -> str:
    """A value that an attribute may take, as it is written by position or by name."""
    values = field.metadata.get("search") or field.metadata.get("choices") or (8,)
    return f"{field.name} = {show(values[0])}"


def _attribute(name: str, kinds: frozenset[str], value: Data, cls: type[Op]) -> Static:
    if value is None and "None" in kinds:
        return None
    if "any" in kinds and isinstance(value, (int, float, str, tuple)):
        return value  # type: ignore[return-value]
    if isinstance(value, bool):
        if "bool" in kinds:
            return value
    elif isinstance(value, int):
        if "int" in kinds or "Pair" in kinds:
            return value
        if "float" in kinds:
            return float(value)
        if "Parts" in kinds:
            return value
    elif isinstance(value, float):
        if "float" in kinds:
            return value
        if kinds & {"int", "Pair"} and value.is_integer() and abs(value) < 1 << 53:
            return int(value)
    elif isinstance(value, str):
        if "str" in kinds:
            return value
    elif isinstance(value, tuple):
        ints = all(is_int(v) for v in value)
        if "Pair" in kinds and len(value) == 2 and ints:
            return value  # type: ignore[return-value]
        if "Ints" in kinds and ints:
            return value  # type: ignore[return-value]
        if "Parts" in kinds and all(is_int(v) or v == "rest" for v in value):
            return value  # type: ignore[return-value]
        if "Rows" in kinds and all(isinstance(row, tuple) and all(map(is_number, row)) for row in value):
            return value  # type: ignore[return-value]
    wanted = " or ".join(KINDS[k] for k in KINDS if k in kinds) or "a compile-time value"
    hint = ""
    if isinstance(value, float) and kinds & {"int", "Pair"}:
        hint = f"use {int(value)}, or // to floor a quotient"
    elif isinstance(value, str) and value.isdigit():
        hint = f"write {value}, without quotes"
    raise ShapeError(f"`{_name(cls)}`: {name} must be {wanted}, got {what(value)}", code="E-ATTR", attr=name, help=hint)


def _bounded(name: str, value: Static, metadata: Mapping[str, object], cls: type[Op]) -> None:
    low, high, choices = metadata.get("low"), metadata.get("high"), metadata.get("choices") or ()
    for v in value if isinstance(value, tuple) else (value,):
        if not isinstance(v, (int, float)) or isinstance(v, bool):
            continue
        if isinstance(low, (int, float)) and v < low:
            raise ShapeError(f"`{_name(cls)}`: {name} must be at least {low}, got {v}", code="E-ATTR", attr=name)
        top = high if isinstance(high, (int, float)) else 1 << 40
        if v > top:
            raise ShapeError(f"`{_name(cls)}`: {name} must be at most {top}, got {v}", code="E-ATTR", attr=name)
    if choices and value not in choices:  # type: ignore[operator]
        options = ", ".join(show(c) for c in choices)  # type: ignore[attr-defined]
        hint = did_you_mean(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""  # type: ignore[attr-defined]
        raise ShapeError(
            f"`{_name(cls)}`: {name} must be one of {options}, got {show(value)}", code="E-ATTR", attr=name, help=hint
        )


# -- defs and externs ----------------------------------------------------------------------------


def bind(
    ev: Caller,
    f: Function,
    statics: Sequence[tree.Param],
    ports: Sequence[tree.Param],
    positional: list[Data],
    named: dict[str, Data],
    t: tree.Tree,
) -> Scope:
    """The scope of a def's body: given statics, ports (binding shape variables), then defaults in order."""
    scope = Scope(f.scope)
    names = scope.names
    declared = {p.name.id: p for p in statics}
    for name, value in f.config.items():
        names[name] = value
        if declared[name].type is not None:
            place = places.static(t, name, static_names(f)) or places.callee(t)
            names[name] = coerce(ev, value, declared[name].type, name, Scope(f.scope), place, early=True)
    if len(positional) > len(ports):
        raise too_many(ev, f, len(ports), len(positional), t)
    known = {p.name.id for p in ports}
    for name in named:
        if name not in known:
            raise ev.fail(
                "E-PARAMETER",
                f"`{f.name}` has no input `{name}`",
                argument.name.span if (argument := places.named(t, name)) and argument.name else places.callee(t),
                help=other_input(f, name, known, named[name]),
            )
    late: list[tree.Param] = []
    for i, port in enumerate(ports):
        name = port.name.id
        if i < len(positional):
            value = positional[i]
        elif name in named:
            value = named[name]
        elif port.default is not None:
            late.append(port)
            continue
        else:
            title = f"`{f.name}` is missing its input `{name}`"
            raise ev.fail("E-ARITY", title, places.callee(t), help=f"signature: {describe(f)}")
        names[name] = value
        place = places.operand(t, name, i, len(positional))
        if port.type is not None:
            match(ev, port.type, value, f"input `{name}` of `{f.name}`", scope, place)
        elif isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value):
            raise _several(ev, f"input `{name}` of `{f.name}`", "a tensor", value, place)
    for param in statics:
        name = param.name.id
        if name in names and name in f.config:
            if _is_function_type(param.type):
                place = places.static(t, name, static_names(f)) or places.callee(t)
                names[name] = in_role(ev, names[name], param, scope, place)
            continue
        if param.default is None:
            raise ev.fail(
                "E-PARAMETER",
                f"`{f.name}` needs its compile-time parameter `{name}`",
                places.callee(t),
                help=f"write {f.name}[{name} = ...](...)",
            )
        default = coerce(ev, ev.evaluate(param.default, scope), param.type, name, scope, param.span)
        names[name] = in_role(ev, default, param, scope, param.default.span)
    for port in late:
        assert port.default is not None
        names[port.name.id] = ev.evaluate(port.default, scope)
    return scope


def too_many(ev: Caller, f: Function, takes: int, got: int, t: tree.Tree) -> ArchError:
    """More inputs than a signature has; a list that was piped in counts for its items."""
    lead = places.piped(t, got)
    title = f"`{f.name}` takes {takes or 'no'} input{'s' * (takes != 1)}, got {got}"
    if lead > max(1, takes):
        letters = ", ".join("abcdefgh"[:lead])
        hint = f"a list of {lead} is piped in: unpack it, {letters} = ..., or take one of them, x[0]"
        return ev.fail("E-ARITY", title, places.callee(t), help=hint)
    return ev.fail("E-ARITY", title, places.positional(t, takes, got), help=f"signature: {describe(f)}")


def other_input(f: Function, name: str, known: Collection[str], value: Data) -> str:
    """Help for an input that a signature does not have."""
    if name in static_names(f):
        return f"compile-time values go in brackets: {f.name}[{name} = {show(value)}]"
    return did_you_mean(name, known) or f"signature: {describe(f)}"


def _several(ev: Caller, who: str, kind: str, value: tuple[Data, ...], span: Span) -> ArchError:
    letters = ", ".join("abcdefgh"[: len(value)])
    return ev.fail(
        "E-KIND",
        f"{who} must be {kind}, got {len(value)} values",
        span,
        help=f"unpack them where they are made: {letters} = ...",
    )


def match(ev: Caller, declared: tree.TypeRef, value: Data, who: str, scope: Scope, span: Span) -> None:
    """Checks a value against a port or result type; names among the dims bind on first sight."""
    kind = declared.name.id
    if kind in STATIC_KINDS:
        coerce(ev, value, declared, who, scope, span)
        return
    if value is None and declared.optional:
        return
    noun = {"any": "a tensor", "map": "a map", "vec": "a vec"}.get(kind, kind)
    if isinstance(value, tuple):
        raise _several(ev, who, noun, value, span)
    if not isinstance(value, Tensor):
        hint = "compile-time values go in brackets, tensors in parentheses"
        if isinstance(value, Function):
            hint = f"call it first: {value.name}(x)"
        raise ev.fail("E-KIND", f"{who} must be {noun}, got {what(value)}", span, help=hint)
    x = value.type

    def trace() -> tuple[tuple[str, str, Span | None], ...]:
        return () if ev.graph is None else where_from(ev.graph, value.value)

    if kind != "any" and x.kind != kind:
        ways = {("map", "tokens"): "to_map[H, W](x) gives tokens a grid", ("tokens", "map"): "tokens(x) flattens a map"}
        hint = ways.get((kind, x.kind), "")
        raise ev.fail("E-KIND", f"{who} must be {noun}, got {x.short()}", span, help=hint, trace=trace())
    dims = (x.channels,) if kind == "any" else x.dims
    for at, (d, actual) in enumerate(zip(declared.dims, dims, strict=False)):
        if d is None or (isinstance(d, tree.Name) and d.id == "_"):
            continue
        if isinstance(d, tree.Name) and d.id not in scope.names:
            scope.names[d.id] = actual
            continue
        expected = scope.names[d.id] if isinstance(d, tree.Name) else ev.evaluate(d, scope)
        if expected != actual:
            wanted = f"{d.id} is {show(expected)}" if isinstance(d, tree.Name) else f"{show(expected)} is needed"
            of = "channels" if kind == "any" or KIND_AXES[kind][at] == "C" else f"for its {KIND_AXES[kind][at]}"
            title = f"{who}: {wanted}, but {x.short()} has {int(actual)} {of}"
            hint = f"project it: linear[{show(expected)}](x)" if of == "channels" and is_int(expected) else ""
            if kind == "map" and not hint:
                hint = "a stride, pooling or resize is missing, or one too many, on the way here"
            raise ev.fail("E-SHAPE", title, span, label=x.short(), help=hint, trace=trace())


def coerce(
    ev: Caller,
    value: Data,
    declared: tree.TypeRef | None,
    name: str,
    scope: Scope,
    span: Span,
    early: bool = False,
) -> Data:
    """A compile-time argument as its declared type wants it; a scalar is repeated for a per-stage list."""
    if declared is None:
        return value
    kind = declared.name.id
    if value is None and declared.optional:
        return None
    if declared.dims and declared.dims[0] is not None and kind != "map":
        n = ev.integer(ev.evaluate(declared.dims[0], scope), declared.dims[0])
        items = value if isinstance(value, tuple) else (value,) * n
        if len(items) != n:
            raise ev.fail(
                "E-LENGTH",
                f"parameter `{name}: {kind}[{n}]` got a list of {len(items)}",
                span,
                help=f"give {n} values, or one for all",
            )
        if kind == "list":
            return items
        return tuple(_scalar(ev, v, kind, name, span) for v in items)
    return _scalar(ev, value, kind, name, span)


def _scalar(ev: Caller, value: Data, kind: str, name: str, span: Span) -> Data:
    if kind == "float" and is_number(value):
        return float(value) if not isinstance(value, int) else value  # type: ignore[arg-type]
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    fits = {
        "int": is_int(value),
        "float": False,
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "list": isinstance(value, tuple),
        "fn": isinstance(value, Function),
    }
    if kind in fits and not fits[kind]:
        noun = {
            "fn": "a function such as dwconv[7]",
            "list": "a list",
            "int": "an integer",
            "float": "a number",
            "bool": "true or false",
            "str": "a string",
        }[kind]
        hint = ""
        if isinstance(value, str) and kind in ("int", "float") and value.replace(".", "", 1).isdigit():
            hint = f"write {value}, without quotes"
        elif kind == "list":
            hint = f"write [{show(value)}]"
        raise ev.fail("E-PARAMETER", f"parameter `{name}` must be {noun}, got {what(value)}", span, help=hint)
    return value


def _is_function_type(declared: tree.TypeRef | None) -> bool:
    return declared is not None and declared.name.id == "fn" and bool(declared.ports)


def check_function(ev: Caller, param: tree.Param, value: Data, scope: Scope, span: Span) -> None:
    """A function argument's role: its declared ports and results against what the parameter accepts."""
    assert param.type is not None
    items = value if isinstance(value, tuple) else (value,)
    for g in items:
        if not isinstance(g, Function):
            continue
        d = g.declaration
        wanted = param.type.ports
        if isinstance(d, type):
            required = [p for p in d.ports if not p.endswith("?") and not p.startswith("*")]
            if len(required) > len(wanted):
                raise _role(ev, param, g, f"it takes {len(required)} inputs, not {len(wanted)}", span)
            _trial(ev, param, g, d, scope, span)
            continue
        if isinstance(d, Builtin):
            raise _role(ev, param, g, "it is a compile-time function", span)
        if isinstance(d, tree.Lambda):
            if len(d.params) != len(wanted):
                raise _role(ev, param, g, f"it takes {len(d.params)} inputs, not {len(wanted)}", span)
            continue
        required_ports = [p for p in d.ports if p.default is None]
        if len(required_ports) > len(wanted) or len(d.ports) < len(wanted):
            raise _role(ev, param, g, f"it takes {len(required_ports)} inputs, not {len(wanted)}", span)
        for port, want in zip(d.ports, wanted, strict=False):
            have = port.type.name.id if port.type is not None else "any"
            if have != want.name.id and "any" not in (have, want.name.id):
                raise _role(ev, param, g, f"its input `{port.name.id}` is {_a(have)}", span)
        for have_r, want in zip(d.results, param.type.results, strict=False):
            if have_r.name.id != want.name.id and "any" not in (have_r.name.id, want.name.id):
                raise _role(ev, param, g, f"it returns {_a(have_r.name.id)}", span)


def in_role(ev: Caller, value: Data, param: tree.Param, scope: Scope, given: Span) -> Data:
    """An argument of a parameter with a signature: checked as declared; `check_role` then holds each call to it."""
    if not _is_function_type(param.type):
        return value
    if isinstance(value, tuple):
        return tuple(in_role(ev, v, param, scope, given) for v in value)
    if not isinstance(value, Function):
        return value
    check_function(ev, param, value, scope, given)
    return dataclasses.replace(value, role=Role(param, scope, given))


def check_role(ev: Caller, f: Function, positional: Sequence[Data], result: Data, t: tree.Tree) -> None:
    """Holds one call of a function argument to the parameter's signature: sizes that its ports bind, its results."""
    role = f.role
    assert role is not None and role.param.type is not None
    declared = role.param.type
    sizes = Scope(role.scope.parent, dict(role.scope.names))
    for want, value in zip(declared.ports, positional, strict=False):
        match(ev, want, value, f"the input of `{role.param.name.id}`", sizes, t.span)
    values = result if isinstance(result, tuple) else (result,)
    try:
        if len(values) != len(declared.results):
            raise ev.fail("E-ROLE", f"{len(values)} results", t.span)
        for want, value in zip(declared.results, values, strict=True):
            match(ev, want, value, "its result", sizes, t.span)
    except ArchError:
        took = ", ".join(show(v) for v in positional)
        gave = ", ".join(show(v) for v in values)
        raise _role(ev, role.param, f, f"from {took} it makes {gave}", role.given) from None


def _trial(ev: Caller, param: tree.Param, g: Function, cls: type[Op], scope: Scope, span: Span) -> None:
    """An op as an argument: infer it on the concrete port types, where all their dims are known."""
    from archdsl.ir.types import TensorType

    assert param.type is not None
    types = []
    for port in param.type.ports:
        if port.name.id not in ("map", "tokens", "vec") or len(port.dims) != TENSOR_KINDS[port.name.id]:
            return
        if any(_free(d, scope) for d in port.dims):
            return  # an arch's parameter: its sizes are bound where it is called
        dims = [None if d is None else ev.evaluate(d, scope) for d in port.dims]
        if not all(is_int(d) for d in dims):
            return
        types.append(TensorType(port.name.id, tuple(dims)))  # type: ignore[arg-type]
    try:
        op = cls(**attributes(cls, g.config)).resolve(*types)
        out = op.infer(*types)
    except ShapeError as e:
        if e.code == "E-FRAME":
            return  # it is for values in frames, which are known only where it is called
        raise _role(ev, param, g, e.message, span) from None
    took = ", ".join(t.short() for t in types)
    for have, want in zip(out, param.type.results, strict=False):
        dims = [None if d is None else ev.evaluate(d, scope) for d in want.dims if not _free(d, scope)]
        other = len(dims) == len(want.dims) and any(d not in (None, n) for d, n in zip(dims, have.dims, strict=False))
        if want.name.id != "any" and (have.kind != want.name.id or other):
            raise _role(ev, param, g, f"from {took} it makes {have.short()}", span)


def _free(dim: tree.Expr | None, scope: Scope) -> bool:
    return isinstance(dim, tree.Name) and scope.find(dim.id) is None


def _a(kind: str) -> str:
    return kind if kind in ("tokens", "scores") else f"a {kind}"


def _role(ev: Caller, param: tree.Param, g: Function, why: str, span: Span) -> ArchError:
    assert param.type is not None
    return ev.fail(
        "E-ROLE",
        f"`{show(g)}` does not fit the parameter `{param.name.id}`: {why}",
        span,
        notes=((param.type.span, f"`{param.name.id}` has to fit this"),),
        help=f"pass something of type {places.shown(param.type)}, or declare the parameter as plain `fn`",
    )


def check_results(
    ev: Caller, f: Function, declared: Sequence[tree.TypeRef], result: Data, scope: Scope, t: tree.Tree
) -> None:
    if not declared:
        return
    values = result if isinstance(result, tuple) else (result,)
    if len(values) != len(declared):
        raise ev.fail(
            "E-RETURN",
            f"`{f.name}` declares {len(declared)} results but returns {len(values)}",
            ev.returned or t.span,
            notes=((declared[0].span.to(declared[-1].span), "declared here"),),
            help=f"return {', '.join('abcdefgh'[: len(declared)])}" if len(declared) > 1 else "declare every result",
        )
    inner = Scope(scope.parent, dict(scope.names))
    for ref, value in zip(declared, values, strict=True):
        match(ev, ref, value, f"the result of `{f.name}`", inner, ev.returned or t.span)


def declared_type(ev: Caller, declared: tree.TypeRef, scope: Scope) -> Data:
    """A result type whose dims are all known, as (kind, dim, ...)."""
    kind = declared.name.id
    if kind not in ("map", "tokens", "vec") or len(declared.dims) != TENSOR_KINDS[kind]:
        raise ev.fail("E-TYPE", "an extern's results are map, tokens or vec with all their sizes", declared.span)
    dims: list[Data] = []
    for d in declared.dims:
        if d is None:
            raise ev.fail("E-TYPE", "an extern's result names every size", declared.span)
        value = ev.evaluate(d, scope)
        if not is_int(value):
            raise ev.fail("E-TYPE", f"a size must be an integer, got {what(value)}", d.span)
        dims.append(value)
    return (kind, *dims)
