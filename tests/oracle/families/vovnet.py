"""VoVNetV2 (1911.06667)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _vovnet(layers: int, **more: object) -> Twin:
    name = f"ese_vovnet{layers}b"
    return timm_twin(
        name,
        name,
        {
            "widths": [8, 8, 16],
            "mids": [8, 8, 16, 16],
            "dims": [16, 24, 32, 48],
            "depths": [1, 1, 2, 1],
            "layers": 2,
        },
        {
            "widths": "stem_chs",
            "mids": "stage_conv_chs",
            "dims": "stage_out_chs",
            "depths": "block_per_stage",
            "layers": "layer_per_block",
        },
        # Odd maps, of which max pooling keeps a last window that is only partly inside.
        sizes=((250, 250), (192, 288)),
        **more,
    )


TWINS = (_vovnet(39), _vovnet(57, variant=True), _vovnet(99, variant=True))
