"""Tables that remember a function of small integers, and answer for whole batches at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Codes: TypeAlias = NDArray[np.int32]
V = TypeVar("V")

DENSE = 1 << 22
"""A table of at most this many cells is an array; a larger one looks its keys up."""


class Interned(Generic[V]):
    """Values by number: equal ones (by key) have one number, in order of first appearance."""

    def __init__(self) -> None:
        self.values: list[V] = []
        self._codes: dict[Hashable, int] = {}

    def code(self, key: Hashable, value: V) -> int:
        found = self._codes.get(key)
        if found is None:
            found = self._codes[key] = len(self.values)
            self.values.append(value)
        return found

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, code: int) -> V:
        return self.values[code]


class Table:
    """Rows by key, a key being one code a column; what is not known yet is asked of `fill`, once.

    `sizes` says how many codes each column has by now; columns may grow between calls.
    """

    def __init__(self, sizes: Sequence[Callable[[], int]], fill: Callable[[tuple[int, ...]], int]) -> None:
        self.sizes, self.fill = tuple(sizes), fill
        self._room: list[int] = []
        self._strides: list[int] = []
        self._dense: NDArray[np.int32] | None = None
        self._known: dict[tuple[int, ...], int] = {}
        self._sparse: dict[int, int] = {}
        self.grow()

    def grow(self) -> None:
        """Makes room for the codes there are, and as many again in columns that have grown."""
        now = [size() for size in self.sizes]
        self._room = [n if not self._room else max(room, 2 * n) for n, room in zip(now, self._room or now, strict=True)]
        self._room = [max(1, n) for n in self._room]
        self._strides, cells = [], 1
        for n in self._room:
            self._strides.append(cells)
            cells *= n
        self._dense = np.full(cells, -1, np.int32) if cells <= DENSE else None
        self._sparse = {}
        for key, row in self._known.items():
            self._put(key, row)

    def _cell(self, key: Sequence[int]) -> int:
        return sum(k * s for k, s in zip(key, self._strides, strict=True))

    def _put(self, key: tuple[int, ...], row: int) -> None:
        if any(k >= room for k, room in zip(key, self._room, strict=True)):
            self.grow()
        if self._dense is None:
            self._sparse[self._cell(key)] = row
        else:
            self._dense[self._cell(key)] = row

    def rows(self, columns: Sequence[Codes], count: int) -> Codes:
        """[count]: the row of each key."""
        if any(size() > room for size, room in zip(self.sizes, self._room, strict=True)):
            self.grow()
        if not columns:
            return np.full(count, self.row(()), np.int32)
        wide = self._strides[-1] * self._room[-1] >= 1 << 62
        if self._dense is not None:
            cells = np.zeros(count, np.int64)
            for column, stride in zip(columns, self._strides, strict=True):
                cells += column if stride == 1 else column * np.int64(stride)
            out = self._dense[cells]
            if out.min(initial=0) < 0:
                missing = np.unique(np.flatnonzero(out < 0)[np.unique(cells[out < 0], return_index=True)[1]])
                for i in missing:  # in the order of the batch, so that codes do not depend on the layout
                    self.row(tuple(int(c[i]) for c in columns))
                out = self._dense[cells]
            return out
        packed: NDArray[Any]
        if wide:
            stacked = np.ascontiguousarray(np.stack(columns, 1).astype(np.int32))
            packed = stacked.view(np.dtype((np.void, stacked.shape[1] * 4))).ravel()
        else:
            packed = np.zeros(count, np.int64)
            for column, stride in zip(columns, self._strides, strict=True):
                packed += column * np.int64(stride)
        _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
        found = np.empty(len(first), np.int32)
        for at in np.argsort(first, kind="stable"):
            found[at] = self.row(tuple(int(c[first[at]]) for c in columns))
        return found[inverse.ravel()]

    def row(self, key: tuple[int, ...]) -> int:
        """The row of one key."""
        row = self._known.get(key)
        if row is None:
            row = self._known[key] = self.fill(key)
            self._put(key, row)
        return row

    def known(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Keys and rows, in the order in which they were asked for."""
        return iter(self._known.items())
