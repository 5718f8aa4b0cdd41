"""ViT with the blocks of ViT-22B (2302.05442)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(spec: str, name: str, variant: bool = False) -> Twin:
    return timm_twin(
        spec,
        name,
        {"dim": 48, "depth": 4},
        {"dim": "embed_dim"},
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        sized=True,
        tokens=True,
        variant=variant,
        large=variant,
    )


TWINS = (
    _twin("vit_parallel", "vit_base_patch16_xp_224"),
    _twin("vit_parallel_l", "vit_large_patch14_xp_224", variant=True),
    _twin("vit_parallel_h", "vit_huge_patch14_xp_224", variant=True),
)
