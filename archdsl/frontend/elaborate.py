"""Turns a tree into a Graph: runs the statements of an arch, unrolling repetition into regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from archdsl.diagnostics import ArchError
from archdsl.frontend import places, signatures
from archdsl.frontend.calls import Caller, count, join, tensors
from archdsl.frontend.evaluate import (
    FALLTHROUGH,
    Activation,
    Block,
    Decide,
    Fallthrough,
    Outcome,
)
from archdsl.frontend.names import Sites, mentions
from archdsl.frontend.resolve import assigned, returns
from archdsl.frontend.values import (
    BROKEN,
    Architecture,
    Builtin,
    Data,
    Function,
    Instance,
    Scope,
    Tensor,
    as_static,
    what,
)
from archdsl.ir.graph import Feature, Graph
from archdsl.ir.types import image
from archdsl.ops.vocabulary import Vocabulary
from archdsl.syntax import tree


class Elaborator(Caller):
    """Runs bodies; with `elaborate`, a whole architecture."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        sites: Callable[[tree.Tree, Sequence[tree.Tree], bool], Sites],
        mode: str = "eval",
        decide: Decide | None = None,
    ) -> None:
        super().__init__(vocabulary, sites, mode, decide)
        self._stmt: dict[type, Callable[[tree.Tree, Scope, Activation], Outcome]] = {
            tree.Input: self.s_input,
            tree.Assign: self.s_assign,
            tree.Update: self.s_update,
            tree.Share: self.s_share,
            tree.Return: self.s_return,
            tree.If: self.s_if,
            tree.For: self.s_for,
            tree.Blocks: self.s_blocks,
            tree.Stage: self.s_stage,
            tree.RegionBlock: self.s_region,
            tree.Require: self.s_require,
        }

    # -- statements ----------------------------------------------------------------------------------

    def execute(self, statements: Sequence[tree.Tree], scope: Scope, act: Activation) -> Outcome:
        for statement in statements:
            self.steps += 1
            try:
                outcome = self._stmt[type(statement)](statement, scope, act)
            except ArchError as e:
                if returns(statement):
                    raise
                self.recover(e, assigned((statement,)), scope)
                continue
            if outcome is not FALLTHROUGH:
                return outcome
        return FALLTHROUGH

    def assign(self, scope: Scope, name: str, value: Data) -> None:
        scope.names[name] = value
        if isinstance(value, Tensor) and self.graph is not None:
            node = self.graph.node(value.value.node)
            if not node.names or node.names[value.value.index] != name:
                self.graph.rename_result(value.value, name)

    def s_input(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.Input) and self.graph is not None
        if t.type.name.id != "map" or len(t.type.dims) != 3 or any(d is None for d in t.type.dims):
            title = f"`{places.shown(t.type)}` is not an image with its sizes"
            raise self.fail("E-INPUT", title, t.type.span, help=f"write input {t.name.id}: map[3, 224, 224]")
        c, h, w = (self.integer(self.evaluate(d, scope), d) for d in t.type.dims if d is not None)
        if self.input_size is not None:
            c, h, w = self.input_size
        if min(c, h, w) < 1 or max(c, h, w) > 1 << 16:
            title = f"an input of {c}x{h}x{w} is not an image"
            raise self.fail("E-INPUT", title, t.type.span, help="channels, height and width are 1 to 65536")
        channels = scope.find("in_chans")
        if channels is not None and isinstance(channels.names["in_chans"], int):
            c = channels.names["in_chans"]
        kind = image(c, h, w)
        node = self.graph.add(
            self.vocabulary["input"](), [], (kind,), path=t.name.id, region=self.region, span=t.span, names=(t.name.id,)
        )
        self.graph.inputs.append(node.value())
        scope.names[t.name.id] = Tensor(node.value())
        return FALLTHROUGH

    def s_assign(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.Assign)
        value = self.evaluate(t.value, scope, act)
        if len(t.names) == 1:
            self.assign(scope, t.names[0].id, value)
            return FALLTHROUGH
        if not isinstance(value, tuple):
            hint = f"split[{len(t.names)}](...) makes {len(t.names)} parts" if isinstance(value, Tensor) else ""
            raise self.fail(
                "E-UNPACK", f"{what(value)} cannot be taken apart into {len(t.names)} names", t.value.span, help=hint
            )
        if len(value) != len(t.names):
            raise self.fail(
                "E-UNPACK",
                f"{len(t.names)} names on the left, {len(value)} values on the right",
                t.names[0].span.to(t.names[-1].span),
                notes=[(t.value.span, count(len(value), "value"))],
                help=f"write {count(len(value), 'name')}: {', '.join('abcdefgh'[: len(value)])} = ..."
                if 1 < len(value) <= 8
                else "",
            )
        for name, item in zip(t.names, value, strict=True):
            self.assign(scope, name.id, item)
        return FALLTHROUGH

    def s_update(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.Update)
        old = self.e_name(t.name, scope, act)
        value = self.evaluate(t.value, scope, act)
        self.assign(scope, t.name.id, self.arithmetic(t.op, old, value, t))
        return FALLTHROUGH

    def s_share(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.Share)
        f = self.evaluate(t.value, scope, act)
        if not isinstance(f, Function) or isinstance(f.declaration, Builtin):
            hint = "a tensor needs no `share`: bind it, and use its name twice" if isinstance(f, Tensor) else ""
            raise self.fail(
                "E-SHARE", f"`share` takes a function such as linear[64], got {what(f)}", t.value.span, help=hint
            )
        path = join(self.module, t.name.id) + "".join(f".{i}" for i in act.loops)
        scope.names[t.name.id] = replace(f, instance=Instance(path, self.region))
        return FALLTHROUGH

    def s_return(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.Return)
        values = [self.evaluate(v, scope, act) for v in t.values]
        self.returned = t.values[0].span.to(t.values[-1].span) if t.values else t.span
        return values[0] if len(values) == 1 else tuple(values)

    def s_if(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.If)
        if self.truth(t.condition, scope, act):
            return self.execute(t.then.statements, scope, act)
        if isinstance(t.otherwise, tree.If):
            return self.s_if(t.otherwise, scope, act)
        return FALLTHROUGH if t.otherwise is None else self.execute(t.otherwise.statements, scope, act)

    def s_for(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.For)
        for i, v in enumerate(self.iterate(self.evaluate(t.iterable, scope, act), t.iterable)):
            if t.index is not None:
                scope.names[t.index.id] = i
            scope.names[t.name.id] = v
            act.loops.append(i)
            try:
                outcome = self.execute(t.body.statements, scope, act)
            finally:
                act.loops.pop()
            if outcome is not FALLTHROUGH:
                return outcome
        return FALLTHROUGH

    def in_region(
        self, kind: str, name: str, segment: str, t: tree.Tree, body: tree.Body, scope: Scope, index: int | None = None
    ) -> Outcome:
        outer = self.module, self.call_path, self.region
        self.module, self.call_path = join(self.module, segment), join(self.call_path, segment)
        self.region = self.open_region(kind, name, segment, t.span, index=index)
        try:
            return self.execute(body.statements, scope, Activation(self.sites_of(t, body.statements, True)))
        finally:
            self.module, self.call_path, self.region = outer

    def s_region(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.RegionBlock)
        return self.in_region(t.kind, t.kind, t.kind, t, t.body, scope)

    def s_stage(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.Stage)
        if t.iterable is None:
            outcome = self.in_region("stage", t.name.id, t.name.id, t, t.body, scope)
            self.declare(t, t.name.id, scope)
            return outcome
        for i in self.iterate(self.evaluate(t.iterable, scope, act), t.iterable):
            scope.names[t.name.id] = i
            index = self.integer(i, t.iterable)
            outcome = self.in_region("stage", "stages", f"stages.{index}", t, t.body, scope, index)
            if outcome is not FALLTHROUGH:
                return outcome
            self.declare(t, f"stages.{index}", scope)
        return FALLTHROUGH

    def declare(self, t: tree.Stage, stage: str, scope: Scope) -> None:
        assert self.graph is not None
        for name in t.results:
            value = scope.names.get(name.id)
            if value is BROKEN:
                continue
            if not isinstance(value, Tensor):
                found = f"`{name.id}` is {what(value)}" if name.id in scope.names else f"nothing assigns `{name.id}`"
                raise self.fail(
                    "E-FEATURE",
                    f"a stage's result is a tensor, but {found}",
                    name.span,
                    help="name the variable that holds the stage's feature map: -> x",
                )
            self.graph.features.append(Feature(stage, name.id, value.value))

    def s_blocks(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.Blocks)
        for j in self.iterate(self.evaluate(t.count, scope, act), t.count):
            outcome = self.one_block(t, j, scope, act)
            if outcome is not FALLTHROUGH:
                return outcome
        return FALLTHROUGH

    def one_block(self, t: tree.Blocks, j: Data, scope: Scope, act: Activation) -> Outcome:
        """One iteration of a `blocks` loop, for which its variable is `j`."""
        outer, segment = self.block, act.sites.segment[t]
        if t.name is not None:
            scope.names[t.name.id] = j
        index = self.integer(j, t.count)
        if outer is not None:
            outer.nested = True
        self.block = Block()
        self.blocks.append(self.block)
        try:
            return self.in_region("blocks", segment, f"{segment}.{index}", t, t.body, scope, index)
        finally:
            self.block = outer

    def s_require(self, t: tree.Tree, scope: Scope, act: Activation) -> Outcome:
        assert isinstance(t, tree.Require)
        self.deferred.append((t, scope))
        return FALLTHROUGH

    # -- a whole architecture --------------------------------------------------------------------------

    def parameters(self, arch: Architecture, overrides: Mapping[str, Data]) -> Scope:
        """The scope of an arch's parameters: variants' overrides in order, then `overrides`, then defaults."""
        declared = {p.name.id: p for p in arch.tree.params}
        given: dict[str, list[tuple[tree.Expr, Scope]]] = {}
        for name, expr, home in arch.overrides:
            given.setdefault(name, []).append((expr, home))
        scope = Scope(arch.scope)
        self.pending = set(declared)
        for name, param in declared.items():
            try:
                scope.names[name] = self.parameter_value(arch, param, overrides, given, scope)
            except ArchError as e:
                self.recover(e, (name,), scope)
            self.pending.discard(name)
        self.report()
        return scope

    def parameter_value(
        self,
        arch: Architecture,
        param: tree.Param,
        overrides: Mapping[str, Data],
        given: Mapping[str, list[tuple[tree.Expr, Scope]]],
        scope: Scope,
    ) -> Data:
        name, span = param.name.id, param.name.span
        if name in overrides:
            value = overrides[name]
        elif name in given:
            value = self.overridden(param, given[name], scope)
            span = given[name][-1][0].span
        elif param.default is not None:
            value = self.evaluate(param.default, scope)
            span = param.default.span
        else:
            raise self.fail(
                "E-PARAMETER",
                f"`{arch.name}` leaves its parameter `{name}` without a value",
                span,
                help=f"give it a default, or build a variant: arch b = {arch.name}[{name} = ...]",
            )
        value = signatures.coerce(self, value, param.type, name, scope, span)
        return signatures.in_role(self, value, param, scope, span)

    def overridden(self, param: tree.Param, chain: list[tuple[tree.Expr, Scope]], scope: Scope) -> Data:
        """The value of the last override of a parameter; where it mentions the parameter, it means the base's value."""
        *earlier, (expr, home) = chain
        names = dict(scope.names)
        if mentions(expr, param.name.id):
            if earlier:
                names[param.name.id] = self.overridden(param, earlier, scope)
            elif param.default is not None:
                names[param.name.id] = self.evaluate(param.default, scope)
        return self.evaluate(expr, Scope(home, names))

    def elaborate(
        self, arch: Architecture, overrides: Mapping[str, Data], source: str, input_size: tuple[int, int, int] | None
    ) -> Graph:
        """The graph of an architecture. Raises ArchError."""
        graph = self.graph = Graph(arch.name, self.mode, source)
        self.input_size = input_size
        self.declared = arch.declared
        self.home = arch.declared.span.source if arch.declared is not None else None
        scope = self.parameters(arch, overrides)
        graph.statics = {name: as_static(v) for name, v in scope.names.items()}
        self.region = self.open_region("arch", arch.name, "", arch.tree.span)
        act = Activation(self.sites_of(arch.tree, arch.tree.body.statements, False))
        outcome: Outcome = FALLTHROUGH
        try:
            outcome = self.execute(arch.tree.body.statements, scope, act)
        except ArchError as e:
            self.note(e)
        self.report()
        results = () if isinstance(outcome, Fallthrough) else tensors(outcome)
        if not results:
            raise self.fail(
                "E-RETURN",
                f"`{arch.name}` returns no tensor",
                arch.tree.name.span,
                help="end it with head { return ... }",
            )
        if not graph.inputs:
            raise self.fail("E-INPUT", f"`{arch.name}` declares no input", arch.tree.name.span)
        graph.outputs = tuple(x.value for x in results)
        self.number_drop_paths()
        self.disjoint_weights()
        return graph

    def disjoint_weights(self) -> None:
        """Refuses an op whose weights live at the path of a module that has parts of its own."""
        assert self.graph is not None
        owners = {node.module: node for node in self.graph.weight_nodes()}
        for path in owners:
            at = path
            while "." in at:
                at = at.rpartition(".")[0]
                if at in owners:
                    raise self.fail(
                        "E-WEIGHT-PATH",
                        f"`{at}` is the weight path of `{owners[at].op.name}` and of the module that holds `{path}`",
                        owners[at].span,
                        help="label one of them, e.g. f@other(x)",
                    )

    def number_drop_paths(self) -> None:
        """Fills each drop_path's position: block k of K, the innermost `blocks` iterations in program order."""
        assert self.graph is not None
        position: dict[int, int] = {}
        k = 0
        for block in self.blocks:
            position[id(block)] = k
            k += not block.nested
        for path, block in self.drop_paths:
            node = self.graph.node(path)
            op = node.op.replace(index=position[id(block)], last=max(k - 1, 0))  # type: ignore[attr-defined]
            self.graph.replace_node(replace(node, op=op))
