"""Turns the catalogue of diagnostics (errors.md, beside this file) into the long form of one code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from archdsl.diagnostics import did_you_mean, error

_ENTRY = re.compile(r"^## (E-[A-Z0-9-]+): (.+)$", re.MULTILINE)
_EXAMPLE = re.compile(r"^(Wrong|Right):\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A wrong or right use; `language` is arch (a whole spec), ir, or sh (commands)."""

    language: str
    text: str


@dataclass(frozen=True)
class Entry:
    """What there is to know about one code."""

    code: str
    title: str
    text: str
    wrong: Example
    right: Example


@cache
def catalogue() -> Mapping[str, Entry]:
    """All entries by code, in the catalogue's order."""
    text = Path(__file__).with_name("errors.md").read_text(encoding="utf-8")
    heads = list(_ENTRY.finditer(text))
    ends = [h.start() for h in heads[1:]] + [len(text)]
    return {h[1]: _entry(h[1], h[2], text[h.end() : end]) for h, end in zip(heads, ends, strict=True)}


def _entry(code: str, title: str, body: str) -> Entry:
    examples = {m[1]: Example(m[2], m[3].rstrip("\n")) for m in _EXAMPLE.finditer(body)}
    return Entry(code, title, body.partition("\nWrong:")[0].strip(), examples["Wrong"], examples["Right"])


def explain(code: str) -> str:
    """The long form of a code, also for `window` or `e-window`. Raises E-NAME for a code that does not exist."""
    known = catalogue()
    wanted = code.upper()
    wanted = wanted if wanted.startswith("E-") else f"E-{wanted}"
    if wanted not in known:
        raise error("E-NAME", f"there is no diagnostic `{code}`", help=did_you_mean(wanted, known))
    entry = known[wanted]
    wrong, right = (f"  {e.text}".replace("\n", "\n  ") for e in (entry.wrong, entry.right))
    return f"{entry.code}: {entry.title}\n\n{entry.text}\n\nwrong\n\n{wrong}\n\nright\n\n{right}"


def listing() -> str:
    """All codes with their titles, one a line."""
    known = catalogue()
    width = max(map(len, known))
    return "\n".join(f"{e.code:<{width}}  {e.title}" for e in known.values())
