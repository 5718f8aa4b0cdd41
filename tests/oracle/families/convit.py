"""ConViT (2103.10697)."""

from __future__ import annotations

from dataclasses import replace

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, name: str, variant: bool = True, **fixed: object) -> Twin:
    return timm_twin(
        f"convit_{size}",
        f"convit_{name}",
        {"dim": 12, "depth": 4, "local": 2},
        {"dim": "embed_dim", "local": "local_up_to_layer"},
        fixed=fixed,
        sized=True,
        rebuild=((256, 256), (192, 192)),
        bound="stem.pos_embed",
        vanishing=r"\.pos_proj\.bias$",  # the same for every key, so that the softmax takes it away
        tokens=True,
        small=(96, 96),
        variant=variant,
    )


def _wider(size: str, name: str) -> Twin:
    return replace(
        _twin(f"{size}p", name, embed_dim=64),
        source=f"timm's `convit_{name}` with heads of 64 channels",
        large=size == "b",
    )


SIZES = (("t", "tiny"), ("s", "small"), ("b", "base"))
TWINS = (
    *(_twin(size, name, variant=size != "t") for size, name in SIZES),
    *(_wider(size, name) for size, name in SIZES),
)
