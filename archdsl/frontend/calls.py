"""Turns calls into graph nodes: configures functions, binds operands, applies ops, runs defs and lambdas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from archdsl.diagnostics import ArchError, Span, did_you_mean
from archdsl.frontend import places, rep, signatures
from archdsl.frontend.builtins import SYMBOLIC, BuiltinError, has_size
from archdsl.frontend.evaluate import (
    DEPTH_LIMIT,
    NODE_LIMIT,
    UNTRACED,
    Activation,
    Evaluator,
    Fallthrough,
    Outcome,
)
from archdsl.frontend.trace import where_from
from archdsl.frontend.values import (
    Architecture,
    Builtin,
    Data,
    Function,
    Scope,
    Tensor,
    as_static,
    contains_tensor,
    is_number,
    show,
    what,
)
from archdsl.ir import sizes
from archdsl.ir.graph import Parameter, Region
from archdsl.ir.sizes import Size
from archdsl.ir.types import Weight
from archdsl.ops.base import Op, ShapeError
from archdsl.syntax import tree


class Caller(Evaluator):
    """Calls functions: ops append nodes to the graph, defs and lambdas run in a region of their own."""

    # -- configuration and calls -------------------------------------------------------------------

    def e_config(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Config)
        callee = self.evaluate(t.callee, scope, act)
        if isinstance(callee, tuple):
            return self.index(callee, t, scope, act)
        if not isinstance(callee, Function):
            hint = "declare the parameter as a list, e.g. int[4], to allow one value per stage"
            if isinstance(callee, Tensor):
                hint = "brackets configure functions and index lists; split or token take parts of a tensor"
            raise self.fail("E-BRACKETS", f"{what(callee)} takes no brackets", t.callee.span, help=hint)
        config = self.configuration(callee, t.args, scope, act)
        out = callee.configured(config)
        self.bounded(out, t)
        if out.declaration is self.vocabulary.get("param"):
            return self.call(out, [], {}, t, act)
        return out

    def index(self, items: tuple[Data, ...], t: tree.Config, scope: Scope, act: Activation | None) -> Data:
        if len(t.args) != 1 or t.args[0].name is not None:
            raise self.fail("E-BRACKETS", "a list is indexed by one integer", t.span)
        at = self.integer(self.evaluate(t.args[0].value, scope, act), t.args[0].value)
        if not -len(items) <= at < len(items):
            raise self.fail(
                "E-INDEX",
                f"index {at} is out of range for a list of {len(items)}",
                t.args[0].span,
                help=f"indices run from 0 to {len(items) - 1}; a per-stage list needs one entry per stage"
                if items
                else "the list is empty",
            )
        return items[at]

    def configuration(
        self, f: Function, args: tuple[tree.Arg, ...], scope: Scope, act: Activation | None
    ) -> dict[str, Data]:
        """The bracket arguments of f by parameter name, checked against what it declares."""
        declared = signatures.static_names(f)
        config: dict[str, Data] = {}
        first: dict[str, Span] = {}
        variadic: list[Data] = []
        spread = getattr(f.declaration, "variadic", "")
        free = [n for n in declared if n not in f.config]
        for arg in args:
            value = self.evaluate(arg.value, scope, act)
            if contains_tensor(value):
                raise self.fail(
                    "E-BRACKETS",
                    f"a tensor was passed in the brackets of `{f.name}`",
                    arg.span,
                    help="brackets hold compile-time values; tensors go in parentheses",
                )
            if arg.name is not None:
                if arg.name.id not in declared:
                    raise self.fail(
                        "E-PARAMETER",
                        f"`{f.name}` has no compile-time parameter `{arg.name.id}`",
                        arg.name.span,
                        help=did_you_mean(arg.name.id, declared) or f"it has: {', '.join(declared) or 'none'}",
                    )
                if arg.name.id in config:
                    raise self.fail(
                        "E-PARAMETER",
                        f"`{arg.name.id}` is given twice",
                        arg.name.span,
                        notes=[(first[arg.name.id], "first given here")],
                        help=f"parameters without a name are taken in order: {', '.join(declared)}",
                    )
                config[arg.name.id] = value
                first[arg.name.id] = arg.span
            elif spread:
                variadic.append(value)
            else:
                left = [n for n in free if n not in config]
                if not left:
                    raise self.fail(
                        "E-PARAMETER",
                        f"`{f.name}` takes {count(len(declared), 'compile-time parameter')}",
                        arg.span,
                        help=f"signature: {signatures.describe(f)}",
                    )
                config[left[0]] = value
                first[left[0]] = arg.span
        if variadic:
            config[spread] = tuple(variadic)
        return config

    def arguments(
        self, args: tuple[tree.Arg, ...], scope: Scope, act: Activation | None
    ) -> tuple[list[Data], dict[str, Data]]:
        positional: list[Data] = []
        named: dict[str, Data] = {}
        for arg in args:
            value = self.evaluate(arg.value, scope, act)
            if arg.name is None:
                positional.append(value)
            else:
                named[arg.name.id] = value
        return positional, named

    def e_call(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Call)
        callee = self.evaluate(t.callee, scope, act)
        positional, named = self.arguments(t.args, scope, act)
        return self.call(callee, positional, named, t, act)

    def e_pipe(self, t: tree.Tree, scope: Scope, act: Activation | None) -> Data:
        assert isinstance(t, tree.Pipe)
        value = self.evaluate(t.value, scope, act)
        for stage in t.stages:
            positional: list[Data] = []
            named: dict[str, Data] = {}
            if isinstance(stage, tree.Call):
                callee = self.evaluate(stage.callee, scope, act)
                positional, named = self.arguments(stage.args, scope, act)
            else:
                callee = self.evaluate(stage, scope, act)
            lead: tuple[Data, ...] = value if isinstance(value, tuple) else (value,)
            value = self.call(callee, [*lead, *positional], named, stage, act)
        return value

    def call(
        self, f: Data, positional: list[Data], named: dict[str, Data], t: tree.Tree, act: Activation | None
    ) -> Data:
        if not isinstance(f, Function):
            raise self.fail("E-CALL", f"{what(f)} cannot be called", places.callee(t), help=_not_called(f))
        if f.role is not None:
            result = self.call(replace(f, role=None), positional, named, t, act)
            signatures.check_role(self, f, positional, result, t)
            return result
        if isinstance(f.declaration, Builtin):
            return self.call_builtin(f.declaration, positional, named, t)
        if self.graph is None and not isinstance(f.declaration, tree.Lambda):
            if isinstance(f.declaration, type):
                return self.fold(f, positional, t)
            raise self.fail(
                "E-CALL",
                f"`{f.name}` can be called only inside an arch or a def",
                places.callee(t),
                help="a `let` holds what is known before there is a tensor: numbers, lists, functions without (x)",
            )
        segment = f.name
        if act is not None:
            segment = "" if act.sites.whole is t else act.sites.segment.get(t, f.name)
            if act.sites.whole is t and isinstance(f.declaration, type):
                segment = act.sites.segment.get(t, f.name)
            if segment and act.loops:
                segment += "." + ".".join(map(str, act.loops))
        if isinstance(f.declaration, type):
            return self.call_op(f, positional, named, t, segment)
        if self.depth >= DEPTH_LIMIT:
            raise self.fail(
                "E-RECURSION",
                f"`{f.name}` is called {DEPTH_LIMIT} levels deep",
                places.callee(t),
                path="",
                help="end the recursion with an `if` on a compile-time value",
            )
        self.spend(4, places.callee(t))  # about what a call takes, in statements
        self.depth += 1
        self.calls.append(places.callee(t))
        try:
            with self.inside(f, segment, t):
                if isinstance(f.declaration, tree.Lambda):
                    return self.call_lambda(f, f.declaration, positional, named, t)
                if isinstance(f.declaration, tree.Extern):
                    return self.call_extern(f, f.declaration, positional, named, t)
                assert isinstance(f.declaration, tree.Def)
                return self.call_def(f, f.declaration, positional, named, t)
        finally:
            self.depth -= 1
            self.calls.pop()

    @contextmanager
    def inside(self, f: Function, segment: str, t: tree.Tree) -> Iterator[None]:
        """The region of one call: its weight path, call path and entry in the region tree."""
        if self.graph is None:
            yield
            return
        outer = self.module, self.call_path, self.region, self.reuse
        if f.instance is not None:
            self.module, self.reuse = f.instance.path, True
        elif segment:
            self.module = join(self.module, segment)
        self.call_path = join(self.call_path, segment or "")
        statics = tuple((k, as_static(v)) for k, v in f.config.items())
        share = f.instance.path if f.instance is not None else ""
        self.region = self.open_region("call", f.name, segment, t.span, statics=statics, share=share)
        try:
            yield
        finally:
            self.module, self.call_path, self.region, self.reuse = outer

    def open_region(self, kind: str, name: str, segment: str, span: Span | None, **more: object) -> int:
        assert self.graph is not None
        regions = self.graph.regions
        parent = self.region if regions else None
        regions.append(Region(len(regions), parent, kind, name, segment, self.module, span, **more))  # type: ignore[arg-type]
        return len(regions) - 1

    def call_builtin(self, b: Builtin, positional: list[Data], named: dict[str, Data], t: tree.Tree) -> Data:
        if named:
            raise self.fail("E-PARAMETER", f"`{b.name}` takes no named arguments", t.span)
        if b.name == "sum":
            return self.total(positional, t)
        if b.name == "unframe":
            return self.unframe(positional, t)
        values = positional
        if b.name not in SYMBOLIC and has_size(values):
            values = [self.concrete(v, t) for v in values]
        for v in values:
            if contains_tensor(v) and b.name != "len":
                raise self.fail(
                    "E-VALUE",
                    f"`{b.name}` takes compile-time values, got {what(v)}",
                    places.positional(t, positional.index(v), len(positional)),
                )
        try:
            return b.call(*values)
        except BuiltinError as e:
            raise self.fail("E-VALUE", str(e), t.span) from None
        except TypeError:
            raise self.fail(
                "E-ARITY",
                f"`{b.name}` does not take {count(len(values), 'argument')}",
                t.span,
                help=f"signature: {b.shown}",
            ) from None

    def total(self, values: list[Data], t: tree.Tree) -> Data:
        items = values[0] if len(values) == 1 and isinstance(values[0], tuple) else tuple(values)
        if not items:
            return 0
        out = items[0]
        for item in items[1:]:
            out = self.arithmetic("+", out, item, t)
        return out

    def unframe(self, values: list[Data], t: tree.Tree) -> Data:
        if len(values) != 1 or not isinstance(values[0], Tensor):
            raise self.fail("E-ARITY", "`unframe` takes one tensor", t.span)
        x = values[0]
        while x.type.frames:
            merged = self.apply_op("merge", {}, [x], t)
            assert isinstance(merged, Tensor)
            x = merged
        return x

    def fold(self, f: Function, positional: list[Data], t: tree.Tree) -> Data:
        """An op on compile-time numbers: log(10), sigmoid(0.5)."""
        if not hasattr(f.declaration, "fold") or len(positional) != 1 or not is_number(positional[0]):
            if any(contains_tensor(v) for v in positional):
                raise self.fail("E-CALL", f"`{f.name}` can be called only inside an arch or a def", t.span)
            got = what(positional[0]) if positional else "nothing"
            raise self.fail(
                "E-KIND",
                f"`{f.name}` expects a tensor, got {got}",
                t.span,
                help=f"compile-time values go in brackets: {f.name}[...]",
            )
        cls = f.declaration
        assert isinstance(cls, type)
        try:
            op = cls(**signatures.attributes(cls, f.config))
            return float(op.fold(self.concrete(positional[0], t)))  # type: ignore[attr-defined]
        except ShapeError as e:
            raise self.located(e, f, [], t) from None
        except (ValueError, OverflowError):
            raise self.fail("E-VALUE", f"`{f.name}` of {show(positional[0])} is not defined", t.span) from None

    # -- ops ---------------------------------------------------------------------------------------

    def call_op(self, f: Function, positional: list[Data], named: dict[str, Data], t: tree.Tree, segment: str) -> Data:
        cls = f.declaration
        assert isinstance(cls, type)
        if any(p.startswith("*") for p in cls.ports):
            positional = [v for p in positional for v in (p if isinstance(p, tuple) else (p,))]
        if positional and all(is_number(v) for v in positional) and hasattr(cls, "fold"):
            return self.fold(f, positional, t)
        operands = self.bind_operands(f, cls, positional, named, t)
        return self.apply(f, cls, operands, t, segment)

    def bind_operands(
        self, f: Function, cls: type[Op], positional: list[Data], named: dict[str, Data], t: tree.Tree
    ) -> list[Tensor | None]:
        ports = [p for p in cls.ports if p != "frame?"]
        variadic = bool(ports) and ports[-1].startswith("*")
        names = [p.rstrip("?").lstrip("*") for p in ports]
        if not variadic and len(positional) > len(ports):
            raise signatures.too_many(self, f, len(ports), len(positional), t)
        for name in named:
            if name not in names or variadic:
                raise self.fail(
                    "E-PARAMETER",
                    f"`{f.name}` has no input `{name}`",
                    _name_of(t, name),
                    help=signatures.other_input(f, name, names, named[name]),
                )
        values: list[Data] = list(positional)
        if not variadic:
            values += [None] * (len(ports) - len(values))
            for name, value in named.items():
                values[names.index(name)] = value
        out: list[Tensor | None] = []
        for i, value in enumerate(values):
            port = ports[min(i, len(ports) - 1)]
            if value is None and port.endswith("?"):
                out.append(None)
            elif isinstance(value, Tensor):
                out.append(value)
            elif value is None and i >= len(positional):
                raise self.fail(
                    "E-ARITY",
                    f"`{f.name}` is missing its input `{port}`",
                    places.callee(t),
                    help=f"signature: {signatures.describe(f)}",
                )
            else:
                hint = f"compile-time values go in brackets: {f.name}[...]"
                if isinstance(value, Function):
                    hint = f"call it first: {value.name}(x)"
                elif isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value):
                    hint = "unpack them where they are made: a, b = ..."
                place = places.operand(t, names[min(i, len(names) - 1)], i, len(positional))
                raise self.fail("E-KIND", f"`{f.name}` expects a tensor, got {what(value)}", place, help=hint)
        if variadic and not out:
            raise self.fail("E-ARITY", f"`{f.name}` needs at least one input", places.callee(t))
        return out

    def apply_op(self, name: str, config: dict[str, Data], operands: Sequence[Tensor], t: tree.Tree) -> Data:
        """An op that the language's own syntax stands for (`+`, unary minus, unframe)."""
        cls = self.vocabulary[name]
        return self.apply(Function(name, cls, None, config), cls, list(operands), t, name)

    def apply(self, f: Function, cls: type[Op], operands: list[Tensor | None], t: tree.Tree, segment: str) -> Data:
        """Appends one op to the graph: attributes checked, shapes inferred, weights created."""
        graph = self.graph
        assert graph is not None
        if len(graph) >= NODE_LIMIT:
            raise self.fail("E-TOO-LARGE", f"the graph grew past {NODE_LIMIT} nodes", t.span)
        types = [None if x is None else x.type for x in operands]
        try:
            attributes = signatures.attributes(cls, f.config)
            op = cls(**attributes).resolve(*types)
            if self.mode == "tune" and op.name == "bn":
                op = op.replace(frozen=True)
            framed = next((x for x in operands if x is not None and x.frames), None)
            if framed is not None and "frame?" in op.ports and op.wants_frame(*types):
                source = operands[-1] if op.name == "tile" else framed
                assert source is not None
                operands = operands + [None] * (op.ports.index("frame?") - len(operands))
                operands.append(Tensor(source.frames[-1]))
                types = [None if x is None else x.type for x in operands]
            outputs = op.infer(*types)
            weights = op.weights(*types)
            _resizable(op, weights)
        except ShapeError as e:
            raise self.located(e, f, operands, t) from None
        module = ""
        params: tuple[tuple[str, str], ...] = ()
        if weights:
            module = f.instance.path if f.instance is not None else join(self.module, segment)
            shared = self.reuse or f.instance is not None
            params = tuple((w.role, self.parameter(w, module, shared, t)) for w in weights)
        path = self.unique(join(self.call_path, segment or op.name))
        values = [None if x is None else x.value for x in operands]
        node = graph.add(op, values, outputs, path=path, region=self.region, span=t.span, module=module, params=params)
        if op.name == "drop_path":
            self.schedule(node.path, op, t)
        return self.results(op, operands, node.values)

    def results(self, op: Op, operands: list[Tensor | None], values: tuple[object, ...]) -> Data:
        """Results as tensors that know their run-time frames; a frame result is not a value of the language."""
        inherited = next((x.frames for x in operands if x is not None and x.frames), ())
        if op.name == "tile":
            assert operands[1] is not None
            inherited = operands[1].frames
        out: list[Data] = []
        frame = next((v for v in values if v.type.kind == "frame"), None)  # type: ignore[attr-defined]
        for v in values:
            depth = len(v.type.frames)  # type: ignore[attr-defined]
            if v is frame:
                continue
            frames = (*inherited, frame) if frame is not None else inherited
            out.append(Tensor(v, tuple(frames[:depth])))  # type: ignore[arg-type]
        return out[0] if len(out) == 1 else tuple(out)

    def parameter(self, weight: Weight, module: str, shared: bool, t: tree.Tree) -> str:
        assert self.graph is not None
        path = join(module, weight.role)
        known = self.graph.params.get(path)
        if known is not None:
            if not shared:
                owner = self.owner(path)
                again = owner == t.span
                raise self.fail(
                    "E-WEIGHT-PATH",
                    f"two calls own the weight path `{path}`",
                    places.callee(t),
                    notes=[(owner, "the first one")] if owner is not None and not again else (),
                    help="it runs twice with one index: give the loop or stage an index that differs each time"
                    if again
                    else "label one of them, e.g. f@other(x), or write `share` to use one set of weights twice",
                )
            if tuple(map(int, known.shape)) != tuple(map(int, weight.shape)):
                raise self.fail(
                    "E-SHARED-SHAPE",
                    f"the shared weight `{path}` is {_shape(known.shape)} in one use,"
                    f" {_shape(weight.shape)} in another",
                    places.callee(t),
                    label=f"{_shape(weight.shape)} here",
                    notes=[(owner, f"{_shape(known.shape)} here")] if (owner := self.owner(path)) is not None else (),
                    help="bring every use to the same channels first, or drop `share`",
                )
            return path
        for size in weight.shape:
            if isinstance(size, Size):
                for condition in sizes.pins(size, self.graph.axes):
                    self.guard(condition, f"the shape of {path}", t.span)
        shape = tuple(int(n) for n in weight.shape)
        self.graph.params[path] = Parameter(path, shape, weight.init, weight.kind, weight.dtype, weight.resize)
        return path

    def owner(self, path: str) -> Span | None:
        """The call that made a weight."""
        assert self.graph is not None
        return next((n.span for n in self.graph.nodes() if path in (p for _, p in n.params)), None)

    def unique(self, path: str) -> str:
        n = self.taken.get(path, 0) + 1
        self.taken[path] = n
        return path if n == 1 else f"{path}#{n}"

    def located(self, e: ShapeError, f: Function, operands: list[Tensor | None], t: tree.Tree) -> ArchError:
        """A shape error with its place: the attribute's or operand's own text where there is one."""
        given = [x for x in operands if x is not None and x.type.kind != "frame"]
        names = [p.rstrip("?").lstrip("*") for p in f.declaration.ports] if isinstance(f.declaration, type) else []
        variadic = isinstance(f.declaration, type) and any(p.startswith("*") for p in f.declaration.ports)
        span, label, about = t.span, e.label, given[:1]
        notes: list[tuple[Span, str]] = []
        if e.attr:
            spread = getattr(f.declaration, "variadic", "")
            span = places.static(t, e.attr, signatures.static_names(f), spread) or places.callee(t)
        elif variadic and e.port:
            span, about = places.every(t), given
        elif e.port in names:
            at = names.index(e.port)
            span = places.operand(t, e.port, at, len(given))
            about = [x for x in operands[at : at + 1] if x is not None] or about
        elif isinstance(t, (tree.Binary, tree.Update)) and len(given) == 2:
            span, label, about = places.positional(t, 1, 2), given[1].type.short(), given
            notes.append((places.positional(t, 0, 2), given[0].type.short()))
        traced = self.graph is not None and e.code not in UNTRACED and (e.code, span) not in self.found
        trace = where_from(self.graph, *(x.value for x in about)) if traced and self.graph is not None else ()
        return self.fail(e.code, e.message, span, notes, label=label, help=e.help, trace=trace)

    def schedule(self, path: str, op: Op, t: tree.Tree) -> None:
        if getattr(op, "t", None) is not None:
            return
        if self.block is None:
            raise self.fail(
                "E-DROP-PATH",
                "`drop_path` outside any `blocks` has no place in the schedule",
                places.callee(t),
                help="give its position explicitly: drop_path[t = 1](x)",
            )
        self.drop_paths.append((path, self.block))

    # -- defs, lambdas, externs ----------------------------------------------------------------------

    def call_def(self, f: Function, d: tree.Def, positional: list[Data], named: dict[str, Data], t: tree.Tree) -> Data:
        assert f.scope is not None and self.graph is not None
        scope = signatures.bind(self, f, d.statics, d.ports, positional, named, t)
        ports = tuple((p.name.id, v.value) for p in d.ports if isinstance(v := scope.names.get(p.name.id), Tensor))
        region = self.graph.regions[self.region]
        region.ports = ports
        values = {p.name.id: scope.names[p.name.id] for p in (*d.statics, *d.ports)}
        late = {p.name.id for p in d.ports if values[p.name.id] is None or contains_tensor(values[p.name.id])}
        region.statics = tuple((name, as_static(value)) for name, value in values.items() if name not in late)
        self.mode_read |= d.rep
        if d.rep and self.mode == "deploy":
            result = rep.collapse(self, f, d, scope, t)
        else:
            result = self.run(d, d.body, scope, f, t)
            if d.rep:
                rep.verify(self, f, self.region, result, t)
        signatures.check_results(self, f, d.results, result, scope, t)
        region.results = tuple(v.value for v in tensors(result))
        return result

    def run(self, owner: tree.Tree, body: tree.Tree, scope: Scope, f: Function, t: tree.Tree) -> Data:
        """The result of a def's body, in a scope that already holds its parameters."""
        if not isinstance(body, tree.Body):
            result = self.evaluate(body, scope, Activation(self.sites_of(owner, (body,), False)))
            self.returned = body.span
            return result
        act = Activation(self.sites_of(owner, body.statements, False))
        outcome = self.execute(body.statements, scope, act)
        if isinstance(outcome, Fallthrough):
            assert isinstance(owner, tree.Def)
            raise self.fail(
                "E-RETURN", f"`{f.name}` ends without `return`", owner.name.span, help="end it with `return x`"
            )
        return outcome

    def call_lambda(
        self, f: Function, d: tree.Lambda, positional: list[Data], named: dict[str, Data], t: tree.Tree
    ) -> Data:
        if named or len(positional) != len(d.params):
            raise self.fail(
                "E-ARITY",
                f"this `fn` takes {count(len(d.params), 'argument')}, got {len(positional) + len(named)}",
                places.callee(t),
                notes=[(d.params[0].span.to(d.params[-1].span), "declared here")] if d.params else (),
            )
        scope = Scope(f.scope, {p.id: v for p, v in zip(d.params, positional, strict=True)})
        if self.graph is not None:
            region = self.graph.regions[self.region]
            region.ports = tuple(
                (p.id, v.value) for p, v in zip(d.params, positional, strict=True) if isinstance(v, Tensor)
            )
        result = self.evaluate(d.body, scope, Activation(self.sites_of(d, (d.body,), True)))
        if self.graph is not None:
            self.graph.regions[self.region].results = tuple(v.value for v in tensors(result))
        return result

    def call_extern(
        self, f: Function, d: tree.Extern, positional: list[Data], named: dict[str, Data], t: tree.Tree
    ) -> Data:
        scope = signatures.bind(self, f, d.statics, d.ports, positional, named, t)
        costs: dict[str, int] = {}
        for b in d.costs:
            if b.name.id not in ("flops", "params"):
                hint = did_you_mean(b.name.id, ("flops", "params")) or "an extern declares `flops` and `params`"
                raise self.fail("E-EXTERN", f"`{b.name.id}` is not a cost", b.name.span, help=hint)
            value = self.evaluate(b.value, scope)
            if not is_number(value):
                title = f"`{b.name.id}` must be a number, got {what(value)}"
                raise self.fail("E-EXTERN", title, b.value.span, help="write a product of sizes, e.g. H * W * C")
            costs[b.name.id] = int(value)  # type: ignore[arg-type]
        results = tuple(signatures.declared_type(self, r, scope) for r in d.results)
        config: dict[str, Data] = {
            "target": d.target.value,
            "results": results,
            "statics": tuple((p.name.id, as_static(scope.names[p.name.id])) for p in d.statics),
            "flops": costs.get("flops", 0),
            "params": costs.get("params", 0),
        }
        operands = [v for p in d.ports if isinstance(v := scope.names[p.name.id], Tensor)]
        if not operands:
            title = f"extern `{d.name.id}` takes no tensor"
            raise self.fail("E-EXTERN", title, d.name.span, help=f"give it an input: {d.name.id}(x: map[C, H, W])")
        return self.apply_op("extern", config, operands, t)

    def execute(self, statements: Sequence[tree.Tree], scope: Scope, act: Activation) -> Outcome:
        """Runs statements until one returns; defined with the statements."""
        raise NotImplementedError


def _resizable(op: Op, weights: Sequence[Weight]) -> None:
    """Refuses weights that follow the input's size from an op that could say, and does not, how they are resampled."""
    if getattr(op, "resize", "") is not None:
        return
    for weight in weights:
        bound = next((n for n in weight.shape if isinstance(n, Size)), None)
        if bound is not None:
            raise ShapeError(
                f"the parameter is {_shape(weight.shape)}, and {int(bound)} of it is {sizes.text(bound)} of the input",
                code="E-RESIZE",
                help='say how a checkpoint of another size is loaded: resize = "bicubic", or "none" to refuse it',
            )


def join(prefix: str, segment: str) -> str:
    return f"{prefix}.{segment}" if prefix and segment else prefix or segment


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(int(n)) for n in shape)


def tensors(value: Data) -> list[Tensor]:
    items = value if isinstance(value, tuple) else (value,)
    return [v for v in items if isinstance(v, Tensor)]


def count(n: int, noun: str) -> str:
    return f"{n or 'no'} {noun}{'s' * (n != 1)}"


def _name_of(t: tree.Tree, name: str) -> Span:
    argument = places.named(t, name)
    return argument.name.span if argument is not None and argument.name is not None else t.span


def _not_called(value: Data) -> str:
    if isinstance(value, Tensor):
        return "a tensor is what functions are called with: f(x), or x |> f"
    if isinstance(value, Architecture):
        return "an arch is built, not called; put what both need into a `def`"
    return "only functions are called: ops, defs, `fn`"
