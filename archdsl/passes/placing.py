"""Turns ops that come in order, and late ones for where a region starts or ends, into one order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from archdsl.ir.graph import Node, Value

Item: TypeAlias = tuple[Node, tuple[Value | None, ...]]
"""An op and what it reads."""


class Placing:
    """Ops in the order of a graph to be; `chains` lists each region's ancestors, outermost first, and itself.

    Places are found without a search, so that late ops of n cost n.
    """

    def __init__(self, chains: Sequence[Sequence[int]]) -> None:
        self.chains = chains
        self._items: list[Item] = []
        self._ahead: dict[str, list[Item]] = {}
        self._behind: dict[str, list[Item]] = {}
        self._first: dict[int, str] = {}
        self._last: dict[int, str] = {}

    def append(self, node: Node, operands: Sequence[Value | None]) -> None:
        """The next op."""
        self._items.append((node, tuple(operands)))
        for region in self.chains[node.region]:
            self._first.setdefault(region, node.path)
            self._last[region] = node.path

    def ahead(self, region: int, node: Node, operands: Sequence[Value | None]) -> None:
        """An op ahead of all that stands in a region so far, or the next one."""
        if region not in self._first:
            self.append(node, operands)
            return
        late = self._ahead.setdefault(self._first[region], [])
        inside = (i for i, (other, _) in enumerate(late) if region in self.chains[other.region])
        late.insert(next(inside, len(late)), (node, tuple(operands)))

    def behind(self, region: int, node: Node, operands: Sequence[Value | None]) -> None:
        """An op behind all that stands in a region."""
        late = self._behind.setdefault(self._last[region], [])
        outside = (i for i, (other, _) in enumerate(late) if region not in self.chains[other.region])
        late.insert(next(outside, len(late)), (node, tuple(operands)))

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            yield from self._ahead.get(item[0].path, ())
            yield item
            yield from self._behind.get(item[0].path, ())
