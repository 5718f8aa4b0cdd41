"""FlexiViT (2212.08013)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, name: str, variant: bool = True, large: bool = False) -> Twin:
    return timm_twin(
        f"flexivit_{size}",
        f"flexivit_{name}",
        {"dim": 48, "depth": 4, "heads": 3},
        {"dim": "embed_dim", "heads": "num_heads", "patch": "patch_size"},
        sized=True,
        size=(240, 240),
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        tokens=True,
        variant=variant,
        large=large,
    )


TWINS = (_twin("s", "small", variant=False), _twin("b", "base"), _twin("l", "large", large=True))
