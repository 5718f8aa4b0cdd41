"""Turns a spec's name into timm's implementation of the same architecture."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import archdsl
from tests.oracle.compare import adopt, randomise

Size = tuple[int, int]


@dataclass(frozen=True)
class Reference:
    """timm's model of one spec. `width` is timm's name for what the spec calls `spec_width`; `depth` names both's.

    `sizes` are inputs (height, width) other than `size` at which the module built for `size` must agree as well:
    the first leaves every window ragged or every stride inexact, the second is not square. `rebuild` are sizes at
    which the parameter `bound` has another shape, so that only a module built for them may accept them. `vanishing`
    finds the parameters whose gradient is zero in exact arithmetic, `vanishing_in_training` those in training mode.
    `stem_is_a_feature` where timm counts the stem's result among the features, which come from stages here.
    `rounding` is the relative float32 error allowed beyond four times timm's.
    `shallow` and `shallowest` are depths for quick comparisons, `narrow` is a width for them.
    """

    spec: str
    timm: str
    family: str
    width: str = "dims"
    spec_width: str = "dims"
    sizes: tuple[Size, ...] = ((250, 250), (192, 288))
    rebuild: tuple[Size, ...] = ()
    bound: str = ""
    fixed_size: bool = False
    narrow: tuple[int, ...] | int = (24, 48, 96, 192)
    vanishing: str = ""
    vanishing_in_training: str = ""
    stem_is_a_feature: bool = False
    rounding: float = 1e-6
    size: Size = (224, 224)
    depth: str = "depths"
    shallow: tuple[int, ...] | int = (2, 2, 2, 2)
    shallowest: tuple[int, ...] | int = (1, 1, 1, 1)

    @property
    def source(self) -> str:
        """What it is, in words."""
        return f"timm's `{self.timm}`"

    def pair(
        self, size: Size, built: Size | None = None, depths: int | Sequence[int] | None = None
    ) -> tuple[nn.Module, nn.Module]:
        """Ours built for `built` and timm's for `size`, same random weights, drop-path off, in eval mode."""
        ours = archdsl.load(self.spec, input=(3, *(built or size)), dpr=0.0, **self.overrides(depths))
        theirs = self.model(size, depths=depths)
        randomise(theirs)
        adopt(ours, theirs, self.family)
        return ours.eval(), theirs.eval()

    def model(
        self,
        size: Size | None = None,
        *,
        depths: int | Sequence[int] | None = None,
        width: int | Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        **arguments: object,
    ) -> nn.Module:
        """A freshly initialised timm model, constructed at `size` where its weights or masks depend on it."""
        import timm

        arguments["drop_path_rate"] = drop_path_rate
        if self.fixed_size:
            arguments["img_size"] = size or self.size
        if depths is not None:
            arguments[self.depth] = depths if isinstance(depths, int) else tuple(depths)
        if width is not None:
            arguments[self.width] = width
            if self.family == "maxvit" and not isinstance(width, int):
                arguments["head_hidden_size"] = width[-1]
        if self.family in ("poolformer", "metaformer") and (depths is not None or width is not None):
            # timm's entry points refuse to be told another depth or width
            return _poolformer(**arguments) if self.family == "poolformer" else _metaformer(self.timm, **arguments)
        model: nn.Module = timm.create_model(self.timm, **arguments)
        return model

    def overrides(
        self, depths: int | Sequence[int] | None = None, width: int | Sequence[int] | None = None
    ) -> dict[str, object]:
        """The same changes as arch parameters."""
        out: dict[str, object] = {}
        if depths is not None:
            out[self.depth] = depths if isinstance(depths, int) else list(depths)
        if width is not None:
            out[self.spec_width] = width if isinstance(width, int) else list(width)
        return out


def _poolformer(**arguments: object) -> nn.Module:
    from timm.models.metaformer import GroupNorm1, MetaFormer, Pooling

    model: nn.Module = MetaFormer(
        token_mixers=Pooling,
        downsample_norm=None,
        mlp_act=nn.GELU,
        mlp_bias=True,
        norm_layers=GroupNorm1,
        layer_scale_init_values=1e-5,
        res_scale_init_values=None,
        use_mlp_head=False,
        **arguments,
    )
    return model


def _metaformer(name: str, **arguments: object) -> nn.Module:
    from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv

    attends = name.startswith("caformer")
    model: nn.Module = MetaFormer(
        **{"depths": (3, 3, 9, 3), "dims": (64, 128, 320, 512), **arguments},
        token_mixers=[SepConv, SepConv, Attention, Attention] if attends else SepConv,
        norm_layers=[LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2 if attends else LayerNorm2dNoBias,
    )
    return model


def _swin(spec: str, size: str) -> Reference:
    # 256: maps of 64, 32, 16 and 8 with windows of 7, and a shift in the last stage that 224 does not have.
    # 224x320: the last map is 7x10, so its shift is dropped on one axis only.
    return Reference(
        spec,
        f"swin_{size}_patch4_window7_224",
        "swin",
        width="embed_dim",
        spec_width="dim",
        sizes=((256, 256), (224, 320)),
        rebuild=((160, 192),),
        bound="attn.rel_bias.table",
        fixed_size=True,
        narrow=24,
    )


def _poolformer_spec(name: str) -> Reference:
    # The mixer, a mean of neighbours minus the position itself, takes a constant such as norm1's bias to zero.
    return Reference(name, name, "poolformer", vanishing=r"\.norm1\.bias$")


def _pvt(size: str) -> Reference:
    # 250: every map is odd somewhere, and the reduced keys leave a remainder out.
    name = f"pvt_v2_{size}"
    return Reference(name, name, "pvt", width="embed_dims", narrow=(16, 32, 40, 64))


def _vit(spec: str, name: str) -> Reference:
    return Reference(
        spec,
        name,
        "vit",
        width="embed_dim",
        spec_width="dim",
        sizes=(),
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        fixed_size=True,
        narrow=48,
        depth="depth",
        shallow=3,
        shallowest=1,
    )


REFERENCES = (
    _swin("swin_t", "tiny"),
    _swin("swin_s", "small"),
    _swin("swin_b", "base"),
    Reference("convnext_t", "convnext_tiny", "convnext"),
    Reference("convnext_s", "convnext_small", "convnext"),
    _poolformer_spec("poolformer_s12"),
    _poolformer_spec("poolformer_s24"),
    Reference("convformer_s18", "convformer_s18", "metaformer"),
    Reference("caformer_s18", "caformer_s18", "metaformer", narrow=(32, 64, 96, 128)),
    # 288: maps of 72, 36, 18 and 9 with windows of 8. 192x320: the last is 6x10, clamped on one axis only.
    Reference(
        "swinv2_t",
        "swinv2_tiny_window8_256",
        "swinv2",
        width="embed_dim",
        spec_width="dim",
        sizes=((288, 288), (192, 320)),
        fixed_size=True,
        narrow=24,
        size=(256, 256),
    ),
    _pvt("b0"),
    _pvt("b1"),
    _pvt("b2"),
    Reference(
        "maxvit_t",
        "maxvit_tiny_tf_224",
        "maxvit",
        width="embed_dim",
        sizes=(),
        rebuild=((256, 256), (192, 320)),
        bound="attn.rel_bias.table",
        fixed_size=True,
        narrow=(32, 64, 96, 128),
        vanishing_in_training=r"^stem\.conv1\.bias$|\.pre_norm\.bias$",
        shallow=(1, 1, 2, 1),
        stem_is_a_feature=True,
        rounding=1e-5,  # torch adds up BatchNorm's gradients one by one where channels come last
    ),
    _vit("vit_s16", "vit_small_patch16_224"),
    _vit("vit_s16_18x2", "vit_small_patch16_18x2_224"),
    _vit("vit_b16", "vit_base_patch16_224"),
    _vit("vit_ti16", "vit_tiny_patch16_224"),
    _vit("deit_ti16", "deit_tiny_patch16_224"),
)
WHOLE = ("swin_t", "convnext_t", "poolformer_s12")
"""Compared at their full depth everywhere."""
SMALLEST = (*WHOLE, "caformer_s18", "swinv2_t", "pvt_v2_b0", "maxvit_t", "vit_s16")
"""One of each family: what runs everywhere, shallow but for `WHOLE`; the others are marked `full`."""


def reference(spec: str) -> Reference:
    return next(r for r in REFERENCES if r.spec == spec)


def declare_torchvision_ops() -> torch.library.Library | None:
    """Lets torchvision, which timm imports, be imported where its compiled ops do not load.

    torchvision's Python side registers fake kernels for `nms` and `qnms`. Beside a CPU build of torch the published
    torchvision's library does not load, the two schemas do not exist, and the import fails. None of its ops is used
    here, so schemas are enough. They live as long as the returned library; None means torchvision needs no help.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        for compiled in sorted(Path(spec.origin).parent.glob("_C.*")):
            torch.ops.load_library(compiled)
        if hasattr(torch.ops.torchvision, "nms"):
            return None
    except OSError:
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
