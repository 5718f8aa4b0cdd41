"""CSWin (2107.00652), which timm lacks."""

from __future__ import annotations

from tests.oracle.twin import Twin
from tests.references.cswin import CSWin

RENAMES = (
    (r"^stages\.0\.(conv|norm)\.", r"stem.\1."),
    (r"^(stages\.\d)\.conv\.", r"\1.merge."),
    (r"^(stages\.\d)\.norm\.", r"\1.merge_norm."),
    (r"\.attns\.0\.get_v\.", ".attn_v.lepe."),
    (r"\.attns\.1\.get_v\.", ".attn_h.lepe."),
    (r"^(stages\.3\..*)\.attn_v\.", r"\1.attn."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

TWINS = (
    # 448: the last stage is 14 wide and stays whole. 224x448: stripes of two lengths.
    Twin(
        "cswin_t",
        "tests/references/cswin.py",
        CSWin,
        {"dim": 16, "depths": [1, 1, 2, 1]},
        sizes=((448, 448), (224, 448)),
        rounding=3e-6,  # torch's layer norm adds its weights' gradients up one by one: 12544 positions at 448
        small=(224, 224),  # the reference's stripes of 7
        renames=RENAMES,
        interface=False,
    ),
)
