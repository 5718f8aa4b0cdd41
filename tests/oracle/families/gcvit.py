"""GCViT (2206.09959)."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import timm_twin


def _gcvit(**arguments: object) -> nn.Module:
    from timm.models.gcvit import GlobalContextVit

    model: nn.Module = GlobalContextVit(**arguments)
    return model


TWINS = (
    # 192x320: windows of 6x10, and of 12x20 in the third stage.
    timm_twin(
        "gcvit_t",
        "gcvit_tiny",
        {"dim": 16, "depths": [2, 2, 2, 2]},
        {"dim": "embed_dim"},
        make=_gcvit,
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="attn.rel_bias.table",
    ),
)
