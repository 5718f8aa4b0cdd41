"""InceptionNeXt (2303.16900)."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

TWINS = (
    timm_twin(
        "inception_next_t",
        "inception_next_tiny",
        {"dims": [24, 48, 96, 192], "depths": [2, 2, 2, 2]},
        sizes=((250, 250), (192, 288)),
        # Biases that a batch norm takes away again.
        vanishing_in_training=r"^stem\.conv\.bias$|\.dwconv_\w+\.bias$|^stages\.[012]\.blocks\.1\.mlp\.fc2\.bias$",
    ),
)
