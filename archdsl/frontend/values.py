"""What expressions evaluate to: plain Python values, tensors of the graph, and functions."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from archdsl.diagnostics import Span
from archdsl.frontend.names import children
from archdsl.ir.graph import Static
from archdsl.ir.graph import Value as GraphValue
from archdsl.ir.types import TensorType
from archdsl.ops.base import Op, op_name
from archdsl.syntax import tree
from archdsl.syntax.tree import Arch, Expr, Variant


@dataclass(frozen=True, slots=True)
class Tensor:
    """A run-time value: where the graph computes it, and the run-time frames it lives in, outermost first."""

    value: GraphValue
    frames: tuple[GraphValue, ...] = ()

    @property
    def type(self) -> TensorType:
        return self.value.type

    def __str__(self) -> str:
        return self.type.short()


@dataclass(frozen=True, slots=True)
class Instance:
    """A shared instance: the weight path it lives at, and the region that owns it."""

    path: str
    region: int


@dataclass(frozen=True, slots=True)
class Role:
    """The function type that a parameter declares: the parameter, the scope of its sizes, the argument's place."""

    param: tree.Param
    scope: Scope
    given: Span


@dataclass(frozen=True, slots=True)
class Builtin:
    """A compile-time function: `len`, `max`, `make_div` ..."""

    name: str
    call: Callable[..., Data]

    @property
    def shown(self) -> str:
        """Its signature in the language's notation."""
        parameters = inspect.signature(self.call).parameters.values()
        shown = (f"{p.name}..." if p.kind is p.VAR_POSITIONAL else p.name for p in parameters)
        return f"{self.name}({', '.join(shown)})"


Declaration: TypeAlias = "type[Op] | tree.Def | tree.Extern | tree.Lambda | Builtin"


@dataclass(frozen=True, slots=True)
class Function:
    """Something callable, with its configuration so far (attributes by name) and, if shared, its instance."""

    name: str
    declaration: Declaration
    scope: Scope | None = None
    config: Mapping[str, Data] = field(default_factory=dict)
    instance: Instance | None = None
    role: Role | None = None
    """What every call must keep to, where it came through a parameter with a signature."""

    def __str__(self) -> str:
        return show(self)

    def key(self) -> object:
        """Equal for functions that are the same declaration, configured alike: giving a default changes nothing."""
        config = {k: key_of(v) for k, v in self.config.items() if key_of(v) != self._default(k)}
        captured: tuple[object, ...] = ()
        if isinstance(self.declaration, tree.Lambda) and self.scope is not None:
            found = [(name, self.scope.find(name)) for name in sorted(_names(self.declaration.body))]
            captured = tuple((name, key_of(home.names[name])) for name, home in found if home is not None)
        return (id(self.declaration), tuple(sorted(config.items(), key=lambda item: item[0])), captured, self.instance)

    def _default(self, name: str) -> object:
        """The key of a compile-time parameter's default; of no value where it has to be evaluated."""
        d = self.declaration
        if isinstance(d, type):
            return next((key_of(f.default) for f in dataclasses.fields(d) if f.name == name), None)  # type: ignore[arg-type]
        statics = d.statics if isinstance(d, (tree.Def, tree.Extern)) else ()
        default = next((p.default for p in statics if p.name.id == name), None)
        if isinstance(default, (tree.Number, tree.String)):
            return key_of(default.value)
        if isinstance(default, tree.Name) and self.scope is not None:
            home = self.scope.find(default.id)
            return None if home is None else key_of(home.names[default.id])
        return None

    def configured(self, config: Mapping[str, Data]) -> Function:
        return Function(self.name, self.declaration, self.scope, {**self.config, **config}, self.instance, self.role)


@dataclass(frozen=True, slots=True)
class Architecture:
    """An `arch` or a variant of one: the arch it is built from and the parameters it overrides."""

    name: str
    tree: Arch
    scope: Scope
    overrides: tuple[tuple[str, Expr, Scope], ...] = ()
    """(parameter, expression, scope of the variant's file), base variants first."""
    declared: Arch | Variant | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """Named numbers, as `train` in a check: train.params."""

    fields: Callable[[str], Data]
    names: tuple[str, ...]


class Broken:
    """What a name holds whose assignment was a mistake: it is reported, and uses of the name are not."""


BROKEN = Broken()

Data: TypeAlias = (
    "int | float | bool | str | tuple[Data, ...] | Tensor | Function | Architecture | Record | Broken | None"
)


class Scope:
    """Names in force, innermost first."""

    __slots__ = ("names", "parent")

    def __init__(self, parent: Scope | None = None, names: dict[str, Data] | None = None) -> None:
        self.parent = parent
        self.names: dict[str, Data] = names if names is not None else {}

    def find(self, name: str) -> Scope | None:
        at: Scope | None = self
        while at is not None:
            if name in at.names:
                return at
            at = at.parent
        return None

    def visible(self) -> set[str]:
        out: set[str] = set()
        at: Scope | None = self
        while at is not None:
            out |= at.names.keys()
            at = at.parent
        return out


def is_int(value: Data) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Data) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def show(value: Data) -> str:
    """A value as the language would write it, for messages and for the graph's statics."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(show, value)) + "]"
    if isinstance(value, Tensor):
        return value.type.short()
    if isinstance(value, Function):
        config = ", ".join(f"{k} = {show(v)}" for k, v in value.config.items())
        return value.name + (f"[{config}]" if config else "")
    if isinstance(value, Architecture):
        return value.name
    if isinstance(value, Record):
        return "{" + ", ".join(value.names) + "}"
    return repr(value)


def what(value: Data) -> str:
    """A value named by its sort, for messages: `the tensor map[...]`, `the function mlp`, `the number 3`."""
    if isinstance(value, Tensor):
        return f"the tensor {value.type.short()}"
    if isinstance(value, Function):
        return f"the function `{show(value)}`"
    if isinstance(value, Architecture):
        return f"the architecture `{value.name}`"
    if isinstance(value, tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f"the string {show(value)}"
    return f"the number {show(value)}" if is_number(value) else show(value)


def as_static(value: Data) -> Static:
    """A value as the graph keeps it: functions and tensors become their text."""
    if isinstance(value, tuple):
        return tuple(as_static(v) for v in value)
    if value is None or isinstance(value, (int, float, bool, str)):
        return value
    return show(value)


def bulk(value: Data, limit: int) -> int:
    """Elements of a list and of the lists inside it, or of what a function is configured with, up to `limit`.

    A part that occurs several times counts each time, as it does when the value is shown or compared.
    """
    parts = value if isinstance(value, tuple) else tuple(value.config.values()) if isinstance(value, Function) else ()
    found = len(parts)
    for part in parts:
        if found >= limit:
            return limit
        if isinstance(part, (tuple, Function)):
            found += bulk(part, limit - found)
    return min(found, limit)


def contains_tensor(value: Data) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, tuple) and any(map(contains_tensor, value)))


def declared_name(declaration: Declaration) -> str:
    if isinstance(declaration, type):
        return op_name(declaration)
    if isinstance(declaration, Builtin):
        return declaration.name
    return "fn" if isinstance(declaration, tree.Lambda) else declaration.name.id


def _names(node: tree.Tree) -> set[str]:
    return {node.id} if isinstance(node, tree.Name) else set().union(*map(_names, children(node)))


def key_of(value: Data) -> object:
    """Equal for values that the language holds equal; functions by what they are."""
    if isinstance(value, Function):
        return value.key()
    if isinstance(value, tuple):
        return tuple(map(key_of, value))
    return (type(value).__name__ if isinstance(value, bool) else "", value)
