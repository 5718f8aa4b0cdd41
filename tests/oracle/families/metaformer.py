"""MetaFormer with pooling (2111.11418), separable convolutions and attention (2210.13452)."""

from __future__ import annotations

from functools import partial

from torch import nn

from tests.oracle.twin import timm_twin

SIZES = ((250, 250), (192, 288))
TINY = {"dims": [24, 48, 96, 192], "depths": [2, 2, 2, 2]}
TINY_HEADS = {"dims": [32, 64, 96, 128], "depths": [2, 2, 2, 2]}


def _pooling(**arguments: object) -> nn.Module:
    from timm.models.metaformer import GroupNorm1, MetaFormer, Pooling

    model: nn.Module = MetaFormer(
        token_mixers=Pooling,
        downsample_norm=None,
        mlp_act=nn.GELU,
        mlp_bias=True,
        norm_layers=GroupNorm1,
        layer_scale_init_values=1e-5,
        res_scale_init_values=None,
        use_mlp_head=False,
        **arguments,
    )
    return model


def _convolving(attends: bool, **arguments: object) -> nn.Module:
    from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv

    model: nn.Module = MetaFormer(
        **arguments,
        token_mixers=[SepConv, SepConv, Attention, Attention] if attends else SepConv,
        norm_layers=[LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2 if attends else LayerNorm2dNoBias,
    )
    return model


# The pooling mixer, a mean of neighbours minus the position itself, takes a constant such as norm1's bias to zero.
BIAS = r"\.norm1\.bias$"

TWINS = (
    timm_twin("poolformer_s12", "poolformer_s12", TINY, make=_pooling, sizes=SIZES, vanishing=BIAS, whole=True),
    timm_twin("poolformer_s24", "poolformer_s24", TINY, make=_pooling, sizes=SIZES, vanishing=BIAS, variant=True),
    timm_twin("caformer_s18", "caformer_s18", TINY_HEADS, make=partial(_convolving, True), sizes=SIZES),
    timm_twin("convformer_s18", "convformer_s18", TINY, make=partial(_convolving, False), sizes=SIZES, variant=True),
)
