"""Turns the names of fused steps into fused.py, which chooses between PyTorch and the Triton kernels of kernels.py."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from jinja2 import Environment

from archdsl.backends.torch.templates import environment
from archdsl.backends.torch.tiles import Tiles, table_source
from archdsl.ir.graph import Graph

FUSED = "fused/"
"""What begins the names of helpers that are fused steps."""


SHARED = ("sample_norm", "moments", "neighbours", "taps", "activated")
"""Templates of what several kernels call, those that call others of them first."""


def import_order(name: str) -> tuple[int, str]:
    """Classes before functions, as import sorters want them."""
    return (0 if name[0].isupper() else 1, name)


def fused_steps(fused: Sequence[str], helpers: Sequence[str], env: Environment) -> list[str]:
    """Sources of fused steps, where `helpers` are the layers that there are beside them."""
    return [env.get_template(f"fused/{name}.py.j2").render(helpers=set(helpers)).strip("\n") for name in fused]


def kernel_sources(
    graph: Graph, version: str, fused: Sequence[str], layers: Sequence[str], helpers: Sequence[str], tiles: Tiles
) -> dict[str, str]:
    """File name -> text of the files behind `fused` steps. `layers` are the names that layers.py defines.

    `tiles` is what was measured of kernels; what it has of others than these is left out.
    """
    env = environment()
    context = {"graph": graph, "version": version, "helpers": set(helpers)}
    kernels = [env.get_template(f"triton/{name}.py.j2").render(context).strip("\n") for name in fused]
    for name in SHARED:
        source = env.get_template(f"triton/{name}.py.j2").render(context).strip("\n")
        defined = "|".join(re.findall(r"^def (\w+)", source, re.MULTILINE))
        if any(re.search(rf"\b({defined})\b", kernel) for kernel in kernels):
            kernels.insert(0, source)
    names = re.findall(r"^@triton\.jit\ndef (\w+)", "\n".join(kernels), re.MULTILINE)
    table = table_source(tiles, names)
    digest = hashlib.sha256("\n".join([version, *kernels, *table]).encode()).hexdigest()[:8]
    context |= {"kernels": kernels, "tiles": table, "digest": digest}
    steps = fused_steps(fused, helpers, env)
    text = "\n".join(steps)
    context |= {
        "fused": steps,
        "uses_f": "F." in text,
        "uses_nn": "nn." in text,
        "imports": sorted((n for n in layers if re.search(rf"\b{n}\b", text)), key=import_order),
        "first": names[0],
    }
    return {
        name: env.get_template(f"{folder}/{name}.j2").render(context)
        for folder, name in (("fused", "fused.py"), ("triton", "kernels.py"))
    }
