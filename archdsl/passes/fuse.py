"""fuse: ops that a fusion rule matches become one op that a generated kernel computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from archdsl.device.model import device
from archdsl.diagnostics import did_you_mean, error
from archdsl.ir.graph import Graph
from archdsl.passes.base import Draft, Pass
from archdsl.passes.fusions import RULES
from archdsl.passes.fusions.base import Rule
from archdsl.passes.planner import plan

PLANNED, ALL = "planned", "all"


@dataclass(frozen=True)
class Fuse(Pass):
    """Applies the rules that have a kernel: where a plan chooses it, everywhere, or those named (`mlp+pool_mixer`).

    A plan is for a device, a batch and a type of numbers. It compares kernels with what PyTorch and Inductor would run.
    """

    name: ClassVar[str] = "fuse"

    rules: str = PLANNED
    device: str = "h200"
    batch: int = 64
    dtype: str = "bf16"

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        taken: set[str] = set()
        for rule, paths in self.matches(graph):
            if not taken & set(paths):
                rule.rewrite(graph, paths, draft)
                taken |= set(paths)
        return draft.done()

    def matches(self, graph: Graph) -> Iterator[tuple[Rule, tuple[str, ...]]]:
        """What becomes a kernel, in the graph's order."""
        if self.rules == PLANNED:
            found = plan(graph, device(self.device), self.batch, self.dtype, _named(ALL), written=True)
            yield from ((m.rule, m.paths) for m in found.chosen)
            return
        named = _named(self.rules)
        for node in graph.nodes():
            for rule in named:
                paths = rule.pattern(graph, node)
                if paths is not None and not rule.check(graph, paths) and not rule.beyond(graph, paths):
                    yield rule, paths


def _named(rules: str) -> tuple[Rule, ...]:
    """The rules of `all`, or of names that a plus stands between. Raises E-PASS."""
    known = {rule.name: rule for rule in RULES if rule.generated}
    if rules == ALL:
        return tuple(known.values())
    names = [name.strip() for name in rules.split("+")]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
            raise error("E-PASS", f"`fuse` has no rule `{name}` with a kernel", help=hint)
    return tuple(known[name] for name in names)
