"""OverLoCK (2502.20087), which timm lacks."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Size, Twin
from tests.references.overlock import OverLoCK

RENAMES = (
    (r"^stem\.0\.", "stem.conv_bn1."),
    (r"^stem\.1\.", "stem.conv_bn2."),
    (r"^stem\.2\.", "stem.conv_bn3."),
    (r"^stem\.3\.", "stem.conv_bn4."),
    (r"^downs\.0\.", "stages.1.down."),
    (r"^downs\.1\.", "stages.2.down."),
    (r"^downs\.2\.", "overview.down."),
    (r"^base\.3\.", "overview.blocks."),
    (r"^base\.(\d)\.", r"stages.\1.blocks."),
    (r"^(look\d)\.", r"\1.blocks."),
    (r"^high_level_proj\.", "overview.proj."),
    (r"^([xh]_proj)\.", r"look4.\1."),
    (r"\.(query|key|weight_proj)\.", r".cont_mix.\1."),
    (r"\.bias_table([12])$", r".cont_mix.rpb\1.table"),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^head_conv\.", "head.conv_bn."),
    (r"^aux_head\.bn\.", "head.aux_bn."),
    (r"^aux_head\.fc\.", "head.aux_fc."),
    (r"\.(conv_bn\d?|down|[xh]_proj|gate|query|key|dyn_proj)\.0\.", r".\1.c."),
    (r"\.(conv_bn\d?|down|[xh]_proj|gate|query|key|dyn_proj)\.1\.", r".\1.bn."),
)


def _overlock(size: Size, /, **parameters: object) -> nn.Module:
    return OverLoCK(**parameters)  # type: ignore[arg-type]


def _taught(size: Size, /, **parameters: object) -> nn.Module:
    return OverLoCK(auxiliary=True, **parameters)  # type: ignore[arg-type]


TWINS = (
    Twin(
        "overlock_xt",
        "tests/references/overlock.py",
        _overlock,
        {"dims": [24, 32, 64, 96], "depths": [1, 1, 1, 1], "sub": [2, 2]},
        sizes=((256, 256), (224, 288)),
        small=(224, 224),  # a neighbourhood of 13 in the third stage
        vanishing_in_training=r"\.(dilated|lepe)\.(lk_bn|dil_bn\.\d)\.bias$|\.fuse_dw\.bias$"
        r"|^look4\.blocks\.1\.(ls2|ffn\.fc2)\.bias$|^look4\.blocks\.1\.ffn\.grn\.beta$",
        renames=RENAMES,
        interface=False,
        taught=_taught,
    ),
)
