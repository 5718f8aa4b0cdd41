"""Turns a timm state dict into one with our weight paths, strictly: nothing missing, nothing left over.

`state_keys/` lists the tensors of some of timm's models, a line each: name and shape, `{0..2}` for several blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

RENAMES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "swin": (
        (r"^patch_embed\.", "stem."),
        (r"^layers\.", "stages."),
        (r"\.attn\.relative_position_bias_table$", ".attn.rel_bias.table"),
        (r"^norm\.", "head.norm."),
    ),
    "convnext": (
        (r"^stem\.0\.", "stem.conv."),
        (r"^stem\.1\.", "stem.norm."),
        (r"\.downsample\.0\.", ".down_norm."),
        (r"\.downsample\.1\.", ".down."),
        (r"\.gamma$", ".ls.gamma"),
        (r"\.conv_dw\.", ".dwconv."),
    ),
    "poolformer": (
        (r"\.downsample\.conv\.", ".down."),
        (r"\.layer_scale([12])\.scale$", r".ls\1.gamma"),
    ),
    "metaformer": (
        (r"\.token_mixer\.", ".mixer."),
        (r"\.pwconv([12])\.", r".pw\1."),
        (r"\.act1\.", ".star_relu."),
        (r"\.res_scale([12])\.scale$", r".rs\1.gamma"),
    ),
    "swinv2": (
        (r"^patch_embed\.", "stem."),
        (r"^layers\.", "stages."),
        (r"\.cpb_mlp\.0\.", ".cpb.fc1."),
        (r"\.cpb_mlp\.2\.", ".cpb.fc2."),
        (r"^norm\.", "head.norm."),
    ),
    "pvt": (
        (r"^patch_embed\.", "stem."),
        (r"^head\.", "head.fc."),
    ),
    "maxvit": (
        (r"\.shortcut\.expand\.", ".shortcut."),
        (r"\.conv1_1x1\.", ".expand."),
        (r"\.conv2_kxk\.", ".dwconv."),
        (r"\.conv3_1x1\.", ".project."),
        (r"\.attn_(block|grid)\.", r".\1."),
        (r"\.rel_pos\.relative_position_bias_table$", ".rel_bias.table"),
        (r"\.pre_logits\.fc\.", ".pre_logits."),
    ),
    "vit": (
        (r"^(cls_token|pos_embed)$", r"stem.\1"),
        (r"^patch_embed\.", "stem."),
        (r"^head\.", "head.fc."),
        (r"^norm\.", "head.norm."),
        (r"\.attns\.(\d)\.attn\.", r".attn.\1."),
        (r"\.attns\.(\d)\.norm\.", r".norm1.\1."),
        (r"\.attns\.(\d)\.ls\.", r".ls1.\1."),
        (r"\.ffns\.(\d)\.mlp\.", r".mlp.\1."),
        (r"\.ffns\.(\d)\.norm\.", r".norm2.\1."),
        (r"\.ffns\.(\d)\.ls\.", r".ls2.\1."),
    ),
    "cswin": (
        (r"^stages\.0\.(conv|norm)\.", r"stem.\1."),
        (r"^(stages\.\d)\.conv\.", r"\1.merge."),
        (r"^(stages\.\d)\.norm\.", r"\1.merge_norm."),
        (r"\.attns\.0\.get_v\.", ".attn_v.lepe."),
        (r"\.attns\.1\.get_v\.", ".attn_h.lepe."),
        (r"^(stages\.3\..*)\.attn_v\.", r"\1.attn."),
        (r"^norm\.", "head.norm."),
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
    ),
    "hornet": (
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
    ),
    "sret": (
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
    ),
    "repvit": (
        (r"\.(spatial|channel)_downsample\.", r".\1."),
        (r"^head\.head\.", "head.fc."),
        (r"^head\.head_dist\.", "head.dist."),
    ),
    "overlock": (
        (r"^stem\.0\.", "stem.conv_bn1."),
        (r"^stem\.1\.", "stem.conv_bn2."),
        (r"^stem\.2\.", "stem.conv_bn3."),
        (r"^stem\.3\.", "stem.conv_bn4."),
        (r"^downs\.0\.", "stages.1.down."),
        (r"^downs\.1\.", "stages.2.down."),
        (r"^downs\.2\.", "overview.down."),
        (r"^base\.3\.", "overview.blocks."),
        (r"^base\.(\d)\.", r"stages.\1.blocks."),
        (r"^(look\d)\.", r"\1.blocks."),
        (r"^high_level_proj\.", "overview.proj."),
        (r"^([xh]_proj)\.", r"look4.\1."),
        (r"\.(query|key|weight_proj)\.", r".cont_mix.\1."),
        (r"\.bias_table([12])$", r".cont_mix.rpb\1.table"),
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
        (r"^head_conv\.", "head.conv_bn."),
        (r"\.(conv_bn\d?|down|[xh]_proj|gate|query|key|dyn_proj)\.0\.", r".\1.c."),
        (r"\.(conv_bn\d?|down|[xh]_proj|gate|query|key|dyn_proj)\.1\.", r".\1.bn."),
    ),
}
"""timm's key to ours, by family: regular expressions, all applied in order."""


def _by_query(table: Tensor) -> Tensor:
    """[heads, rows, columns], by key minus query, to [rows * columns, heads], by query minus key."""
    return table.flip(-2, -1).flatten(-2).T


LAYOUTS: Mapping[str, tuple[tuple[str, Callable[[Tensor], Tensor]], ...]] = {
    "maxvit": ((r"relative_position_bias_table$", _by_query),),
}
"""Where timm stores the same numbers in another order: its key, and what makes the order ours."""


STATE_KEYS = Path(__file__).parent / "state_keys"


def listed(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a timm model's state dict, as they are written down."""
    out = {}
    for line in (STATE_KEYS / f"{model}.txt").read_text(encoding="utf-8").splitlines():
        name, _, shape = line.partition(" ")
        head, first, last, tail = re.fullmatch(r"([^{]*)(?:\{(\d+)\.\.(\d+)\})?(.*)", name).groups()  # type: ignore[union-attr]
        numbers = [""] if first is None else range(int(first), int(last) + 1)
        out |= {f"{head}{n}{tail}": tuple(map(int, shape.split("x"))) if shape else () for n in numbers}
    return out


class KeyMismatch(AssertionError):
    """Two state dicts that do not match one to one."""


def renamed(key: str, family: str) -> str:
    """Our weight path of timm's `key`."""
    for pattern, replacement in RENAMES[family]:
        key = re.sub(pattern, replacement, key)
    return key


def laid_out(key: str, tensor: Tensor, family: str) -> Tensor:
    """timm's tensor in our order."""
    for pattern, rearranged in LAYOUTS.get(family, ()):
        if re.search(pattern, key):
            tensor = rearranged(tensor)
    return tensor


def translate(state: Mapping[str, Tensor], like: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """timm's `state` under the keys and in the shapes of our state dict `like`.

    A linear layer and a 1x1 convolution hold the same numbers, so [out, in] and [out, in, 1, 1] match, and so do
    embeddings and scales with axes of size 1 before or after; no other difference of shape does. Raises KeyMismatch.
    """
    ours = {renamed(key, family): laid_out(key, tensor, family) for key, tensor in state.items()}
    faults = [f"two of timm's keys become one: {len(state)} -> {len(ours)}"] if len(ours) != len(state) else []
    faults += [f"ours has no {key}" for key in ours.keys() - like.keys()]
    faults += [f"timm has no {key}" for key in like.keys() - ours.keys()]
    for key in sorted(ours.keys() & like.keys()):
        if not _same_numbers(ours[key], like[key]):
            faults.append(f"{key}: timm {tuple(ours[key].shape)}, ours {tuple(like[key].shape)}")
    if faults:
        raise KeyMismatch("\n".join(sorted(faults)))
    return {key: ours[key].reshape(like[key].shape) for key in like}


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    shapes = {tuple(a.shape), tuple(b.shape)}
    return len(shapes) == 1 or any((*shape, 1, 1) in shapes or (1, *shape) in shapes for shape in shapes)
