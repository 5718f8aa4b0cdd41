"""Turns evaluated candidates into trials of an Optuna study, for its dashboard and for whoever reads such studies.

The search's own directory stays the truth: a trial is added when its evaluation is on disk already, and a search that
goes on adds those that are missing. Nothing is ever read back from a study but which candidates it holds.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from archdsl.backends.write import write_file
from archdsl.diagnostics import ArchError, error
from archdsl.ir.hash import canonical_hash
from archdsl.search.budget import Measure
from archdsl.search.funnel import Found, Row
from archdsl.search.problem import Problem
from archdsl.search.store import STATE
from archdsl.search.subspace import value_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import CategoricalDistribution
    from optuna.storages import BaseStorage

OWNER = "study"
"""The file below STATE that tells a study of this search from another one's of the same name."""
PASSWORD = r"(://[^:/@]*:)(.*)@"
"""In a URL; one that is not encoded may hold an @."""
SHOWN = tuple(Measure(metric) for metric in ("score", "params", "macs", "activations", "bytes"))
"""What a trial tells of its candidate beside the objectives."""


@dataclass(frozen=True)
class Trials:
    """The study of one search."""

    url: str
    study: Study
    problem: Problem
    """With what is measured among its objectives."""
    parameters: Mapping[int, CategoricalDistribution]
    """Of each gene that has several alternatives."""
    present: set[Row]

    def add(self, row: Row, found: Found = MappingProxyType({})) -> None:
        """Adds the trial of a point and of what evaluators found of it, unless it is there. Raises E-STORAGE."""
        if row in self.present:
            return
        from optuna.trial import TrialState, create_trial

        problem, draws = self.problem, self.problem.pricer.draws
        point, points = draws.point(row), np.array([row], np.int16)
        active, priced = draws.genome.active(points)[0], problem.pricer.price(points)
        base = problem.space.declared.base.id
        graph = problem.space.program.elaborate(base, overrides=point.overrides, input=problem.input)
        name = f"cand_{canonical_hash(graph)[:8]}"

        def value(measure: Measure) -> float:
            measured = found.get(measure.metric)
            return float(problem.value(measure, priced)[0]) if measured is None else measured.value

        failed = [f"{name}: {one.reason}" for name, one in found.items() if one.reason]
        attributes: dict[str, object] = {"id": name, "arch": problem.space.variant_text(point, name), "genes": row}
        attributes |= {str(measure): value(measure) for measure in SHOWN}
        attributes |= {name: one.value for name, one in found.items() if not one.reason}
        if failed:
            attributes["failed"] = "; ".join(failed)
        kept = {i: d for i, d in self.parameters.items() if active[i]}
        genes = draws.genome.genes
        trial = create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            values=None if failed else [value(o.measure) for o in problem.objectives],
            params={genes[i].name: d.choices[row[i]] for i, d in kept.items()},
            distributions={genes[i].name: d for i, d in kept.items()},
            user_attrs=attributes,
            constraints=None
            if failed
            else {str(b): value(b.measure) / b.limit - 1 for b in (*problem.budgets, *problem.timed)},
        )
        with _reported(self.url):
            self.study.add_trial(trial)
        self.present.add(row)


@contextlib.contextmanager
def trials(url: str, directory: Path, problem: Problem) -> Iterator[Trials]:
    """The study of the search in a directory, named as it is. Raises E-STORAGE and E-DEPENDENCY."""
    owner = directory / STATE / OWNER
    if not owner.exists():
        write_file(owner, secrets.token_hex(8) + "\n")
    own, name = owner.read_text(encoding="utf-8").strip(), directory.resolve().name
    with opened(url) as storage:
        import optuna

        ways = optuna.study.StudyDirection
        directions = [ways.MAXIMIZE if o.maximize else ways.MINIMIZE for o in problem.objectives]
        with _reported(url), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
            known = study.get_trials(deepcopy=False)
            if study.user_attrs.get("search", own if not known else "") != own:
                raise _taken(name, url)
            study.set_user_attr("search", own)
            study.set_user_attr("space", f"{problem.space.program.path.name}:{problem.space.declared.name.id}")
            study.set_user_attr("budgets", [str(b) for b in (*problem.budgets, *problem.timed)])
            study.set_metric_names([str(o) for o in problem.objectives])
        yield Trials(url, study, problem, parameters(problem), {tuple(t.user_attrs["genes"]) for t in known})


def refuse_taken(url: str, name: str) -> None:
    """Raises E-STORAGE where a storage cannot be used, or has a study of this name, and E-DEPENDENCY."""
    with opened(url) as storage, _reported(url):
        import optuna

        if name in optuna.get_all_study_names(storage):
            raise _taken(name, url)


def parameters(problem: Problem) -> dict[int, CategoricalDistribution]:
    """What Optuna calls the distributions of the genes: their values, or where these are alike, their numbers."""
    from optuna.distributions import CategoricalDistribution

    draws, out = problem.pricer.draws, {}
    for i, gene in enumerate(draws.genome.genes):
        values = [_literal(value_of(draws, i, a)) for a in range(gene.options)]
        if gene.options > 1:
            distinct = len(set(values)) == len(values)
            out[i] = CategoricalDistribution(tuple(values) if distinct else tuple(range(gene.options)))
    return out


def _literal(text: str) -> int | float | str:
    """A number where the text is one."""
    with contextlib.suppress(ValueError):
        number = json.loads(text)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return number
    return text


# -- storages --------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(url: str) -> Iterator[BaseStorage]:
    """The storage at `journal:PATH`, at a path, or at a database's URL. Raises E-STORAGE and E-DEPENDENCY."""
    try:
        import optuna
    except ModuleNotFoundError as e:
        reason = "a study is kept only with optuna, which is not installed"
        raise error("E-DEPENDENCY", reason, help="pip install archdsl[study]") from e

    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with _reported(url):
            storage = _storage(url)
        yield storage
        with _reported(url):
            storage.remove_session()
    finally:
        optuna.logging.set_verbosity(said)


def _storage(url: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    scheme, _, path = url.partition(":") if re.match(r"[\w+.-]+:", url) else ("journal", "", url)
    if scheme == "journal" and path:
        return JournalStorage(JournalFileBackend(path))
    if not path.startswith("//"):
        raise error(
            "E-STORAGE",
            f"`{masked(url)}` is no storage",
            help="write journal:PATH, sqlite:///PATH, or the URL of a database: postgresql://USER@HOST/NAME",
        )
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})  # an evaluation may outlast a connection


def masked(url: str) -> str:
    """A URL without its password."""
    hidden = re.sub(PASSWORD, r"\1***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden)


@contextlib.contextmanager
def _reported(url: str) -> Iterator[None]:
    """Tells what goes wrong with a storage."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except ImportError as e:
        raise error(
            "E-DEPENDENCY",
            f"the driver of the database at `{masked(url)}` is not installed",
            help=f"pip install {getattr(e.__cause__, 'name', None) or 'it'}",
        ) from e
    except (OptunaError, SQLAlchemyError, OSError, ValueError, KeyError, TypeError, RuntimeError) as e:
        raise error(
            "E-STORAGE",
            f"the storage `{masked(url)}` cannot be used: {_reason(e, url)}",
            help="a search needs none, and may be given one later: --resume DIR --storage URL",
        ) from e


def _reason(e: BaseException, url: str) -> str:
    """What the innermost of nested exceptions says, in a line without the password."""
    while (inner := getattr(e, "orig", None) or e.__cause__) is not None:
        e = inner
    said = str(e).strip().partition("\n")[0].replace(url, masked(url))
    password = re.search(PASSWORD, url)
    if password is not None and "@" in password[2]:  # the rest of it was taken for a part of the host
        said = said.replace(password[2].partition("@")[2] + "@", "***@")
    return said or type(e).__name__


def _taken(name: str, url: str) -> ArchError:
    return error(
        "E-STORAGE",
        f"`{masked(url)}` has a study `{name}` of another search",
        help="choose another name for the run: --name",
    )
