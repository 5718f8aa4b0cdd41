"""The syntax tree: frozen dataclasses with spans, one class a construct. Says nothing about meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar, dataclass_transform

from archdsl.diagnostics import Source, Span

T = TypeVar("T")


@dataclass_transform(eq_default=False, frozen_default=True)
def node(cls: type[T]) -> type[T]:
    """A frozen dataclass with slots, compared by identity.

    Type checkers hold it frozen; at run time that would cost every start 15 ms for these fifty classes.
    """
    return dataclass(slots=True, eq=False, repr=False)(cls)


@node
class Tree:
    """Base of all tree nodes. Compared by identity; `same` in printer.py compares by structure."""

    span: Span


# -- expressions -----------------------------------------------------------------------------


@node
class Name(Tree):
    id: str


@node
class Number(Tree):
    text: str
    """As written: 4, 0.5, 28.29M, 4GFLOPs, 8ms."""
    value: int | float
    """In base units: 4GFLOPs is 4e9 multiply-accumulates, 8ms is 0.008 s, 600MB is 6e8 bytes."""
    unit: str = ""
    """"" for a plain number (k M G T included), else "MACs", "B" or "s"."""


@node
class String(Tree):
    value: str


@node
class Group(Tree):
    inner: Expr


@node
class Tuple(Tree):
    items: tuple[Expr, ...]


@node
class List(Tree):
    items: tuple[Expr, ...]


@node
class Comprehension(Tree):
    item: Expr
    name: Name
    iterable: Expr
    condition: Expr | None


@node
class Choice(Tree):
    options: tuple[Expr, ...]


@node
class Arg(Tree):
    name: Name | None
    value: Expr


@node
class Config(Tree):
    """f[...]: configures a function or indexes a list."""

    callee: Expr
    args: tuple[Arg, ...]


@node
class Call(Tree):
    callee: Expr
    args: tuple[Arg, ...]


@node
class Attribute(Tree):
    value: Expr
    name: Name


@node
class Label(Tree):
    """f@label: names the path segment of the call it belongs to (`@_`: no segment), or a draw after a choice."""

    value: Expr
    name: Name


@node
class Unary(Tree):
    """op is "-" or "not"."""

    op: str
    value: Expr


@node
class Binary(Tree):
    """op is one of + - * / // % ^ and or."""

    op: str
    left: Expr
    right: Expr


@node
class Compare(Tree):
    """first ops[0] rest[0] ops[1] rest[1] ...; ops from < <= > >= == != ~=."""

    first: Expr
    ops: tuple[str, ...]
    rest: tuple[Expr, ...]


@node
class Range(Tree):
    start: Expr
    stop: Expr
    step: Expr | None


@node
class Pipe(Tree):
    """value |> stages[0] |> stages[1] ..."""

    value: Expr
    stages: tuple[Expr, ...]


@node
class Conditional(Tree):
    condition: Expr
    then: Expr
    otherwise: Expr


@node
class Lambda(Tree):
    params: tuple[Name, ...]
    body: Expr


Expr: TypeAlias = (
    Name
    | Number
    | String
    | Group
    | Tuple
    | List
    | Comprehension
    | Choice
    | Config
    | Call
    | Attribute
    | Label
    | Unary
    | Binary
    | Compare
    | Range
    | Pipe
    | Conditional
    | Lambda
)


# -- types and signatures ----------------------------------------------------------------------


@node
class TypeRef(Tree):
    """map[C, H, W], int[4]?, fn(map[C]) -> map[C]. A dim of None is `...`."""

    name: Name
    dims: tuple[Expr | None, ...] = ()
    optional: bool = False
    ports: tuple[TypeRef, ...] = ()
    """Of a function type: its port types; `name` is then `fn`."""
    results: tuple[TypeRef, ...] = ()


@node
class Param(Tree):
    name: Name
    type: TypeRef | None
    default: Expr | None


# -- statements --------------------------------------------------------------------------------


@node
class Body(Tree):
    statements: tuple[Statement, ...]


@node
class Input(Tree):
    name: Name
    type: TypeRef


@node
class Assign(Tree):
    names: tuple[Name, ...]
    value: Expr


@node
class Update(Tree):
    """name op= value; op is + or *."""

    name: Name
    op: str
    value: Expr


@node
class Share(Tree):
    name: Name
    value: Expr


@node
class Return(Tree):
    values: tuple[Expr, ...]


@node
class If(Tree):
    condition: Expr
    then: Body
    otherwise: Body | If | None


@node
class For(Tree):
    index: Name | None
    """`for i, d in dims` enumerates: index is i, name is d."""
    name: Name
    iterable: Expr
    body: Body


@node
class Blocks(Tree):
    label: Name | None
    name: Name | None
    count: Expr
    body: Body


@node
class Stage(Tree):
    """`stage i in 4 -> x { }` (iterable given: a loop), or `stage overview -> ctx { }` (one named stage)."""

    name: Name
    iterable: Expr | None
    results: tuple[Name, ...]
    body: Body


@node
class RegionBlock(Tree):
    """kind is "stem" or "head"."""

    kind: str
    body: Body


@node
class Require(Tree):
    condition: Expr
    message: String | None


Statement: TypeAlias = Input | Assign | Update | Share | Return | If | For | Blocks | Stage | RegionBlock | Require


# -- top level ---------------------------------------------------------------------------------


@node
class ImportName(Tree):
    name: Name
    alias: Name | None


@node
class Import(Tree):
    names: tuple[ImportName, ...]
    file: String


@node
class Let(Tree):
    name: Name
    value: Expr


@node
class Def(Tree):
    rep: bool
    name: Name
    statics: tuple[Param, ...]
    ports: tuple[Param, ...]
    results: tuple[TypeRef, ...]
    """Empty where the signature declares none."""
    body: Body | Expr


@node
class Binding(Tree):
    name: Name
    value: Expr


@node
class Extern(Tree):
    name: Name
    statics: tuple[Param, ...]
    ports: tuple[Param, ...]
    results: tuple[TypeRef, ...]
    target: String
    costs: tuple[Binding, ...]


@node
class Arch(Tree):
    name: Name
    params: tuple[Param, ...]
    body: Body


@node
class Variant(Tree):
    """arch name = value"""

    name: Name
    value: Expr


@node
class Check(Tree):
    name: Name
    conditions: tuple[Expr, ...]


@node
class Goal(Tree):
    """sense is "minimize" or "maximize"."""

    sense: str
    value: Expr


@node
class Seed(Tree):
    value: Expr


@node
class Space(Tree):
    name: Name
    base: Name
    items: tuple[Let | Binding | Require | Goal | Seed, ...]


Item: TypeAlias = Import | Let | Def | Extern | Arch | Variant | Check | Space


@node
class Comment(Tree):
    text: str
    """From # to the end of the line."""


@node
class File(Tree):
    source: Source
    version: Number | None
    """`language 1`; None where the file does not say."""
    items: tuple[Item, ...]
    comments: tuple[Comment, ...]
