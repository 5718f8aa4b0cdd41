"""Roles of def calls, decided by types and by which ops look at other positions."""

from __future__ import annotations

from pathlib import Path

import pytest

from archdsl.frontend.program import Program
from archdsl.frontend.roles import role

SPECS = Path(__file__).parent.parent / "specs"


@pytest.mark.parametrize(
    ("spec", "arch", "wanted"),
    [
        ("swin_t", "swin_t", {"wmsa": "token mixer", "mlp": "channel mixer", "patch_merge": "downsampler"}),
        ("convnext_t", "convnext_t", {"convnext": "token mixer", "layer_scale": "channel mixer"}),
        (
            "poolformer_s12",
            "pool_conv_attn",
            {"pool_mixer": "token mixer", "sep_conv": "token mixer", "mhsa": "token mixer"},
        ),
    ],
)
def test_roles(spec: str, arch: str, wanted: dict[str, str]) -> None:
    graph = Program.open(SPECS / f"{spec}.arch").elaborate(arch)
    found = {(r.name, role(graph, r)) for r in graph.regions if r.name in wanted}
    assert found == set(wanted.items())
