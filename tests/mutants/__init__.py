"""Turns a list of small wrong edits of the compiler (mutants.toml) into verdicts: which of them the tests notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import archdsl

ROOT = Path(archdsl.__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns("__pycache__", ".*", "generated")
COPIED = ("archdsl", "codegen", "docs", "examples", "grammars", "specs", "tests", "pyproject.toml", "README.md")
PASSED, FAILED = 0, 1
"""What pytest exits with where all tests pass, and where one does not. Anything else is no verdict."""


@dataclass(frozen=True)
class Mutant:
    """One wrong edit: `new` for `old` in `file`. Each of `killers`, ids of tests, is expected to notice."""

    id: str
    file: str
    wrong: str
    killers: tuple[str, ...]
    old: str
    new: str

    def fault(self, root: Path = ROOT) -> str:
        """Why it cannot be applied to the tree, "" where it can."""
        if self.new == self.old:
            return "it changes nothing"
        path = root / self.file
        found = path.read_text(encoding="utf-8").count(self.old) if path.is_file() else 0
        return "" if found == 1 else f"its old text occurs {found} times in {self.file}"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: "killed", "survived", or why neither is known."""

    mutant: Mutant
    outcome: str


def mutants() -> tuple[Mutant, ...]:
    """All of them, in the order of the list."""
    entries = tomllib.loads(Path(__file__).with_name("mutants.toml").read_text(encoding="utf-8"))
    return tuple(Mutant(name, **{**entry, "killers": tuple(entry["killers"])}) for name, entry in entries.items())


@dataclass(frozen=True)
class Tree:
    """A copy of the checkout that may be spoiled; its tests run against itself."""

    place: Path

    @staticmethod
    def copy(place: Path) -> Tree:
        """Copies what the tests need into `place`. Real files: a link would lead back to the checkout's data."""
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place / name, ignore=IGNORED)
            else:
                shutil.copy2(ROOT / name, place / name)
        tree = Tree(place)
        found = tree.run("-c", "import archdsl, tests; print(archdsl.__file__, tests.__file__)").stdout.split()
        if [Path(f).resolve() for f in found] != [place.resolve() / p / "__init__.py" for p in ("archdsl", "tests")]:
            raise RuntimeError(f"the copy in {place} is not what is imported, but {' '.join(found)}")
        return tree

    def run(self, *arguments: str, spoiled: bool = False) -> subprocess.CompletedProcess[str]:
        """Runs Python on the copy; of a `spoiled` one no bytecode is kept, which may look as fresh as the next's."""
        env = {**os.environ, "PYTHONPATH": str(self.place), "XDG_CACHE_HOME": str(self.place / "cache")}
        if spoiled:
            env["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.run([sys.executable, *arguments], cwd=self.place, env=env, capture_output=True, text=True)

    def tests(self, ids: Iterable[str], spoiled: bool = False) -> subprocess.CompletedProcess[str]:
        """Runs tests, up to the first that fails."""
        return self.run("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *ids, spoiled=spoiled)

    def judge(self, mutant: Mutant) -> Verdict:
        """Applies a mutant, runs its killers one by one, and takes it back."""
        path = self.place / mutant.file
        fault = mutant.fault(self.place)
        if fault:
            return Verdict(mutant, fault)
        sound, before = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(sound.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            for killer in mutant.killers:
                run = self.tests([killer], spoiled=True)
                if run.returncode == PASSED:
                    return Verdict(mutant, f"survived {killer}")
                if run.returncode != FAILED:
                    return Verdict(mutant, f"no verdict (pytest exits with {run.returncode})\n{run.stdout}{run.stderr}")
        finally:
            path.write_text(sound, encoding="utf-8")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # its bytecode is right again
        return Verdict(mutant, "killed")


def verdicts(chosen: Iterable[Mutant], place: Path) -> Iterator[Verdict]:
    """One for each mutant, as it is found, in a fresh copy of the checkout at `place`.

    Raises RuntimeError where a killer fails without any mutant, for then its failures say nothing.
    """
    chosen = list(chosen)
    tree = Tree.copy(place)
    killers = dict.fromkeys(killer for mutant in chosen for killer in mutant.killers)
    sound = tree.tests(killers)
    if sound.returncode != PASSED:
        raise RuntimeError(f"without a mutant\n{sound.stdout}{sound.stderr}")
    for mutant in chosen:
        yield tree.judge(mutant)
