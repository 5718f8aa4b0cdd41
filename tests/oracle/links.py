"""Turns the tensors of a reference into those of our module: links by a table, by name, by structure and order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from archdsl.ir.graph import Graph
from archdsl.weights.families import by_name, shipped
from archdsl.weights.geometry import geometry
from archdsl.weights.match import Link, bare, match
from archdsl.weights.stores import execution_order
from archdsl.weights.transforms import Geometry

Renames = tuple[tuple[str, str], ...]

ALONE = (
    "convit_t",
    "convnext_t",
    "ese_vovnet39b",
    "flexivit_s",
    "hiera_t",
    "inception_next_t",
    "pit_s",
    "pvt_v2_b0",
    "sequencer2d_s",
    "swin_s3_t",
    "swin_t",
    "swinv2_t",
    "vit_s16",
)
"""Architectures whose weights are linked right by names and shapes, without the reference's order of execution."""
BY_TABLE = (
    "crossvit_9",
    "davit_t",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "halonet26t",
    "inception_resnet_v2",
    "lowformer_b0",
    "maxvit_t",
    "nasnet_a_large",
    "tiny_vit_5m",
    "visformer_s",
    "vitdet_b",
)
"""Architectures whose weights need a table: parallel layers in another order, rows or tables of another layout."""


class Mismatch(AssertionError):
    """Two state dicts that do not match one to one."""


@dataclass(frozen=True)
class Links:
    """Which of the reference's tensors each of our weight paths is made of."""

    links: tuple[Link, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Of our weights."""

    def translate(self, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reference's tensors, or gradients, under our names and in our shapes; those it lacks are left out."""
        out = {}
        for link in self.links:
            if all(key in theirs for key in link.keys):
                found = [theirs[key] for key in link.keys]
                for step in link.via:
                    found = [step.apply(found)]
                out[link.path] = found[0].reshape(self.shapes[link.path])
        return out

    def path(self, key: str) -> str:
        """Our name of one of the reference's tensors."""
        return next(link.path for link in self.links if key in link.keys)


def link(graph: Graph, theirs: nn.Module, size: tuple[int, int], renames: Renames = (), *, table: bool = True) -> Links:
    """Strictly: nothing missing, nothing left over, equal shapes but for axes of size 1. Raises Mismatch.

    `renames`, regular expressions that are all applied in order, are for references that no shipped table knows.
    Without `table` a shipped one is not used.
    """
    ours = {path: tuple(p.shape) for path, p in graph.params.items()}
    shapes = {key: tuple(t.shape) for key, t in theirs.state_dict().items()}
    if renames:
        links = {
            p: key for key in shapes if (p := renamed(key, renames)) in ours and bare(ours[p]) == bare(shapes[key])
        }
        found = tuple(Link(path, (key,)) for path, key in links.items())
        left = [f"reference has no {p}" for p in ours.keys() - links.keys()]
        left += [f"ours has no {k}" for k in shapes.keys() - set(links.values())]
    else:
        family = by_name(shipped(), graph.name) if table else None
        matching = match(graph, shapes, family, execution_order(theirs, size), in_turn=True)  # the numbers prove it
        known = geometry(graph)
        found = tuple(
            Link(x.path, x.keys, tuple(t.settle(known.get(x.path, Geometry())) for t in x.via), x.by)
            for x in matching.links
        )
        left = [f"reference has no {p}" for p in matching.missing] + [f"ours has no {k}" for k in matching.unexpected]
        left += [f"any of {a.keys} could be any of {a.paths}" for a in matching.ambiguous]
        left += [
            f"{x.path}: the reference's {shapes[x.keys[0]]}, ours {ours[x.path]}"
            for x in found
            if not x.via and bare(shapes[x.keys[0]]) != bare(ours[x.path])
        ]
    if left:
        raise Mismatch("\n".join(sorted(left)))
    return Links(found, ours)


def renamed(key: str, renames: Renames) -> str:
    """Our weight path of the reference's `key`."""
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key
