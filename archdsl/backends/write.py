"""Puts emitted files on disk: whole or not at all, byte-identical when rebuilt, never over an edit by hand."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from archdsl.diagnostics import ArchError, Diagnostic, error

MANIFEST = "manifest.json"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_package(
    directory: Path, files: Mapping[str, str], facts: Mapping[str, object], *, force: bool = False
) -> None:
    """Makes `directory` hold `files` (name -> text) and a manifest of `facts` and each file's SHA-256.

    The manifest is how the next build knows what it wrote: a file that is neither as recorded nor as about to be
    written was edited by hand (E-EDITED, unless `force`), and a recorded file that is no longer emitted goes.
    Other files in the directory are left alone. Everything is written beside its place and moved into it, the
    manifest last. Raises E-WRITE where the system refuses; nothing half-written is left then.
    """
    manifest = manifest_text(files, facts)
    try:
        recorded = _recorded(directory)
        if not force:
            _refuse_edited(directory, files, recorded)
        _replace(directory, {**files, MANIFEST: manifest})
        for name in recorded.keys() - files.keys():
            with suppress(FileNotFoundError):
                (directory / name).unlink()
    except OSError as e:
        raise _refused(directory, e) from e


def manifest_text(files: Mapping[str, str], facts: Mapping[str, object]) -> str:
    content = {**facts, "files": {name: sha256(text) for name, text in sorted(files.items())}}
    return json.dumps(content, indent=2) + "\n"


def write_file(path: Path, text: str) -> None:
    """Replaces one file by `text` in a single step, keeping its permissions. Raises E-WRITE."""
    try:
        place = Path(os.path.realpath(path))  # a link stays a link: what it points to is replaced
        staged = place.with_name(f".{place.name}-{secrets.token_hex(4)}.tmp")
        try:
            _write(staged, text)
            if place.exists():
                shutil.copymode(place, staged)
            os.replace(staged, place)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as e:
        raise _refused(path, e) from e


def _recorded(directory: Path) -> dict[str, str]:
    """SHA-256 of what the last build wrote, by file name; empty where there is no readable manifest."""
    try:
        found = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        files = found["files"] if isinstance(found, dict) else None
    except (FileNotFoundError, ValueError, KeyError):
        return {}
    if not isinstance(files, dict):
        return {}
    plain = (n for n in files if isinstance(n, str) and Path(n).name == n and n not in ("", ".", ".."))
    return {name: str(files[name]) for name in plain}


def _refuse_edited(directory: Path, files: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    edited = []
    for name in sorted(files.keys() | recorded.keys()):
        try:
            found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        except FileNotFoundError:
            continue
        wanted = sha256(files[name]) if name in files else None
        if found not in (recorded.get(name), wanted):
            edited.append(name)
    if edited:
        raise ArchError(
            *(
                Diagnostic(
                    "E-EDITED",
                    f"`{directory / name}` was edited by hand since it was built",
                    help="move your version elsewhere, choose another directory with -o, or overwrite it with --force",
                )
                for name in edited
            )
        )


def _replace(directory: Path, files: Mapping[str, str]) -> None:
    fresh = not directory.exists()
    home = directory.parent if fresh else directory
    made = _make_directories(home)
    staged = home / f".{directory.name}-{secrets.token_hex(4)}.tmp"
    done = False
    try:
        staged.mkdir()
        for name, text in files.items():
            _write(staged / name, text)
        if fresh:
            with suppress(OSError):  # another build may just have made it: then file by file
                os.rename(staged, directory)
                done = True
        if not done:
            for name in files:  # the manifest comes last
                os.replace(staged / name, directory / name)
            done = True
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if not done:
            for path in reversed(made):
                with suppress(OSError):
                    path.rmdir()


def _make_directories(path: Path) -> list[Path]:
    """Makes `path` and its missing ancestors; the ones it made, outermost first."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for p in reversed(missing):
        p.mkdir(exist_ok=True)
    return missing[::-1]


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)


def _refused(path: Path, e: OSError) -> ArchError:
    reason = e.strerror or str(e)
    return error(
        "E-WRITE",
        f"cannot write `{path}`: {reason[:1].lower()}{reason[1:]}",
        help="choose another directory with -o" if path.suffix != ".arch" else "",
    )
