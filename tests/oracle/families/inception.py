"""Inception-v4, Inception-ResNet-v1, which timm lacks, and Inception-ResNet-v2 (1602.07261)."""

from __future__ import annotations

from importlib import import_module
from unittest.mock import patch

from torch import nn

from tests.oracle.twin import Size, Twin, timm_twin
from tests.references.inception_resnet_v1 import InceptionResNetV1


def _narrow(module: str, name: str, width: float, arguments: dict[str, object]) -> nn.Module:
    """timm's class, which knows one width, with layers that have other widths."""
    timms = import_module(f"timm.models.{module}")
    layer = timms.ConvNormAct

    def narrow(channels: int, out: int, **more: object) -> nn.Module:
        made: nn.Module = layer(channels if channels == 3 else int(channels * width), int(out * width), **more)
        return made

    with patch.object(timms, "ConvNormAct", narrow):
        model: nn.Module = getattr(timms, name)(**arguments)
    return model


def _linear(layer: nn.Linear, width: float) -> nn.Linear:
    return nn.Linear(int(layer.in_features * width), layer.out_features)


def _inception_v4(width: float, depths: tuple[int, ...], **arguments: object) -> nn.Module:
    model = _narrow("inception_v4", "InceptionV4", width, arguments)
    for first, depth, most in zip((6, 11, 19), depths, (4, 7, 3), strict=True):
        for left_out in range(first + depth, first + most):
            model.features[left_out] = nn.Identity()
    model.last_linear = _linear(model.last_linear, width)
    return model


def _inception_resnet_v2(width: float, depths: tuple[int, ...], **arguments: object) -> nn.Module:
    model = _narrow("inception_resnet_v2", "InceptionResnetV2", width, arguments)
    for blocks, depth in zip((model.repeat, model.repeat_1, model.repeat_2), depths, strict=True):
        del blocks[depth:]
    for block in model.modules():
        if isinstance(wide := getattr(block, "conv2d", None), nn.Conv2d):
            block.conv2d = nn.Conv2d(int(wide.in_channels * width), int(wide.out_channels * width), 1)
    model.classif = _linear(model.classif, width)
    return model


def _inception_resnet_v1(size: Size, /, **parameters: object) -> nn.Module:
    return InceptionResNetV1(**parameters)  # type: ignore[arg-type]


RENAMES = (
    (r"^stem\.0\.", "stem.conv2d_1a."),
    (r"^stem\.1\.", "stem.conv2d_2a."),
    (r"^stem\.2\.", "stem.conv2d_2b."),
    (r"^pooled\.0\.", "stem.conv2d_3b."),
    (r"^pooled\.1\.", "stem.conv2d_4a."),
    (r"^pooled\.2\.", "stem.conv2d_4b."),
    (r"^reduce_a\.", "stages.1.mixed_6a."),
    (r"^reduce_b\.", "stages.2.mixed_7a."),
    *((rf"^{stage}\.(\d+)\.", rf"stages.{i}.blocks.\1.") for i, stage in enumerate("abc")),
    (r"(blocks\.\d+|mixed_6a)\.branches\.0\.0\.", r"\1.branch0."),
    (r"\.branches\.(\d)\.(\d)\.", r".branch\1_\2."),
    (r"\.widen\.", ".conv2d."),
    (r"\.0\.weight$", ".conv.weight"),
    (r"\.1\.(\w+)$", r".bn.\1"),
    (r"^head\.", "head.fc."),
)

TWINS = (
    timm_twin(
        "inception_v4",
        "inception_v4",
        {"width": 0.125, "depths": [1, 1, 1]},
        make=_inception_v4,
        size=(299, 299),
        small=(107, 80),  # no padding: 75 is the least
        reduction=37,
        sizes=((160, 160), (107, 203)),
        gain=1.8,
        drops=False,
        interface=False,
    ),
    timm_twin(
        "inception_resnet_v2",
        "inception_resnet_v2",
        {"width": 0.125, "depths": [1, 1, 1]},
        make=_inception_resnet_v2,
        size=(299, 299),
        small=(107, 80),  # no padding: 75 is the least
        reduction=37,
        sizes=((160, 160), (107, 203)),
        # Nothing but a convolution is between it and a batch norm.
        vanishing_in_training=r"^stages\.2\.block8\.conv2d\.bias$",
        drops=False,
        interface=False,
    ),
    Twin(
        "inception_resnet_v1",
        "tests/references/inception_resnet_v1.py",
        _inception_resnet_v1,
        {"width": 0.25, "depths": [1, 1, 1]},
        size=(299, 299),
        small=(107, 80),  # no padding: 75 is the least
        reduction=37,
        sizes=((160, 160), (107, 203)),
        renames=RENAMES,
        drops=False,
        interface=False,
    ),
)
