"""Ops that one kernel could compute: a rule a file, and all of them."""

from archdsl.passes.fusions.base import Rule
from archdsl.passes.fusions.conv_first import ConvFirst
from archdsl.passes.fusions.conv_norm import ConvNorm
from archdsl.passes.fusions.dwconv_norm import DwconvNorm
from archdsl.passes.fusions.fused_mbconv import FusedMbconv
from archdsl.passes.fusions.local_mix import LocalMix
from archdsl.passes.fusions.mbconv import Mbconv
from archdsl.passes.fusions.mlp import Mlp
from archdsl.passes.fusions.norm_linear import NormLinear
from archdsl.passes.fusions.patch_merge import PatchMerge
from archdsl.passes.fusions.pool_head import PoolHead
from archdsl.passes.fusions.pool_mixer import PoolMixer
from archdsl.passes.fusions.project_residual import ProjectResidual
from archdsl.passes.fusions.qkv_merge import QkvMerge
from archdsl.passes.fusions.scale_residual import ScaleResidual
from archdsl.passes.fusions.window_attention import WindowAttention

RULES: tuple[Rule, ...] = (
    NormLinear(),
    QkvMerge(),
    WindowAttention(),
    ProjectResidual(),
    Mlp(),
    DwconvNorm(),
    ConvFirst(),
    Mbconv(),
    FusedMbconv(),
    ConvNorm(),
    PoolMixer(),
    LocalMix(),
    ScaleResidual(),
    PatchMerge(),
    PoolHead(),
)
