"""Turns points of a space into costs, whole batches at once: exact, for less than a microsecond a point.

An arch is cut into pieces (pieces.py), each a function of a few columns of the point and of the types that reach
it. What a piece costs at one such key is found by elaborating it, once; a batch then takes a gather and a sum a
piece. The sums equal those of the whole graph, and so does the hash: two points hash alike when their graphs do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archdsl.cost import Costs, price
from archdsl.diagnostics import ArchError
from archdsl.frontend.calls import tensors
from archdsl.frontend.elaborate import Elaborator
from archdsl.frontend.evaluate import Activation, Fallthrough
from archdsl.frontend.space import Space
from archdsl.frontend.values import Data, Function, Scope, Tensor, key_of
from archdsl.ir.graph import Graph
from archdsl.ir.hash import canonical_hash
from archdsl.search import pieces
from archdsl.search.draws import Column, Draws
from archdsl.search.genome import Points
from archdsl.search.metrics import METRICS, measure
from archdsl.search.pieces import Inseparable, Piece
from archdsl.search.tables import Codes, Interned, Table
from archdsl.syntax import tree

LANES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
"""Odd multipliers of the two 64-bit lanes in which the hashes of pieces are chained."""
BOUNDARY = (0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
"""What the end of a stage adds to each lane: a block before it gives another feature than the same block after it."""
WORD = 1 << 64
FEW = 4
"""Points that are priced one by one."""


@dataclass(frozen=True)
class Priced:
    """What a batch of points costs."""

    sound: NDArray[np.bool_]
    """[points]: whether the point elaborates and meets the requirements on its parameters."""
    metrics: NDArray[np.float64]
    """[points, METRICS and then the pricer's measures]: 0 where unsound."""
    hash: NDArray[np.uint64]
    """[points, 2]: equal for points whose graphs are equal but for names."""


@dataclass(frozen=True)
class _Step:
    """What a piece does to the hash: h -> h * scale + offset a lane."""

    scale: tuple[int, int] = (1, 1)
    offset: tuple[int, int] = (0, 0)

    def then(self, other: _Step) -> _Step:
        scales, offsets = zip(self.scale, other.scale, strict=True), zip(self.offset, other.scale, strict=True)
        first, second = (a * b % WORD for a, b in scales)
        moved = ((a * b + c) % WORD for (a, b), c in zip(offsets, other.offset, strict=True))
        return _Step((first, second), (next(moved), next(moved)))


class _Identity:
    """A step that is found when it is first asked for: a graph's, or that of one after another.

    A proof about costs asks for none, and hashes are a fifth of what a piece takes.
    """

    def __init__(self, known: _Step | None = None, of: Graph | tuple[_Identity, _Identity] | None = None) -> None:
        self._known, self._of = known, of

    @property
    def step(self) -> _Step:
        waiting: list[_Identity] = []  # a loop's turns, last one first: as many as it has, so not by recursion
        at = self
        while isinstance(at._of, tuple):
            waiting.append(at)
            at = at._of[0]
        if isinstance(at._of, Graph):
            digest = canonical_hash(at._of)
            at._known, at._of = _Step(LANES, (int(digest[:16], 16), int(digest[16:32], 16))), None
        assert at._known is not None
        step = at._known
        for chain in reversed(waiting):
            assert isinstance(chain._of, tuple)
            step = chain._known = step.then(chain._of[1].step)
            chain._of = None
        return step


NOTHING = _Identity(_Step())
BOUNDARY_STEP = _Identity(_Step(LANES, BOUNDARY))


@dataclass(frozen=True)
class _Row:
    """One piece at one key: its costs, what it does to the hash, what it assigns."""

    metrics: tuple[float, ...]
    identity: _Identity
    gives: tuple[Data, ...]
    error: ArchError | None = None


class _Absent:
    """The value of a variable that no statement assigned."""


ABSENT: Data = _Absent()  # type: ignore[assignment]


@dataclass(frozen=True)
class _Missing:
    """What a column has in place of a value where a default, or an item of the space, is a mistake."""

    reason: ArchError


class Pricer:
    """The costs of a space's points, by METRICS and then by `measures`, which are sums over ops as well.

    Raises what opening the space raises, and E-CHOICE.
    """

    def __init__(
        self,
        space: Space,
        measures: Sequence[Callable[[Graph, Costs], float]] = (),
        mode: str = "eval",
        input: tuple[int, int, int] | None = None,
    ) -> None:
        self.space, self.measures, self.mode, self.input = space, tuple(measures), mode, input
        self.zero = _Row((0.0,) * (len(METRICS) + len(self.measures)), NOTHING, ())
        self.draws = Draws.of(space)
        self.genome = self.draws.genome
        self.reference = self.draws.parameters(self.draws.reference[0])
        self.undivided = ""
        """Why every point is priced as a whole, four orders of magnitude slower; empty where it is priced in pieces."""
        try:
            self._begin(pieces.cut(space.base, self.draws.columns, self.reference, self.evaluator()))
        except Inseparable as e:
            self._undivided(e)
        self.price(self.draws.reference)

    def _begin(self, parts: Sequence[Piece]) -> None:
        """The pieces with nothing known of them yet."""
        self.columns: dict[Column, _Values] = {}
        self.locals: dict[str, Interned[Data]] = {}
        self.rules = tuple(_Rule(self, r.condition) for r in self.space.before)
        self.pieces = tuple(PricedPiece(self, part) for part in parts)
        read = {c for rule in self.rules for c in rule.columns} | {c for p in self.pieces for c in p.part.columns}
        drawn = dict.fromkeys([*(c for of in self.draws.columns.values() for c in of), *self.draws.lets.values()])
        self.unread = tuple(c for c in drawn if c.genes and c not in read)
        """Columns that matter only in that a point is unsound where they have no value."""

    def _undivided(self, reason: Inseparable) -> None:
        self.undivided = str(reason)
        self._begin(pieces.whole(self.space.base, self.draws.columns))

    def evaluator(self) -> Elaborator:
        return Elaborator(self.space.program.loader.vocabulary, self.space.program.loader.names.of, self.mode)

    def values(self, column: Column) -> _Values:
        if column not in self.columns:
            self.columns[column] = _Values(self, column)
        return self.columns[column]

    def variable(self, name: str) -> Interned[Data]:
        return self.locals.setdefault(name, Interned())

    def whole(self, graph: Graph) -> tuple[float, ...]:
        """METRICS and measures of a graph."""
        costs = price(graph)
        return (*measure(graph, costs), *(m(graph, costs) for m in self.measures))

    @property
    def evaluations(self) -> int:
        """How many pieces have been elaborated so far."""
        return sum(len(p.rows) for p in self.pieces)

    def price(self, points: Points) -> Priced:
        """The costs of points [N, genes], which are canonical."""
        price = self._few if len(points) <= FEW else self._many
        try:
            return price(points)
        except Inseparable as e:
            self._undivided(e)
            return price(points)

    def _many(self, points: Points) -> Priced:
        n = len(points)
        total = np.zeros((n, len(self.zero.metrics)))
        lanes = np.zeros((n, 2), np.uint64)
        sound = np.ones(n, bool)
        columns: dict[Column, Codes] = {}
        for rule in self.rules:
            sound &= rule.met(points, columns)
        for column in self.unread:
            values = self.values(column)
            sound &= values.sound(values.codes(points))
        alive = np.flatnonzero(sound)
        genes = points[alive]
        columns = {c: codes[alive] for c, codes in columns.items()}
        costs, hashes = total[alive], lanes[alive]
        state: dict[str, Codes] = {}
        for piece in self.pieces:
            for column in piece.part.columns:
                if column not in columns:
                    columns[column] = self.values(column).codes(genes)
            rows = piece.table.rows(
                [*(columns[c] for c in piece.part.columns), *(state[v] for v in piece.part.takes)], len(genes)
            )
            store = piece.settled()
            if store.broken.any():
                bad = store.broken[rows]
                if bad.any():
                    keep = np.flatnonzero(~bad)
                    sound[alive[bad]] = False
                    alive, rows, genes = alive[keep], rows[keep], genes[keep]
                    costs, hashes = costs[keep], hashes[keep]
                    columns = {c: v[keep] for c, v in columns.items()}
                    state = {v: codes[keep] for v, codes in state.items()}
            costs += store.metrics[rows]
            hashes *= store.scale[rows]
            hashes += store.offset[rows]
            for k, name in enumerate(piece.part.gives):
                state[name] = store.gives[rows, k]
        total[alive], lanes[alive] = costs, hashes
        return Priced(sound, total, lanes)

    def _few(self, points: Points) -> Priced:
        """`price` without arrays, which are slower where there is little to put into them."""
        rows = [self._one(tuple(row)) for row in points.tolist()]
        metrics = np.array([r.metrics for r in rows]).reshape(len(rows), len(self.zero.metrics))
        lanes = np.array([r.identity.step.offset for r in rows], np.uint64).reshape(len(rows), 2)
        return Priced(np.array([r.error is None for r in rows], bool), metrics, lanes)

    def _one(self, row: tuple[int, ...]) -> _Row:
        for rule in self.rules:
            if not rule.table.row(tuple([self.values(c).code(row) for c in rule.columns])):
                return replace(self.zero, error=ArchError())
        for column in self.unread:
            missing = _missing([self.values(column).values[self.values(column).code(row)]])
            if missing is not None:
                return replace(self.zero, error=missing.reason)
        total = self.zero.metrics
        first = second = 0  # of the two lanes, which start at 0
        codes: dict[Column, int] = {}
        state: dict[str, int] = {}
        for piece in self.pieces:
            key = []
            for column, values in piece.columns:
                code = codes.get(column)
                if code is None:
                    code = codes[column] = values.code(row)
                key.append(code)
            for name in piece.part.takes:
                key.append(state[name])
            at = piece.table.row(tuple(key))
            found = piece.rows[at]
            if found.error is not None:
                return replace(self.zero, error=found.error)
            total = tuple([a + b for a, b in zip(total, found.metrics, strict=True)])
            step = found.identity.step
            first = (first * step.scale[0] + step.offset[0]) % WORD
            second = (second * step.scale[1] + step.offset[1]) % WORD
            state.update(zip(piece.part.gives, piece.codes[at], strict=True))
        return _Row(total, _Identity(_Step(offset=(first, second))), ())


class _Rule:
    """A requirement of the space on parameters alone."""

    def __init__(self, pricer: Pricer, condition: tree.Expr) -> None:
        self.pricer, self.condition = pricer, condition
        draws, ev = pricer.draws, pricer.evaluator()
        known = {**draws.columns, **{name: (column,) for name, column in draws.lets.items()}}
        self.columns = pieces.reads(condition, pricer.space.base, known, pricer.reference, ev)
        self.inputs = [pricer.values(c).values for c in self.columns]
        self.table = Table([values.__len__ for values in self.inputs], self.fill)

    def fill(self, key: tuple[int, ...]) -> int:
        values = {c: v[code] for c, v, code in zip(self.columns, self.inputs, key, strict=True)}
        if _missing(values.values()) is not None:
            return 0
        lets = self.pricer.draws.point(self.pricer.draws.reference[0]).lets
        scope = Scope(self.pricer.space.program.scope, _filled({**self.pricer.reference, **lets}, values))
        return int(self.pricer.evaluator().truth(self.condition, scope, None))

    def met(self, points: Points, columns: dict[Column, Codes]) -> NDArray[np.bool_]:
        """[points]: whether each meets it. Notes the codes of the columns that it reads."""
        for column in self.columns:
            if column not in columns:
                columns[column] = self.pricer.values(column).codes(points)
        return np.asarray(self.table.rows([columns[c] for c in self.columns], len(points)) == 1)


class _Values:
    """The values of one column, by the genes behind it."""

    def __init__(self, pricer: Pricer, column: Column) -> None:
        self.pricer, self.column = pricer, column
        self.values: Interned[Data] = Interned()
        options = pricer.genome.options
        self.table = Table([lambda n=int(options[g]): n for g in column.genes], self.fill)  # type: ignore[misc]
        others = (c for c in pricer.draws.columns.get(column.param, ()) if c.element != column.element)
        self.mixed = any(set(c.genes) & set(column.genes) for c in others)
        """Whether other elements of the list depend on the same genes: a mistake may then be theirs."""

    def fill(self, key: tuple[int, ...]) -> int:
        row = self.pricer.draws.reference[0].copy()
        row[list(self.column.genes)] = key
        try:
            value = self.pricer.draws.value(self.column, self.pricer.genome.canonical(row[None])[0])
        except ArchError as e:
            if self.mixed:
                raise
            return self.values.code(_Missing, _Missing(e))  # type: ignore[arg-type]
        return self.values.code(key_of(value), value)

    def genes(self, code: int) -> tuple[int, ...]:
        """Alternatives of the column's genes that lead to a value, the first ones met."""
        return next(key for key, row in self.table.known() if row == code)

    def code(self, row: tuple[int, ...]) -> int:
        """The code of one point's value."""
        return self.table.row(tuple([row[g] for g in self.column.genes]))

    def sound(self, codes: Codes) -> NDArray[np.bool_]:
        """[points]: whether the code of each is that of a value."""
        missing = [code for code, value in enumerate(self.values.values) if _missing([value]) is not None]
        return ~np.isin(codes, missing)

    def codes(self, points: Points) -> Codes:
        return self.table.rows([points[:, g].astype(np.int32) for g in self.column.genes], len(points))


class _Store:
    """The rows of one piece as arrays, which grow."""

    def __init__(self, variables: int, metrics: int) -> None:
        self.metrics = np.zeros((0, metrics))
        self.scale = np.zeros((0, 2), np.uint64)
        self.offset = np.zeros((0, 2), np.uint64)
        self.gives = np.zeros((0, variables), np.int32)
        self.broken = np.zeros(0, bool)

    def add(self, at: int, row: _Row, codes: Sequence[int]) -> None:
        """All of a row but its hash."""
        if at == len(self.broken):
            room = max(64, at)
            for name, array in list(vars(self).items()):
                setattr(self, name, np.concatenate([array, np.zeros((room, *array.shape[1:]), array.dtype)]))
        self.metrics[at], self.gives[at], self.broken[at] = row.metrics, codes, row.error is not None


class PricedPiece:
    """A piece with what is known of its costs."""

    def __init__(self, pricer: Pricer, part: Piece) -> None:
        self.pricer, self.part = pricer, part
        self.inputs = [pricer.values(c).values for c in part.columns] + [pricer.variable(v) for v in part.takes]
        self.table = Table([values.__len__ for values in self.inputs], self.fill)
        self.columns = [(c, pricer.values(c)) for c in part.columns]
        self.rows: list[_Row] = []
        self.codes: list[tuple[int, ...]] = []
        """Of the variables that each row gives."""
        self.store = _Store(len(part.gives), len(METRICS) + len(pricer.measures))
        self._hashed = 0
        self._loops: dict[tuple[int, ...], list[_Row]] = {}
        self._steps: dict[tuple[object, ...], _Row] = {}

    def fill(self, key: tuple[int, ...]) -> int:
        given = [values[code] for values, code in zip(self.inputs, key, strict=True)]
        missing = _missing(given)
        n = len(self.part.columns)
        columns = dict(zip(self.part.columns, given[:n], strict=True))
        state = dict(zip(self.part.takes, given[n:], strict=True))
        try:
            if missing is not None:
                raise missing.reason
            row = self.looped(key, columns, state) if self.part.loop is not None else None
            row = row or self.run(self.part.statements, columns, state, self.part.gives)
            for _ in range(self.part.ends):
                row = _chained(replace(self.pricer.zero, identity=BOUNDARY_STEP), row)
        except ArchError as e:
            row = replace(self.pricer.zero, error=e)
        gives = zip(self.part.gives, row.gives, strict=True) if row.error is None else ()
        codes = [self.pricer.variable(v).code(_key(value), value) for v, value in gives]
        self.codes.append(tuple(codes or [0] * len(self.part.gives)))
        self.store.add(len(self.rows), row, self.codes[-1])
        self.rows.append(row)
        return len(self.rows) - 1

    def settled(self) -> _Store:
        """The store with the hashes of all rows."""
        for at, row in enumerate(self.rows[self._hashed :], self._hashed):
            self.store.scale[at], self.store.offset[at] = row.identity.step.scale, row.identity.step.offset
        self._hashed = len(self.rows)
        return self.store

    def row(self, key: tuple[int, ...]) -> int:
        """The row of the piece at a key."""
        return self.table.row(key)

    def turns(self, key: tuple[int, ...]) -> float:
        """How often the piece's loop turns at a key; infinite where that is no number or a mistake."""
        assert self.part.loop is not None
        given = [values[code] for values, code in zip(self.inputs, key, strict=True)]
        if _missing(given) is not None:
            return float("inf")
        scope = self.scope(dict(zip(self.part.columns, given, strict=False)))
        scope.names.update(zip(self.part.takes, given[len(self.part.columns) :], strict=True))
        try:
            count = self.pricer.evaluator().evaluate(self.part.loop.blocks.count, scope)
        except ArchError:
            return float("inf")
        return count if isinstance(count, int) else float("inf")

    def steady(self, key: tuple[int, ...], fewest: float, most: float) -> bool:
        """Whether the piece's loop, at a key where it turns `most` often, gives the same from `fewest` turns on."""
        self.row(key)
        sums = self._loops.get(self.fixed(key), [])
        gives = {tuple(map(_key, row.gives)) for row in sums[int(fewest) :]} if most < len(sums) else ()
        return len(gives) == 1

    def fixed(self, key: tuple[int, ...]) -> tuple[int, ...]:
        """What all turns of the piece's loop share of a key."""
        assert self.part.loop is not None
        own, takes = self.part.loop.columns, len(self.part.takes)
        return (*(code for code, c in zip(key, self.part.columns, strict=False) if c in own), *key[len(key) - takes :])

    # -- running statements --------------------------------------------------------------------------

    def scope(self, columns: Mapping[Column, Data]) -> Scope:
        given = self.pricer.draws.lets.keys() - self.pricer.draws.columns.keys()
        names = {n: v for n, v in _filled(self.pricer.reference, columns).items() if n not in given}
        return Scope(self.pricer.space.base.scope, {**names, **self.part.fixed})

    def run(
        self,
        statements: Sequence[tree.Tree],
        columns: Mapping[Column, Data],
        state: Mapping[str, Data],
        gives: Sequence[str],
        index: int | None = None,
    ) -> _Row:
        """Elaborates statements, or iteration `index` of the piece's loop, in a graph of their own."""
        ev, arch = self.pricer.evaluator(), self.pricer.space.base
        graph = ev.graph = Graph(arch.name, ev.mode)
        ev.input_size = self.pricer.input
        ev.region = ev.open_region("arch", arch.name, "", arch.tree.span)
        scope = self.scope(columns)
        for name, value in state.items():
            if value is not ABSENT:
                scope.names[name] = _placed(value, name, graph, ev)
        given, before = len(graph), scope.names.copy()
        inside = isinstance(self.part.home, (tree.Stage, tree.RegionBlock))
        body = self.part.home.body.statements if inside else arch.tree.body.statements  # type: ignore[attr-defined]
        act = Activation(ev.sites_of(self.part.home, body, inside))
        if index is None:
            outcome = ev.execute(statements, scope, act)
        else:
            assert self.part.loop is not None
            outcome = ev.one_block(self.part.loop.blocks, index, scope, act)
        ev.report()
        kept = [scope.names.get(name, ABSENT) for name in gives]
        results = [] if isinstance(outcome, Fallthrough) else tensors(outcome)
        graph.outputs = tuple(t.value for t in (*(t for v in kept for t in _tensors(v)), *results))
        mistakes = self.pricer.space.program.requirements(ev, graph)
        if mistakes:
            raise ArchError(*mistakes)
        gone = tuple(_lifted(v) for v in kept)
        moved = any(_tensors(v) and v is not before.get(name) for name, v in zip(gives, kept, strict=True))
        if len(graph) == given and not moved:
            return replace(self.pricer.zero, gives=gone)
        ev.number_drop_paths()
        return _Row(self.pricer.whole(graph), _Identity(of=graph), gone)

    def looped(self, key: tuple[int, ...], columns: Mapping[Column, Data], state: Mapping[str, Data]) -> _Row | None:
        """The row of a `blocks` loop, from those of its iterations; None where it does not count from 0."""
        loop = self.part.loop
        assert loop is not None
        ev = self.pricer.evaluator()
        scope = self.scope(columns)
        scope.names.update(state)
        count = ev.evaluate(loop.blocks.count, scope)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            return None
        own = {c: columns[c] for c in loop.columns}
        sums = self._loops.setdefault(self.fixed(key), [])
        carried = tuple(dict.fromkeys((*self.part.takes, *self.part.gives)))
        if not sums:
            sums.append(replace(self.pricer.zero, gives=tuple(state.get(n, ABSENT) for n in carried)))
        depends = self.dependence(key, scope, ev) if len(sums) <= count else None
        while depends is not None and len(sums) <= count:
            j, last = len(sums) - 1, sums[-1]
            before = dict(zip(carried, last.gives, strict=True))
            step = depends(j, before)
            if step not in self._steps:
                self._steps[step] = self.run((), own, before, carried, j)
            sums.append(_chained(last, self._steps[step]))
        row = sums[count]
        after = dict(zip(carried, row.gives, strict=True))
        return _Row(row.metrics, row.identity, tuple(after[n] for n in self.part.gives))

    def dependence(
        self, key: tuple[int, ...], scope: Scope, ev: Elaborator
    ) -> Callable[[int, Mapping[str, Data]], tuple[object, ...]]:
        """What an iteration depends on, as a function of its index and of the variables before it."""
        loop = self.part.loop
        assert loop is not None
        values, single = dict(zip(self.part.columns, self.inputs, strict=False)), {c for c, _ in loop.indexed}
        codes = dict(zip(self.part.columns, key, strict=False))
        whole = tuple([code for c, code in codes.items() if c in loop.columns and c not in single])
        given = [(values[column][codes[column]], at) for column, at in loop.indexed]
        lists = [(tuple(map(key_of, items)), at) if isinstance(items, tuple) else ((), at) for items, at in given]
        periods = [ev.evaluate(expr, scope) for expr in loop.periods or ()]

        def of(j: int, before: Mapping[str, Data]) -> tuple[object, ...]:
            inner = Scope(scope, {loop.blocks.name.id: j}) if loop.blocks.name is not None else scope
            parts: list[object] = [*map(_key, before.values()), *whole]
            for items, at in lists:
                i = ev.evaluate(at, inner)
                if not isinstance(i, int) or not -len(items) <= i < len(items):
                    return (j, *key)
                parts.append(items[i])
            if loop.periods is None:
                parts.append(j)
            parts += [j % n if isinstance(n, int) and n > 0 else j for n in periods]
            return tuple(parts)

        return of


def _missing(values: Iterable[object]) -> _Missing | None:
    """The first that is no value."""
    return next((v for v in values if isinstance(v, _Missing)), None)


def _filled(reference: Mapping[str, Data], columns: Mapping[Column, Data]) -> dict[str, Data]:
    """The parameters of the reference with the values of columns in their places."""
    names = dict(reference)
    for column, value in columns.items():
        if column.element is None:
            names[column.param] = value
        else:
            whole = names[column.param]
            assert isinstance(whole, tuple)
            names[column.param] = (*whole[: column.element], value, *whole[column.element + 1 :])
    return names


def _chained(first: _Row, second: _Row) -> _Row:
    """One row for two in a row."""
    total = tuple([a + b for a, b in zip(first.metrics, second.metrics, strict=True)])
    return _Row(total, _Identity(of=(first.identity, second.identity)), second.gives)


@dataclass(frozen=True)
class _Type:
    """A tensor that another piece computes: its type is all that matters."""

    type: object


def _lifted(value: object) -> Data:
    """A variable's value free of the graph it stands in. Raises Inseparable."""
    if isinstance(value, Tensor):
        if value.frames or value.type.frames:
            raise Inseparable("a statement leaves open what a later one has to put back: windows, sequences")
        return _Type(value.type.plain())  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(_lifted(v) for v in value)
    if isinstance(value, Function) and value.instance is not None:
        raise Inseparable("statements share weights")
    if isinstance(value, Function) and isinstance(value.declaration, tree.Lambda):
        raise Inseparable("a later statement calls a `fn` of an earlier one")
    return value  # type: ignore[return-value]


def _placed(value: object, name: str, graph: Graph, ev: Elaborator) -> Data:
    """The value in a new graph, tensors as its inputs."""
    if isinstance(value, _Type):
        kind = value.type
        node = graph.add(ev.vocabulary["input"](), [], (kind,), path=ev.unique(f"given.{name}"), region=ev.region)  # type: ignore[arg-type]
        graph.inputs.append(node.value())
        return Tensor(node.value())
    if isinstance(value, tuple):
        return tuple(_placed(v, name, graph, ev) for v in value)
    return value  # type: ignore[return-value]


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, tuple):
        return [t for v in value for t in _tensors(v)]
    return [value] if isinstance(value, Tensor) else []


def _key(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(map(_key, value))
    return value if isinstance(value, (_Type, _Absent)) else key_of(value)  # type: ignore[arg-type]
