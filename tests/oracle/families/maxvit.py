"""MaxViT (2204.01697)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tests.oracle.twin import timm_twin


def _maxvit(embed_dim: Sequence[int], **arguments: object) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(
        "maxvit_tiny_tf_224", embed_dim=embed_dim, head_hidden_size=embed_dim[-1], **arguments
    )
    return model


TWINS = (
    timm_twin(
        "maxvit_t",
        "maxvit_tiny_tf_224",
        {"dims": [32, 64, 96, 128], "depths": [1, 1, 2, 1]},
        {"dims": "embed_dim"},
        make=_maxvit,
        rebuild=((256, 256), (192, 320)),
        bound="attn.rel_bias.table",
        sized=True,
        vanishing_in_training=r"^stem\.conv1\.bias$|\.pre_norm\.bias$",
        stem_is_a_feature=True,
    ),
)
