"""GCViT (2206.09959)."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _gcvit(**arguments: object) -> nn.Module:
    from timm.models.gcvit import GlobalContextVit

    model: nn.Module = GlobalContextVit(**arguments)
    return model


def _twin(size: str, variant: bool = True) -> Twin:
    # 192x320: windows of 6x10, and of 12x20 in the third stage.
    return timm_twin(
        f"gcvit_{size.removesuffix('iny')}",
        f"gcvit_{size}",
        {"dim": 16, "depths": [2, 2, 2, 2]},
        {"dim": "embed_dim"},
        make=_gcvit,
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="attn.rel_bias.table",
        variant=variant,
    )


TWINS = (_twin("tiny", variant=False), _twin("xtiny"), _twin("xxtiny"))
