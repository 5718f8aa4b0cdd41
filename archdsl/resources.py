"""Finds the files that ship beside the code: grammars, templates and specs, in a checkout or inside a wheel."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def root() -> Path:
    """The directory that holds grammars/, codegen/ and specs/: archdsl/_data in a wheel, else the checkout's root."""
    packaged = _HERE / "_data"
    return packaged if packaged.is_dir() else _HERE.parent


def grammar(name: str) -> Path:
    """The grammar `name` ("arch", "ir")."""
    return root() / "grammars" / f"{name}.lark"


def template_dir() -> Path:
    """The jinja2 templates of the backends."""
    return root() / "codegen"


def specs_dir() -> Path:
    """The shipped architectures; the library written in the language is its subdirectory std/."""
    return root() / "specs"
