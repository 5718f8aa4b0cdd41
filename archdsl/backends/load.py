"""Turns emitted files into a live module: writes them to a cache directory and imports the real file."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from archdsl.backends.write import write_package
from archdsl.diagnostics import ArchError

if TYPE_CHECKING:
    from torch import nn


def load_module(name: str, files: Mapping[str, str]) -> nn.Module:
    """A new, initialised instance of the architecture `name` that `files` (name -> text) define."""
    module: nn.Module = getattr(import_files(name, files), name)()
    return module


@contextmanager
def passing_module(name: str, files: Mapping[str, str]) -> Iterator[nn.Module]:
    """A module as from `load_module`, for one use: neither its files nor its classes outlive the block."""
    with tempfile.TemporaryDirectory(prefix="archdsl-") as directory:
        place = Path(directory) / name
        write_package(place, files, {})
        package = f"archdsl_passing_{Path(directory).name.removeprefix('archdsl-')}"
        try:
            module: nn.Module = getattr(_imported(package, place), name)()
            yield module
        finally:
            for key in [k for k in sys.modules if k == package or k.startswith(f"{package}.")]:
                del sys.modules[key]


def import_files(name: str, files: Mapping[str, str]) -> ModuleType:
    """The emitted package as an imported Python module; the same files are imported once.

    A real file, because tracebacks, debuggers, torch.compile and Triton read the source of what they run, and
    pickle looks classes up by module name.
    """
    digest = hashlib.sha256("\0".join(f"{n}\0{t}" for n, t in sorted(files.items())).encode()).hexdigest()[:16]
    package = f"archdsl_generated_{name}_{digest}"
    if package in sys.modules:
        return sys.modules[package]
    return _imported(package, _store(f"{name}-{digest}", files))


def _imported(package: str, place: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        package, place / "__init__.py", submodule_search_locations=[str(place)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[package]
        raise
    return module


def _store(name: str, files: Mapping[str, str]) -> Path:
    """The directory that holds exactly these files: in the user's cache, else in the temporary directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    place = Path(cache) / "archdsl" / name
    try:
        if not _holds(place, files):
            write_package(place, files, {}, force=True)
    except ArchError:
        # Not shared between users: a directory somebody else may write to must not be imported from.
        place = Path(tempfile.mkdtemp(prefix="archdsl-")) / name
        write_package(place, files, {}, force=True)
    return place


def _holds(place: Path, files: Mapping[str, str]) -> bool:
    try:
        return all((place / n).read_text(encoding="utf-8") == text for n, text in files.items())
    except (OSError, ValueError):
        return False
