"""Turns points of a space into spec files of their own, which import a copy of the space's sources."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from archdsl.diagnostics import Source
from archdsl.frontend.names import children
from archdsl.frontend.space import Point, Space
from archdsl.resources import specs_dir
from archdsl.syntax import tree
from archdsl.syntax.parser import parse
from archdsl.syntax.printer import format_file

FOLDER = "sources"


def copied(space: Space) -> tuple[str, Mapping[str, str]]:
    """The space's file in the copy, and every file of the copy by its place.

    All files that the space is read from, but for the prelude, stand below a directory named after their hash.
    """
    main = space.program.path.resolve()
    texts: dict[str, str] = {}
    for path, file in space.program.loader.files.items():
        texts[_place(path, main)] = file.tree.source.text
    digest = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:12]
    home = f"{FOLDER}/{digest}"
    return f"{home}/{main.name}", {f"{home}/{name}": text for name, text in sorted(texts.items())}


def variant_file(space: Space, point: Point, name: str, source: str, comment: str) -> str:
    """A spec with one arch, the point, which imports what it needs from the copied `source`."""
    text = space.variant_text(point, name)
    names = dict.fromkeys(n for n in _names(parse(Source(name, text))) if n in space.program.scope.names)
    header = f'# {comment}\nlanguage 1\n\nimport {", ".join(names)} from "{source}"\n\n'
    return format_file(parse(Source(f"{name}.arch", header + text + "\n")))


def _place(path: Path, main: Path) -> str:
    """Where the copy of a file stands, so that imports find it there as they did."""
    if path == main:
        return main.name
    for root in (specs_dir().resolve(), main.parent):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return re.sub(r"[^\w.]", "_", path.name)


def _names(node: tree.Tree) -> Iterator[str]:
    """The names that a file refers to."""
    if isinstance(node, tree.Name):
        yield node.id
    for child in children(node):
        yield from _names(child)
