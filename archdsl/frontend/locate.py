"""Turns what a user calls an architecture (a path, a bare name, FILE:NAME) into a spec file and a name in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from archdsl import resources
from archdsl.diagnostics import did_you_mean, error

_DECLARATION = {kind: re.compile(rf"^[ \t]*{kind}[ \t]+([A-Za-z_]\w*)", re.MULTILINE) for kind in ("arch", "space")}
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Located:
    """A spec file, and the arch asked for in it; None is the file's own choice."""

    path: Path
    arch: str | None = None


def locate(spec: str | Path, directory: Path | None = None, kind: str = "arch") -> Located:
    """Finds a spec. A bare name is an `arch` of ./specs/*.arch, else of the shipped specs.

    With `kind = "space"` it is a space, for which specs/spaces/ is looked into as well.

    `directory` is where relative names start (default: the current one). Raises E-SPEC for a name nobody
    declares; a path that does not exist is reported when it is read.
    """
    if isinstance(spec, Path):
        return Located(spec)
    here = Path() if directory is None else directory
    if _is_file(here / spec):
        return Located(here / spec)
    file, colon, name = spec.rpartition(":")
    if colon and _NAME.fullmatch(name):
        return Located(_file(file, here, kind), name)
    if not _NAME.fullmatch(spec):
        return Located(here / spec)
    for path in spec_files(here, kind):
        if spec in _declared(path, kind):
            return Located(path, spec)
    return Located(_file(spec, here, kind))


def _file(spec: str, here: Path, kind: str) -> Path:
    """The file a path, a spec file's bare name or the bare name of an arch or space stands for."""
    if not _NAME.fullmatch(spec) or _is_file(here / spec):
        return here / spec
    known: list[str] = []
    for path in spec_files(here, kind):
        names = _declared(path, kind)
        if path.stem == spec or spec in names:
            return path
        known += names
    raise error(
        "E-SPEC",
        f"no spec declares {'an arch' if kind == 'arch' else 'a space'} `{spec}`",
        help=did_you_mean(spec, known) or f"give a file, or one of {', '.join(dict.fromkeys(known))}",
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that the file system cannot hold
        return False


def spec_files(here: Path, kind: str = "arch") -> Iterator[Path]:
    """The files in which a bare name is looked up: those of ./specs, then the shipped ones."""
    for directory in (here / "specs", resources.specs_dir()):
        if kind == "space":
            yield from sorted((directory / "spaces").glob("*.arch"))
        yield from sorted(directory.glob("*.arch"))


def _declared(path: Path, kind: str) -> list[str]:
    """Names of the archs or spaces a file seems to declare, without parsing it: a broken spec can still be found."""
    try:
        return _DECLARATION[kind].findall(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []
