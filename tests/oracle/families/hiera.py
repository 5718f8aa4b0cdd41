"""Hiera (2306.00989)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, variant: bool = True) -> Twin:
    return timm_twin(
        "hiera_" + "".join(word[0] for word in size.split("_")),
        f"hiera_{size}_224",
        {"dim": 24, "depths": [1, 1, 1, 1]},
        {"dim": "embed_dim", "depths": "stages"},
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        interface=False,  # timm leaves tokens in an order of mask units, which its head does not mind
        variant=variant,
        large=size == "huge",
    )


TWINS = (_twin("tiny", variant=False), *map(_twin, ("small", "base", "base_plus", "large", "huge")))
