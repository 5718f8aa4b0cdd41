"""Hiera (2306.00989)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, variant: bool = False) -> Twin:
    return timm_twin(
        f"hiera_{size[0]}",
        f"hiera_{size}_224",
        {"dim": 24, "depths": [1, 1, 1, 1]},
        {"dim": "embed_dim", "depths": "stages"},
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        interface=False,  # timm leaves tokens in an order of mask units, which its head does not mind
        variant=variant,
    )


TWINS = (_twin("tiny"), _twin("small", variant=True), _twin("base", variant=True))
