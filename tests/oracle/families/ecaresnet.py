"""ECA-Net (1910.03151), and its gates in ResNet-D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from tests.oracle.twin import Size, Twin, timm_twin

NAMES = {"depths": "layers", "classes": "num_classes"}
DIMS = (256, 512, 1024, 2048)
PLAIN = {"ecanet50": (3, 4, 6, 3), "ecanet101": (3, 4, 23, 3), "ecanet152": (3, 8, 36, 3)}
BASIC = {"ecanet18": "resnet18", "ecanet34": "resnet34"}
"""And the ResNet of timm's that each is, with a gate in every block."""


def _make(
    widths: Sequence[int], layers: Sequence[int], dims: Sequence[int] = DIMS, avg_down: bool = True, **arguments: object
) -> nn.Module:
    """`widths` are those of the convolutions of the stem; a single one has 64 channels."""
    from timm.models.resnet import Bottleneck, ResNet

    stem = {}
    if len(widths) > 1:
        stem = {"stem_width": widths[1], "stem_type": "deep" if widths[0] == widths[1] else "deep_tiered"}
    model: nn.Module = ResNet(
        Bottleneck,
        layers,
        channels=[dim // 4 for dim in dims],
        avg_down=avg_down,
        block_args={"attn_layer": "eca"},
        **stem,
        **arguments,
    )
    return model


def _eca(name: str, widths: Sequence[int], **more: object) -> Twin:
    return timm_twin(
        name,
        name,
        {"widths": widths, "dims": [32, 64, 128, 256], "depths": [1, 1, 1, 1]},
        NAMES,
        make=_make,
        # Odd maps, whose last row and column average pooling takes by itself.
        sizes=((250, 250), (192, 288)),
        stem_is_a_feature=True,
        **more,
    )


def _plain(name: str, layers: Sequence[int]) -> Twin:
    """Which timm does not list."""

    def build(size: Size, /, **parameters: object) -> nn.Module:
        given = {NAMES.get(k, k): v for k, v in parameters.items()}
        return _make(**{"widths": [64], "layers": layers, "avg_down": False, **given})

    return replace(_eca(name, [64], variant=True), source=f"timm's `ResNet` with the numbers of `{name}`", build=build)


def _basic(name: str, resnet: str) -> Twin:
    """timm's ResNet of two 3x3 convolutions a block, with timm's gate."""
    twin = timm_twin(name, resnet, {}, NAMES, fixed={"block_args": {"attn_layer": "eca"}}, variant=True)
    return replace(twin, source=f"timm's `{resnet}` with its gate `eca`", stem_is_a_feature=True)


TWINS = (
    _eca("ecaresnet50d", [8, 8, 16]),
    _eca("ecaresnet101d", [8, 8, 16], variant=True),
    _eca("ecaresnet200d", [8, 8, 16], variant=True),
    _eca("ecaresnet269d", [8, 8, 16], variant=True),
    _eca("ecaresnet50t", [6, 8, 16], variant=True),
    _eca("ecaresnet26t", [6, 8, 16], variant=True),
    _eca("ecaresnetlight", [64], variant=True),
    *(_plain(name, layers) for name, layers in PLAIN.items()),
    *(_basic(name, resnet) for name, resnet in BASIC.items()),
)
