"""Next-ViT (2207.05501)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _nextvit(
    *,
    dims: Sequence[int],
    mixed: Sequence[int | None],
    depths: Sequence[int],
    stem_chs: Sequence[int],
    drop_path_rate: float = 0.0,
    num_classes: int = 1000,
) -> nn.Module:
    """timm's model with stages of other widths, which its constructor does not take."""
    from timm.layers import ClassifierHead, calculate_drop_path_rates
    from timm.models.nextvit import NextConvBlock, NextStage, NextTransformerBlock, NextViT

    model: nn.Module = NextViT(3, num_classes, stem_chs=tuple(stem_chs), depths=(1, 1, 5, 1))
    rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
    stages, width = [], stem_chs[-1]
    for i, dim in enumerate(dims):
        run = 5 if i == 2 else depths[i]
        last = [mixed[i] if i and j % run == run - 1 else None for j in range(depths[i])]
        widths = [w or dim for w in last]
        types = [NextTransformerBlock if w else NextConvBlock for w in last]
        stages.append(NextStage(width, widths, types, 2 if i else 1, (8, 4, 2, 1)[i], 0.75, drop_path=rates[i]))
        width = widths[-1]
        model.feature_info[i]["num_chs"] = width
    model.stages = nn.Sequential(*stages)
    model.norm = nn.BatchNorm2d(width)
    model.head = ClassifierHead(width, num_classes)
    model.num_features = model.head_hidden_size = width
    model._initialize_weights()
    return model


ENDS = r"stages\.(0\.blocks\.2|1\.blocks\.[23]|2\.blocks\.[12]?[3489]|3\.blocks\.[12])"
"""Blocks whose results go through a convolution and a batch norm: transformers, and what stands before them."""
TRANSFORMERS = r"stages\.(1\.blocks\.3|2\.blocks\.[12]?[49]|3\.blocks\.2)"


def _twin(spec: str, name: str, variant: bool = False) -> Twin:
    return timm_twin(
        spec,
        name,
        {"first": [8, 8, 16], "dims": [32, 32, 64, 64], "mixed": [None, 128, 160, 128], "depths": [3, 4, 5, 3]},
        {"first": "stem_chs"},
        make=_nextvit,
        sizes=((250, 250), (192, 288)),  # odd maps, pooled with what is left over, and one that is not square
        vanishing=r"\.e_mhsa\.k\.bias$",  # the same for every key, so that the softmax takes it away
        # Biases that a batch norm takes away again.
        vanishing_in_training=rf"\.e_mhsa\.(k|v|proj|norm)\.bias$|^{ENDS}\.mlp\.fc2\.bias$"
        rf"|^{TRANSFORMERS}\.patch_embed\.norm\.bias$",
        gain=0.9,  # so that attention of deep blocks does not pick single keys, in float32 by luck
        variant=variant,
    )


TWINS = (
    _twin("nextvit_s", "nextvit_small"),
    _twin("nextvit_b", "nextvit_base", variant=True),
    _twin("nextvit_l", "nextvit_large", variant=True),
)
