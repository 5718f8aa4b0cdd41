"""GhostNetV2 (2211.12905)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from archdsl.api import Artefact
from tests.oracle.twin import Size, Twin, timm_build

PLAN = [
    [[3, 16, 16, 0]],
    [[3, 48, 24, 0], [3, 72, 24, 0]],
    [[5, 72, 40, 1], [5, 120, 40, 1]],
    [[3, 240, 80, 0], [3, 480, 112, 1]],
    [[5, 672, 160, 1], [5, 960, 160, 0]],
]


class WithoutDropout(Twin):
    def compile(self, size: Size | None = None, **parameters: object) -> Artefact:
        return super().compile(size, **{"drop_rate": 0.0, **parameters})


def _make(plan: Sequence[Sequence[Sequence[int]]], **arguments: object) -> nn.Module:
    from timm.models.ghostnet import GhostNet

    stages: list[list[tuple[float, ...]]] = []
    for i, rows in enumerate(plan):
        blocks = [(k, m, c, 0.25 * gated, 2 if i and not j else 1) for j, (k, m, c, gated) in enumerate(rows)]
        stages += [blocks[:1], blocks[1:]] if i else [blocks]  # in timm, a block with a stride is a stage of its own
    model: nn.Module = GhostNet(stages, version="v2", **arguments)
    return model


def _ghostnet(width: int, **more: object) -> Twin:
    name = f"ghostnetv2_{width}"
    return WithoutDropout(
        name,
        f"timm's `{name}`",
        timm_build(name, make=_make, drop_rate=0.0),
        {"plan": PLAN, "width": 0.25},
        # Odd maps, of which a mean of 2x2 leaves the last row and column out.
        sizes=((250, 250), (192, 288)),
        # Biases that a batch norm takes away again: what comes after these has no zeros beside the map.
        vanishing_in_training=r"\.shortcut_dw\.bn\.bias$|^stages\.[13]\.blocks\.0\.conv_dw\.bn\.bias$"
        r"|^stages\.4\..*\.(ghost2\.cheap_operation|shortcut_pw)\.bn\.bias$",
        drops=False,
        interface=False,  # timm takes features within its stages, and the first before its norm
        **more,  # type: ignore[arg-type]
    )


TWINS = (_ghostnet(100), _ghostnet(130, variant=True), _ghostnet(160, variant=True))
