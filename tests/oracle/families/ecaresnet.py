"""ECA-ResNet-D (1910.03151)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _make(dims: Sequence[int], widths: Sequence[int], layers: Sequence[int], **arguments: object) -> nn.Module:
    from timm.models.resnet import Bottleneck, ResNet

    deep = "deep" if widths[0] == widths[1] else "deep_tiered"
    model: nn.Module = ResNet(
        Bottleneck,
        layers,
        channels=[dim // 4 for dim in dims],
        stem_width=widths[1],
        stem_type=deep,
        avg_down=True,
        block_args={"attn_layer": "eca"},
        **arguments,
    )
    return model


def _eca(name: str, widths: Sequence[int], **more: object) -> Twin:
    return timm_twin(
        name,
        name,
        {"widths": widths, "dims": [32, 64, 128, 256], "depths": [1, 1, 1, 1]},
        {"depths": "layers"},
        make=_make,
        # Odd maps, whose last row and column average pooling takes by itself.
        sizes=((250, 250), (192, 288)),
        **more,
    )


TWINS = (
    _eca("ecaresnet50d", [8, 8, 16]),
    _eca("ecaresnet101d", [8, 8, 16], variant=True),
    _eca("ecaresnet26t", [6, 8, 16], variant=True),
)
