"""Turns a running search into a progress bar: candidates a second, feasible share, front, hypervolume, time left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from archdsl.cost import human
from archdsl.search.study import Progress as Generation


@contextlib.contextmanager
def watched(trials: int, quiet: bool = False) -> Iterator[Callable[[Generation], None]]:
    """A function to call after every generation; the bar goes to stderr, and only to a terminal."""
    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal or quiet) as bar:
        task = bar.add_task("preparing", total=trials)

        def show(g: Generation) -> None:
            rate = g.priced / g.seconds if g.seconds > 0 else 0
            share = g.feasible / max(1, g.distinct)
            text = f"{human(g.distinct)} candidates, {human(round(rate))}/s, {share:.1%} feasible, front {g.front}"
            text += f", hypervolume {g.hypervolume:.3f}"
            bar.update(task, completed=g.distinct, description=text)

        yield show
