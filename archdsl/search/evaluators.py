"""Turns a graph into one number by running its module: zero-cost proxies, its time here, a short training."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from archdsl.backends.load import passing_module
from archdsl.backends.running import one_thread
from archdsl.backends.write import write_file
from archdsl.diagnostics import did_you_mean, error
from archdsl.ir.graph import Graph
from archdsl.ir.hash import canonical_hash
from archdsl.search.proxies import PROXIES, Inapplicable, Subject
from archdsl.training.recipe import Recipe
from archdsl.training.trainer import CHECKPOINT, Diverged, train

if TYPE_CHECKING:
    from rich.table import Table

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Evaluation:
    """A number, or not a number and the reason."""

    value: float
    reason: str = ""


class Evaluator(Protocol):
    """What gives a graph a number."""

    @property
    def name(self) -> str: ...

    @property
    def direction(self) -> Direction:
        """Which way is better."""

    @property
    def reproducible(self) -> bool:
        """Whether the same graph and seed give the same number on this machine."""

    def evaluate(self, graph: Graph, seed: int) -> Evaluation: ...


@dataclass(frozen=True)
class ProxyEvaluator:
    """A proxy of archdsl.search.proxies, on one thread."""

    proxy: str
    direction: Direction = "maximize"
    reproducible: bool = True

    @property
    def name(self) -> str:
        return f"proxy:{self.proxy}"

    def evaluate(self, graph: Graph, seed: int) -> Evaluation:
        return _measured(graph, seed, PROXIES[self.proxy])


@dataclass(frozen=True)
class LatencyEvaluator:
    """Seconds of processor time that one image takes on this machine: the median of repeated runs on one thread."""

    repeats: int = 10
    warmup: int = 3
    name: str = "latency:local"
    direction: Direction = "minimize"
    reproducible: bool = False

    def evaluate(self, graph: Graph, seed: int) -> Evaluation:
        return _measured(graph, seed, self._median)

    def _median(self, subject: Subject) -> float:
        import torch

        module, image = subject.module.eval(), subject.images(1)
        taken = []
        with torch.inference_mode():
            for _ in range(self.warmup + self.repeats):
                start = time.process_time()
                module(image)
                taken.append(time.process_time() - start)
        return statistics.median(taken[self.warmup :])


TRAIN = "train:"
RESULT = "result.json"
"""What a finished training leaves of its directory: what came of it, the checkpoint being gone."""


@dataclass(frozen=True)
class TrainEvaluator:
    """Top-1, 0 to 1, after a short training on one thread or on a GPU; `home` keeps what a killed one goes on from."""

    name: str
    recipe: Recipe
    home: Path | None = None
    direction: Direction = "maximize"

    @property
    def reproducible(self) -> bool:
        """A processor computes the same twice."""
        import torch

        return not torch.cuda.is_available()

    def evaluate(self, graph: Graph, seed: int) -> Evaluation:
        place = None if self.home is None else self.home / canonical_hash(graph)[:16]
        if place is not None and (place / RESULT).exists():
            return Evaluation(**json.loads((place / RESULT).read_text(encoding="utf-8")))

        def trained(subject: Subject) -> float:
            from archdsl.training.data import data

            channels, height, width = subject.shape
            found = data(self.recipe.data, (channels, height, width))
            classes = graph.outputs[0].type.elements
            if found.classes > classes:
                raise Inapplicable(f"it has {classes} classes, and `{self.recipe.data}` {found.classes}")
            return train(subject.module, self.recipe, found, seed, place).accuracy

        found = _measured(graph, seed, trained)
        if place is not None and not found.reason:
            write_file(place / RESULT, json.dumps({"value": found.value}) + "\n")
            (place / CHECKPOINT).unlink(missing_ok=True)
        return found


LATENCY = LatencyEvaluator()


def evaluators() -> tuple[Evaluator, ...]:
    """All that need no recipe."""
    return (*(ProxyEvaluator(name) for name in PROXIES), LATENCY)


def evaluator(text: str, recipe: Recipe | None = None, home: Path | None = None) -> Evaluator:
    """The evaluator that `proxy:NAME`, `latency:local` or `train:RECIPE.toml` names. Raises E-EVALUATOR, E-RECIPE.

    `recipe` is the recipe of a training that was read before, `home` the directory of what it goes on from.
    """
    if text.startswith(TRAIN):
        path = Path(text.removeprefix(TRAIN))
        return TrainEvaluator(f"{TRAIN}{path.name}", Recipe.read(path) if recipe is None else recipe, home)
    known = {e.name: e for e in evaluators()}
    if text not in known:
        help = did_you_mean(text, known) or f"one of {', '.join(known)}, {TRAIN}RECIPE.toml"
        raise error("E-EVALUATOR", f"there is no evaluator `{text}`", help=help)
    return known[text]


def _measured(graph: Graph, seed: int, take: Callable[[Subject], float]) -> Evaluation:
    """What `take` finds of a graph's new module on one thread. What goes wrong is told and fails nobody else.

    Raises E-DEPENDENCY where torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as e:
        reason = "a module can be run only with torch, which is not installed"
        raise error("E-DEPENDENCY", reason, help="pip install archdsl[torch]") from e

    from archdsl.backends.torch import Unsupported, emit
    from archdsl.backends.torch.reserved import check_names

    try:
        check_names(graph)
        files = emit(graph)
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with passing_module(graph.name, files) as module:
                value = take(Subject(graph, module, seed))
    except Unsupported as e:
        return Evaluation(math.nan, f"cannot be written in PyTorch: {e}")
    except (Inapplicable, Diverged) as e:
        return Evaluation(math.nan, str(e))
    except MemoryError:
        return Evaluation(math.nan, "out of memory")
    except RuntimeError as e:  # torch's own, which says `allocate` where memory ran out
        said = str(e).strip().partition("\n")[0]
        return Evaluation(math.nan, "out of memory" if "allocate" in said else f"{type(e).__name__}: {said}")
    if not math.isfinite(value):
        return Evaluation(math.nan, f"the result is {value}")
    return Evaluation(value)


@dataclass(frozen=True)
class Evaluations:
    """Graphs and what evaluators found of them."""

    evaluators: tuple[Evaluator, ...]
    rows: tuple[tuple[str, tuple[Evaluation, ...]], ...]
    """Name of a graph, and a result an evaluator."""

    def text(self) -> str:
        failed = [
            f"{name}, {e.name}: {found.reason}"
            for name, row in self.rows
            for e, found in zip(self.evaluators, row, strict=True)
            if found.reason
        ]
        return "\n".join(("numbers of an untrained module, comparable inside a family of one size", *failed))

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            name: {
                e.name: {"failed": found.reason} if found.reason else found.value
                for e, found in zip(self.evaluators, row, strict=True)
            }
            for name, row in self.rows
        }

    def table(self) -> Table:
        """A row a graph, as a rich table."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("arch")
        for e in self.evaluators:
            table.add_column(e.name, justify="right")
        for name, row in self.rows:
            table.add_row(name, *("-" if found.reason else f"{found.value:.5g}" for found in row))
        return table


def evaluate(graphs: Sequence[Graph], names: Sequence[str], seed: int = 0) -> Evaluations:
    """What the evaluators of these names find of graphs. Raises E-EVALUATOR."""
    chosen = tuple(map(evaluator, names))
    return Evaluations(chosen, tuple((g.name, tuple(e.evaluate(g, seed) for e in chosen)) for g in graphs))
