"""RepViT (2307.09283)."""

from __future__ import annotations

from tests.oracle.twin import distilled, timm_build, timm_twin

NAMES = {"dims": "embed_dim", "depths": "depth", "distill": "distillation"}

TWINS = (
    timm_twin(
        "repvit_m1",
        "repvit_m1_0",
        {"dims": [16, 32, 48, 64], "depths": [1, 1, 2, 2]},
        NAMES,
        sizes=((250, 250), (192, 288)),
        # Biases that a batch norm takes away again.
        vanishing_in_training=r"token_mixer\.(conv\.bn|conv1)\.bias$|downsample\.spatial\.bn\.bias$"
        r"|^stages\.3\.blocks\.1\.(token_mixer|channel_mixer\.conv2)\.bn\.bias$",
        drops=False,
        taught=distilled(timm_build("repvit_m1_0", NAMES)),
    ),
)
