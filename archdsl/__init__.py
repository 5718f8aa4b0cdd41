"""Turns a page of text into a vision backbone: `load`, `compile` and `cost` are the compiler as a library.

Importing this is cheap; torch and everything else is imported when a function needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

# Imported first, and before the function of that name exists: importing the submodule later would put it there.
from archdsl.cost import Costs

if TYPE_CHECKING:
    from torch import nn

    from archdsl.api import Artefact

__version__ = "0.1.0"

__all__ = ["Costs", "__version__", "compile", "cost", "load"]

Input = tuple[int, int, int]


def load(
    spec: str | Path, *, input: Input | None = None, ops: Sequence[str | Path] = (), **overrides: object
) -> nn.Module:
    """The spec's PyTorch module, freshly initialised, built for `input` (channels, height, width).

    `spec` is what the command line takes: a file, a bare name such as "swin_s", FILE:NAME. `overrides` gives
    parameters of the arch other values: `load("swin_t", depths=(1, 1, 1, 1))`. The module's code is a real file
    in the user's cache directory. Raises archdsl.diagnostics.ArchError.
    """
    from archdsl.api import compile_spec

    return compile_spec(spec, input=input, ops=ops, overrides=overrides).module()


def compile(
    source: str | Path,
    *,
    input: Input | None = None,
    mode: str = "eval",
    ops: Sequence[str | Path] = (),
    **overrides: object,
) -> Artefact:
    """The graph and the emitted files of a spec, given as for `load` or as the text itself (more than a line).

    Raises archdsl.diagnostics.ArchError.
    """
    from archdsl.api import compile_spec

    return compile_spec(source, input=input, mode=mode, ops=ops, overrides=overrides)


def cost(
    spec: str | Path,
    *,
    input: Input | None = None,
    mode: str = "eval",
    width: int = 4,
    ops: Sequence[str | Path] = (),
    **overrides: object,
) -> Costs:
    """What one sample costs at `width` bytes an element. Needs no torch. Raises archdsl.diagnostics.ArchError."""
    from archdsl.api import elaborate
    from archdsl.cost import price

    return price(elaborate(spec, input=input, mode=mode, ops=ops, overrides=overrides), width)
