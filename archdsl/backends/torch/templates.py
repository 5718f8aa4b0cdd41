"""The jinja side of the PyTorch backend: the environment, and the sources of shipped layers and functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from archdsl.backends.torch.layout import wrap
from archdsl.resources import template_dir


def environment() -> Environment:
    """Jinja over codegen, and torch in it, with a filter `lines(indent)` that indents and wraps generated lines."""
    env = Environment(
        loader=FileSystemLoader([template_dir() / "torch", template_dir()]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters["lines"] = _lines
    return env


def _lines(lines: str | Sequence[str], indent: int) -> str:
    items = [lines] if isinstance(lines, str) else lines
    return "\n".join(part for line in items for part in wrap(" " * indent + line))


def helper_sources(names: Iterable[str], env: Environment) -> list[str]:
    """Sources of the templates `names` and of what their `needs:` lines name, each once, needed ones first."""
    done: dict[str, str] = {}

    def take(name: str) -> None:
        if name in done:
            return
        raw = (template_dir() / "torch" / f"{name}.py.j2").read_text(encoding="utf-8")
        needs = re.match(r"\{#\s*needs:\s*([^#]*?)\s*#\}", raw)
        for other in needs.group(1).split(",") if needs else ():
            take(other.strip())
        done[name] = env.get_template(f"{name}.py.j2").render().strip("\n")

    for name in names:
        take(name)
    return list(done.values())
