"""Turns the names of fused steps into fused.py, which chooses between PyTorch and the Triton kernels of kernels.py."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import Environment

from archdsl.backends.torch.templates import environment
from archdsl.ir.graph import Graph

FUSED = "fused/"
"""What begins the names of helpers that are fused steps."""


def import_order(name: str) -> tuple[int, str]:
    """Classes before functions, as import sorters want them."""
    return (0 if name[0].isupper() else 1, name)


def fused_steps(fused: Sequence[str], helpers: Sequence[str], env: Environment) -> list[str]:
    """Sources of fused steps, where `helpers` are the layers that there are beside them."""
    return [env.get_template(f"fused/{name}.py.j2").render(helpers=set(helpers)).strip("\n") for name in fused]


def kernel_sources(
    graph: Graph, version: str, fused: Sequence[str], layers: Sequence[str], helpers: Sequence[str]
) -> dict[str, str]:
    """File name -> text of the files behind `fused` steps. `layers` are the names that layers.py defines."""
    env = environment()
    context = {"graph": graph, "version": version, "helpers": set(helpers)}
    kernels = [env.get_template(f"triton/{name}.py.j2").render(context).strip("\n") for name in fused]
    context |= {"kernels": kernels}
    steps = fused_steps(fused, helpers, env)
    text = "\n".join(steps)
    context |= {
        "fused": steps,
        "uses_f": "F." in text,
        "uses_nn": "nn." in text,
        "imports": sorted((n for n in layers if re.search(rf"\b{n}\b", text)), key=import_order),
        "first": re.findall(r"^@triton\.jit\ndef (\w+)", kernels[0], re.MULTILINE)[0],
    }
    return {
        name: env.get_template(f"{folder}/{name}.j2").render(context)
        for folder, name in (("fused", "fused.py"), ("triton", "kernels.py"))
    }
