"""What a search found, as values: the settings, the members of the front, how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from archdsl.search.budget import Budget, Measure, Objective


@dataclass(frozen=True)
class Member:
    """One architecture of the front."""

    id: str
    """`cand_` and hexadecimal digits of its hash: the name of its arch and of its file."""
    text: str
    """The architecture as a variant: `arch cand_3f2a = seed[...]`."""
    genes: tuple[int, ...]
    hash: str
    """The canonical hash of its graph."""
    score: float
    """Predicted rank among published models, 0 to 100."""
    spread: float
    measures: Mapping[Measure, float]
    """Params, MACs, activations, bytes, and seconds of predicted latency, by measure."""
    nearest: str
    """The published model whose sizes are nearest."""
    stages: str
    """A picture of its stages: resolution, width, depth."""
    parents: tuple[str, ...] = ()
    """Ids of the candidates it was bred from: one where it was mutated, two where it was crossed, none where drawn."""


@dataclass(frozen=True)
class Progress:
    """Where a search stood after a generation."""

    generation: int
    priced: int
    distinct: int
    feasible: int
    front: int
    hypervolume: float
    """Of the front, relative to the box that the first front spans."""
    seconds: float
    """Wall time so far, over all the runs that were needed. The only number here that differs between equal runs."""
    box: tuple[tuple[float, ...], ...] = ()
    """What the hypervolume is measured in: a point that the front dominates, and the extent of the first front."""
    undivided: str = ""
    """Why candidates are priced as a whole, where they are."""


@dataclass(frozen=True)
class Study:
    """A finished search."""

    name: str
    space: str
    """FILE:NAME of the space, and the number of its points."""
    size: int
    budgets: tuple[Budget, ...]
    objectives: tuple[Objective, ...]
    settings: Mapping[str, object]
    """The resolved configuration, for run.toml: seed, trials, utilization, versions, hashes."""
    members: tuple[Member, ...]
    """The front, best score first."""
    history: tuple[Progress, ...]
    digest: str
    """SHA-256 of the front: equal for equal results."""
    sentence: str
    """What the score means and how well it ranks."""
    notes: tuple[str, ...] = field(default=())
    """What a reader should know: a time limit that cut it short, a budget that cannot be used up."""

    @property
    def best(self) -> Member:
        return self.members[0]
