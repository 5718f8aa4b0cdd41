"""Turns a syntax tree back into text: `format_file` for `archdsl fmt`, `unparse` for one-line excerpts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from archdsl.syntax import tree
from archdsl.syntax.comments import Comments, Place
from archdsl.syntax.layout import HARD, SOFT, SPACE, Aside, Doc, Fill, Group, Nest, cat, fits, flat, layout
from archdsl.syntax.tree import Tree

WIDTH = 100
INDENT = 2
CONTINUED = 4
_ENDLESS = 1 << 30

# How tightly an expression binds; an operand that binds less than its place asks for gets parentheses.
_ANY, _OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _NEGATION, _POWER, _POSTFIX = range(10)
_BINARY = {
    "or": _OR,
    "and": _AND,
    "+": _SUM,
    "-": _SUM,
    "*": _PRODUCT,
    "/": _PRODUCT,
    "//": _PRODUCT,
    "%": _PRODUCT,
}


def format_file(file: tree.File, width: int = WIDTH) -> str:
    """Canonical text of a file: the same tree, all comments, at most one blank line in a row; idempotent."""
    return _Printer(Comments(file.comments), width).file(file)


def unparse(node: _Item) -> str:
    """An expression or a type on one line."""
    return flat(_Expressions(Comments(()), _ENDLESS).any(node))


def same(a: Tree, b: Tree) -> bool:
    """Whether two trees are equal but for their places, comments and sources."""
    if type(a) is not type(b):
        return False
    skipped = {"span", "source", "comments"}
    return all(
        _same_field(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a) if f.name not in skipped
    )


def _same_field(a: object, b: object) -> bool:
    if isinstance(a, Tree) and isinstance(b, Tree):
        return same(a, b)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same_field, a, b))
    return type(a) is type(b) and a == b


class _Expressions:
    """Documents of expressions, types and signatures."""

    def __init__(self, comments: Comments, width: int = WIDTH) -> None:
        self.comments = comments
        self.width = width

    def any(self, node: _Item) -> Doc:
        match node:
            case tree.TypeRef():
                return self.type(node)
            case tree.Param(name=name, type=type_, default=default):
                typed: Doc = "" if type_ is None else cat(": ", self.type(type_))
                return cat(name.id, typed, "" if default is None else cat(" = ", self.expr(default)))
            case tree.Arg(name=name, value=value):
                return self.expr(value) if name is None else cat(f"{name.id} = ", self.expr(value))
            case _:
                return self.expr(node)

    def expr(self, e: tree.Expr, place: int = _ANY) -> Doc:
        doc, binds = self._expr(e)
        return cat("(", doc, ")") if binds < place else doc

    def _expr(self, e: tree.Expr) -> tuple[Doc, int]:
        match e:
            case tree.Name(id=text) | tree.Number(text=text):
                return text, _POSTFIX
            case tree.String(value=text):
                return f'"{text}"', _POSTFIX
            case tree.Group(inner=inner):
                return self._enclosed("(", self.expr(inner), ")"), _POSTFIX
            case tree.Tuple(items=items):
                return self._listed("(", items, ")", _end(e)), _POSTFIX
            case tree.List(items=items):
                return self._listed("[", items, "]", _end(e)), _POSTFIX
            case tree.Comprehension():
                return self._comprehension(e), _POSTFIX
            case tree.Choice(options=options):
                first, *rest = (self.expr(o) for o in options)
                return self._enclosed("{", Fill((first, *(cat("| ", o) for o in rest))), "}"), _POSTFIX
            case tree.Config(callee=callee, args=args):
                return cat(self.expr(callee, _POSTFIX), self._listed("[", args, "]", _end(e))), _POSTFIX
            case tree.Call(callee=callee, args=args):
                return cat(self.expr(callee, _POSTFIX), self._listed("(", args, ")", _end(e))), _POSTFIX
            case tree.Attribute(value=value, name=name):
                return cat(self.expr(value, _POSTFIX), f".{name.id}"), _POSTFIX
            case tree.Label(value=value, name=name):
                return cat(self.expr(value, _POSTFIX), f"@{name.id}"), _POSTFIX
            case tree.Unary(op="not", value=value):
                return cat("not ", self.expr(value, _NOT)), _NOT
            case tree.Unary(value=value):
                return cat("-", self.expr(value, _NEGATION)), _NEGATION
            case tree.Binary(op="^", left=left, right=right):
                return cat(self.expr(left, _POSTFIX), "^", self.expr(right, _NEGATION)), _POWER
            case tree.Binary(op=op):
                return self._chain(e, _BINARY[op]), _BINARY[op]
            case tree.Compare(first=first, ops=ops, rest=rest):
                others = (cat(f"{op} ", self.expr(x, _SUM)) for op, x in zip(ops, rest, strict=True))
                return self._filled((self.expr(first, _SUM), *others)), _COMPARISON
            case tree.Range(start=start, stop=stop, step=step):
                by: Doc = "" if step is None else cat(" by ", self.expr(step, _OR))
                return cat(self.expr(start, _OR), "..", self.expr(stop, _OR), by), _ANY
            case tree.Pipe(value=value, stages=stages):
                others = (cat("|> ", self.expr(s, _POSTFIX)) for s in stages)
                return self._filled((self.expr(value, _POSTFIX), *others)), _ANY
            case tree.Conditional(condition=condition, then=then, otherwise=otherwise):
                parts = (
                    cat("if ", self.expr(condition)),
                    cat("then ", self.expr(then)),
                    cat("else ", self.expr(otherwise)),
                )
                return Group(self._filled(parts)), _ANY
            case tree.Lambda(params=params, body=body):
                return cat(f"fn ({', '.join(p.id for p in params)}) => ", self.expr(body)), _ANY

    def _chain(self, e: tree.Binary, level: int) -> Doc:
        """a + b - c as one fill: operators of one level, associated to the left."""
        operands: list[tuple[str, tree.Expr]] = []
        left: tree.Expr = e
        while isinstance(left, tree.Binary) and _BINARY.get(left.op) == level:
            operands.append((left.op, left.right))
            left = left.left
        docs = [self.expr(left, level + 1)]
        for op, operand in reversed(operands):
            doc = self.expr(operand, level + 1)
            if isinstance(operand, tree.Group) and not fits(doc, self.width - 2 * CONTINUED):
                docs[-1] = cat(docs[-1], f" {op} ", doc)  # it takes several lines anyway
            else:
                docs.append(cat(f"{op} ", doc))
        return self._filled(docs)

    def _comprehension(self, e: tree.Comprehension) -> Doc:
        clauses = [self.expr(e.item), cat(f"for {e.name.id} in ", self.expr(e.iterable))]
        if e.condition is not None:
            clauses.append(cat("if ", self.expr(e.condition)))
        return self._enclosed("[", Fill(tuple(clauses)), "]")

    # -- types and signatures --------------------------------------------------------------

    def type(self, t: tree.TypeRef) -> Doc:
        optional = "?" if t.optional else ""
        dims: Doc = ""
        if t.dims:
            parts = [part for d in t.dims for part in (", ", "..." if d is None else self.expr(d))]
            dims = cat("[", *parts[1:], "]")
        if not t.results:
            return cat(t.name.id, dims, optional)
        ports = self._listed("(", t.ports, ")", _end(t))
        single = len(t.results) == 1
        results = self.type(t.results[0]) if single else self._listed("(", t.results, ")", _end(t))
        signature = cat("fn", ports, " -> ", results)
        return cat("(", signature, ")", dims, optional) if t.dims or t.optional else signature

    def signature(self, statics: Sequence[tree.Param], ports: Sequence[tree.Param] | None, limit: Place) -> Doc:
        """`limit` is where the body begins: comments behind that are not the signature's."""
        first = (ports[0].span.line, ports[0].span.column) if ports else limit
        brackets: Doc = self._listed("[", statics, "]", first) if statics else ""
        return brackets if ports is None else cat(brackets, self._listed("(", ports, ")", limit))

    def results(self, types: Sequence[tree.TypeRef]) -> Doc:
        return cat(" -> ", Fill(tuple(_separated([self.type(t) for t in types])))) if types else ""

    # -- shapes of layout ------------------------------------------------------------------

    def _filled(self, items: Iterable[Doc]) -> Doc:
        docs = tuple(items)
        return docs[0] if len(docs) == 1 else Nest(CONTINUED, Fill(docs))

    def _enclosed(self, opening: str, inner: Doc, closing: str) -> Doc:
        return Group(cat(opening, Nest(INDENT, cat(SOFT, inner)), SOFT, closing))

    def _listed(self, opening: str, items: Sequence[_Item], closing: str, limit: Place) -> Doc:
        """Items between brackets, filled; one on a line where comments stand between them, up to `limit`."""
        if not items:
            return opening + closing
        pieces: list[Doc] = []
        lines: list[Doc] = []
        commented = False
        for i, item in enumerate(items):
            last = i + 1 == len(items)
            own = self.comments.before(item.span.line, item.span.column)
            piece = cat(self.any(item), "" if last else ",")
            following = limit if last else (items[i + 1].span.line, items[i + 1].span.column)
            trailing = self.comments.beside(item.span, following)
            commented = commented or bool(own or trailing)
            pieces.append(piece)
            lines += [part for text in own for part in (HARD, text)]
            lines += [HARD, piece, Aside(f"  {trailing}" if trailing else "")]
        after = self.comments.before(*limit)
        if not commented and not after:
            return self._enclosed(opening, Fill(tuple(pieces), apart=True), closing)
        lines += [part for text in after for part in (HARD, text)]
        return cat(opening, Nest(INDENT, cat(*lines)), HARD, closing)


def _separated(parts: Sequence[Doc]) -> list[Doc]:
    return [cat(part, "," if i + 1 < len(parts) else "") for i, part in enumerate(parts)]


def _end(node: Tree) -> Place:
    return node.span.end_line, node.span.end_column


def _start(node: Tree) -> Place:
    return node.span.line, node.span.column


class _Printer(_Expressions):
    """Lines of items and statements, with the comments between them."""

    def __init__(self, comments: Comments, width: int) -> None:
        super().__init__(comments, width)
        self.lines: list[str] = []
        self.line = 0
        """The source line that the last printed thing ended on."""
        self.fresh = True
        """Whether nothing is printed yet in the file or in the body just opened: no blank line goes there."""

    def file(self, file: tree.File) -> str:
        if file.version is not None:
            self._lead(file.version, 0)
            self._set(file.version, cat("language ", file.version.text), 0)
        for item in file.items:
            self._item(item)
        self._rest(_NOWHERE, 0)
        return "".join(f"{line}\n" for line in self.lines)

    # -- items -----------------------------------------------------------------------------

    def _item(self, item: tree.Item) -> None:
        self._lead(item, 0)
        match item:
            case tree.Import(names=names, file=file):
                words = [n.name.id + (f" as {n.alias.id}" if n.alias else "") for n in names]
                self._set(item, cat("import ", self._filled(_separated(words)), f' from "{file.value}"'), 0)
            case tree.Variant(name=name, value=value):
                self._set(item, cat(f"arch {name.id} = ", self.expr(value)), 0)
            case tree.Check(name=name, conditions=conditions):
                listed = self._filled(_separated([self.expr(c) for c in conditions]))
                self._set(item, cat(f"check {name.id}: ", listed), 0)
            case tree.Let():
                self._set(item, self._simple(item), 0)
            case tree.Def(body=body):
                rep = "rep " if item.rep else ""
                head = cat(f"{rep}def {item.name.id}", self.signature(item.statics, item.ports, _start(body)))
                head = cat(head, self.results(item.results))
                if isinstance(body, tree.Body):
                    self._block(item, head, body, 0)
                else:
                    self._set(item, cat(head, " =", self._value(body)), 0)
            case tree.Arch(name=name, params=params, body=body):
                self._block(item, cat(f"arch {name.id}", self.signature(params, None, _start(body))), body, 0)
            case tree.Extern(name=name, target=target, costs=costs):
                signature = self.signature(item.statics, item.ports, _start(target))
                source = Nest(CONTINUED, cat(SPACE, f'from "{target.value}"', " {" if costs else ""))
                head = Group(cat(f"extern {name.id}", signature, self.results(item.results), source))
                if costs:
                    self._braced(item, head, costs, 0)
                else:
                    self._set(item, head, 0)
            case tree.Space(name=name, base=base, items=items):
                self._braced(item, f"space {name.id} of {base.id} {{", items, 0)

    def _value(self, e: tree.Expr) -> Doc:
        """The expression behind `=`, on lines of its own if it does not fit there."""
        doc = self.expr(e)
        if isinstance(doc, Nest):  # those lines are indented already: a continuation stands below its start
            return Group(Nest(CONTINUED, cat(SPACE, doc.inner)))
        if isinstance(e, tree.Call | tree.List) and not fits(doc, self.width - CONTINUED):
            return cat(" ", doc)
        return Group(Nest(CONTINUED, cat(SPACE, doc)))

    # -- statements ------------------------------------------------------------------------

    def _statement(self, s: tree.Statement, indent: int) -> None:
        self._lead(s, indent)
        match s:
            case tree.If():
                self._if(s, "", indent)
            case tree.For(index=index, name=name, iterable=iterable, body=body):
                names = f"{index.id}, {name.id}" if index else name.id
                self._block(s, cat(f"for {names} in ", self.expr(iterable)), body, indent, short=True)
            case tree.Blocks(label=label, name=index, count=count, body=body):
                words = "blocks" + (f"@{label.id} " if label else " ") + (f"{index.id} in " if index else "")
                self._block(s, cat(words, self.expr(count)), body, indent, short=True)
            case tree.Stage(name=name, iterable=iterable, results=results, body=body):
                loop: Doc = "" if iterable is None else cat(" in ", self.expr(iterable))
                arrow = f" -> {', '.join(r.id for r in results)}" if results else ""
                self._block(s, cat(f"stage {name.id}", loop, arrow), body, indent, short=True)
            case tree.RegionBlock(kind=kind, body=body):
                self._block(s, kind, body, indent, short=True)
            case _:
                self._set(s, self._simple(s), indent)

    def _simple(self, s: _Simple) -> Doc:
        match s:
            case tree.Input(name=name, type=type_):
                return cat(f"input {name.id}: ", self.type(type_))
            case tree.Assign(names=names, value=value):
                return cat(f"{', '.join(n.id for n in names)} = ", self.expr(value))
            case tree.Update(name=name, op=op, value=value):
                return cat(f"{name.id} {op}= ", self.expr(value))
            case tree.Share(name=name, value=value):
                return cat(f"share {name.id} = ", self.expr(value))
            case tree.Return(values=values):
                return cat("return ", self._filled(_separated([self.expr(v) for v in values])))
            case tree.Require(condition=condition, message=message):
                parts = [self.expr(condition)] + ([] if message is None else [self.expr(message)])
                return cat("require ", self._filled(_separated(parts)))
            case tree.Let(name=name, value=value):
                return cat(f"let {name.id} = ", self.expr(value))
            case tree.Binding(name=name, value=value):
                return cat(f"{name.id} = ", self.expr(value))
            case tree.Goal(sense=sense, value=value):
                return cat(f"{sense} ", self.expr(value))
            case tree.Seed(value=value):
                return cat("seed ", self.expr(value))

    def _if(self, s: tree.If, prefix: str, indent: int) -> None:
        """`prefix` is what closes the branch before, or ""."""
        head = cat(f"{prefix}if ", self.expr(s.condition))
        if s.otherwise is None and not prefix:
            self._block(s, head, s.then, indent, short=True)
            return
        self._open(s.then, cat(head, " {"), indent, inside=bool(prefix))
        if isinstance(s.otherwise, tree.If):
            self._if(s.otherwise, "} else ", indent)
            return
        if s.otherwise is not None:
            self._open(s.otherwise, "} else {", indent, inside=True)
        self._close(s, indent)

    # -- bodies ----------------------------------------------------------------------------

    def _block(self, node: Tree, head: Doc, body: tree.Body, indent: int, short: bool = False) -> None:
        """`head { ... }`; on one line where that is allowed and one simple statement fits there."""
        self._hoist(_start(body), len(self.lines), indent)
        if not self.comments.within(body.span):
            if not body.statements:
                self._set(node, cat(head, " {}"), indent)
                return
            only = body.statements[0]
            if short and len(body.statements) == 1 and isinstance(only, _SIMPLE):
                doc = Group(cat(head, " { ", self._simple(only), " }"))
                lines = layout(doc, self.width, indent)
                if len(lines) == 1 and len(lines[0]) <= self.width:
                    self._set(node, doc, indent)
                    return
        self._open(body, cat(head, " {"), indent)
        self._close(node, indent)

    def _braced(self, node: Tree, head: Doc, items: Sequence[_Simple], indent: int) -> None:
        self.lines += layout(head, self.width, indent)
        self.line, self.fresh = node.span.line, True
        for item in items:
            self._lead(item, indent + INDENT)
            self._set(item, self._simple(item), indent + INDENT)
        self._rest(_end(node), indent + INDENT)
        self._close(node, indent)

    def _open(self, body: tree.Body, head: Doc, indent: int, inside: bool = False) -> None:
        """The line that opens a body, and its statements; `inside`: the line also closes the body before."""
        start = len(self.lines)
        self.lines += layout(head, self.width, indent)
        self._hoist(_start(body), start, indent + INDENT if inside else indent)
        self._beside(self.comments.opening(body.span, body.statements[0].span if body.statements else None))
        self.line, self.fresh = body.span.line, True
        for s in body.statements:
            self._statement(s, indent + INDENT)
        self._rest(_end(body), indent + INDENT)

    def _close(self, node: Tree, indent: int) -> None:
        self.lines.append(" " * indent + "}")
        self._ended(node)

    # -- lines and comments ----------------------------------------------------------------

    def _set(self, node: Tree, doc: Doc, indent: int) -> None:
        start = len(self.lines)
        self.lines += layout(doc, self.width, indent)
        self._hoist(_end(node), start, indent)
        self._ended(node)

    def _ended(self, node: Tree) -> None:
        self._beside(self.comments.beside(node.span))
        self.line, self.fresh = node.span.end_line, False

    def _hoist(self, place: Place, start: int, indent: int) -> None:
        """Comments inside what was just printed, where no item of a list could keep them, go before it."""
        self.lines[start:start] = [" " * indent + text for text in self.comments.before(*place)]

    def _lead(self, node: Tree, indent: int) -> None:
        """The comments before a node on lines of their own, and the blank lines between."""
        self._rest(_start(node), indent)
        self._blank(node.span.line)

    def _rest(self, place: Place, indent: int) -> None:
        """The comments up to a place: the end of a body, or of the file."""
        for line, text in self.comments.numbered(*place):
            self._blank(line)
            self.lines.append(" " * indent + text)
            self.line, self.fresh = line, False

    def _blank(self, line: int) -> None:
        if line - self.line > 1 and not self.fresh:
            self.lines.append("")

    def _beside(self, comment: str | None) -> None:
        if comment:
            self.lines[-1] += f"  {comment}"


_NOWHERE: Place = (1 << 60, 0)
_Item: TypeAlias = tree.Expr | tree.TypeRef | tree.Param | tree.Arg
_Simple: TypeAlias = (
    tree.Input
    | tree.Assign
    | tree.Update
    | tree.Share
    | tree.Return
    | tree.Require
    | tree.Let
    | tree.Binding
    | tree.Goal
    | tree.Seed
)
_SIMPLE = (tree.Input, tree.Assign, tree.Update, tree.Share, tree.Return, tree.Require)
