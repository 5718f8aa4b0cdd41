"""HorNet (2207.14284), which timm lacks."""

from __future__ import annotations

from functools import partial

from tests.oracle.twin import Twin
from tests.references.hornet import HorNet

RENAMES = (
    (r"^stages\.0\.reduce\.0\.", "stem.conv."),
    (r"^stages\.0\.reduce\.1\.", "stem.norm."),
    (r"\.reduce\.0\.", ".down_norm."),
    (r"\.reduce\.1\.", ".down."),
    (r"\.gnconv\.", ".mixer."),
    (r"\.mixer\.dwconv\.(weight|bias)$", r".mixer.mix.\1"),
    (r"\.dwconv\.filter$", ".mix.fft_filter.weight"),
    (r"\.dwconv\.(pre_norm|post_norm|dw)\.", r".mix.\1."),
    (r"\.gamma([12])$", r".ls\1.gamma"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

TINY = {"dim": 32, "depths": [1, 1, 2, 1]}
SOURCE = "tests/references/hornet.py"

TWINS = (
    Twin("hornet_t", SOURCE, HorNet, TINY, sizes=((250, 250), (192, 288)), renames=RENAMES, interface=False),
    Twin(
        "hornet_t_gf",
        SOURCE,
        partial(HorNet, globals_from=2),
        TINY,
        rebuild=((256, 256), (192, 288)),
        bound="fft_filter.weight",
        renames=RENAMES,
        interface=False,
    ),
)
