"""EfficientFormerV2 (2212.08059)."""

from __future__ import annotations

from tests.oracle.twin import Twin, distilled, timm_build, timm_twin

SAME_FOR_ALL_KEYS = r"\.k\.(conv|bn)\.bias$|\.talking_head1\.bias$"
"""What adds one number to all scores of a query."""


def _twin(size: str, variant: bool = False) -> Twin:
    name = f"efficientformerv2_{size}"
    names = {"dims": "embed_dims", "distill": "distillation"}
    return timm_twin(
        name,
        name,
        {"dims": [24, 32, 48, 64], "depths": [1, 1, 3, 2]},
        names,
        sized=True,
        rebuild=((250, 250), (192, 320)),  # maps of 63x63 and 32x32, and of 12x20 and 6x10
        bound="attention_biases",
        vanishing=SAME_FOR_ALL_KEYS,
        # A batch norm takes these away again, too; that of the head all that is added in the last stage.
        vanishing_in_training=rf"{SAME_FOR_ALL_KEYS}|\.(conv|local)\.bias$|\.stride_conv\.bn\.bias$"
        r"|^stages\.3\..*(attn\.proj|mixer\.proj|\.fc2|downsample\.conv)\.bn\.bias$",
        gain=0.6,  # biases of mixed heads add up over all keys, block after block
        variant=variant,
        taught=distilled(timm_build(name, names, sized=True)),
        teaching={"distill": True},
    )


TWINS = (_twin("s0"), *(_twin(size, variant=True) for size in ("s1", "s2", "l")))
