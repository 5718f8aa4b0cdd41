"""SReT (2111.05297), which timm lacks."""

from __future__ import annotations

from tests.oracle.twin import Twin
from tests.references.sret import SReT

RENAMES = (
    (r"^stem\.0\.", "stem.conv1."),
    (r"^stem\.1\.", "stem.bn1."),
    (r"^stem\.3\.", "stem.conv2."),
    (r"^stem\.4\.", "stem.bn2."),
    (r"^stem\.6\.", "stem.conv3."),
    (r"^stem\.7\.", "stem.bn3."),
    (r"^pos_embed$", "stem.pos_embed"),
    (r"\.attention\.branch\.", ".f.attn."),
    (r"\.attention\.norm\.", ".f.norm1."),
    (r"\.attention\.a\.scale$", ".f.coef1.alpha"),
    (r"\.attention\.b\.scale$", ".f.coef2.alpha"),
    (r"\.mlp\.branch\.", ".f.mlp."),
    (r"\.mlp\.norm\.", ".f.norm2."),
    (r"\.mlp\.a\.scale$", ".f.coef3.alpha"),
    (r"\.mlp\.b\.scale$", ".f.coef4.alpha"),
    (r"\.projections\.", ".non_proj."),
    (r"(\.non_proj\.\d)\.branch\.", r"\1.mlp."),
    (r"(\.non_proj\.\d)\.a\.scale$", r"\1.coef1.alpha"),
    (r"(\.non_proj\.\d)\.b\.scale$", r"\1.coef2.alpha"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

TWINS = (
    # 256: maps of 32, 16 and 8. 192x320: maps of 24x40, 12x20 and 6x10.
    Twin(
        "sret_t",
        "tests/references/sret.py",
        SReT,
        {"head_dim": 16, "depths": [1, 2, 1]},
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        vanishing_in_training=r"^stem\.conv\d\.bias$",
        settled={"groups": [[8, 1], [4, 1], [1, 1]]},
        renames=RENAMES,
        interface=False,
    ),
)
