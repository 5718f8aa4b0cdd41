"""EfficientFormer (2206.01191)."""

from __future__ import annotations

from torch import Tensor, nn

from tests.oracle.twin import Build, Size, Twin, distilled, timm_build


def _build(name: str) -> Build:
    plain = timm_build(name, {"dims": "embed_dims"})

    def build(size: Size, /, **parameters: object) -> nn.Module:
        """timm's model, but for two things that are no part of the architecture.

        Its indices into tables are saved as if they were learnt. And torch's batch norm takes the gradient of a
        single sample whose channels come last, as flattening leaves it, for one whose channels come first.
        """
        model = plain(size, **parameters)
        for module in model.modules():
            if hasattr(module, "attention_bias_idxs"):
                module._non_persistent_buffers_set.add("attention_bias_idxs")
            if type(module).__name__ == "Flat":
                module.register_forward_pre_hook(_channels_first_gradient)
        return model

    return build


def _channels_first_gradient(module: nn.Module, inputs: tuple[Tensor]) -> None:
    if inputs[0].requires_grad:
        inputs[0].register_hook(Tensor.contiguous)


def _taught(name: str) -> Build:
    plain = distilled(_build(name))

    def build(size: Size, /, distill: bool = True, **parameters: object) -> nn.Module:
        assert distill  # timm's always has both classifiers
        return plain(size, **parameters)

    return build


def _twin(size: str, variant: bool = False) -> Twin:
    name = f"efficientformer_{size}"
    return Twin(
        name,
        f"timm's `{name}`",
        _build(name),
        {"dims": [16, 24, 32, 48], "depths": [1, 1, 1, 4]},
        sizes=((200, 216),),  # maps of 50x54, 25x27 and 13x14; the last is 7x7, all that timm's tables take
        small=(193, 200),
        vanishing_in_training=r"\.conv\.bias$|blocks\.\d+\.mlp\.fc\d\.bias$",  # a batch norm takes them away again
        variant=variant,
        taught=_taught(name),
        teaching={"distill": True},
    )


TWINS = (_twin("l1"), _twin("l3", variant=True), _twin("l7", variant=True))
