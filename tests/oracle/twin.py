"""Turns a spec's name into an independent implementation of the same architecture, most of them timm's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from archdsl.api import Artefact, compile_spec
from tests.oracle.compare import randomise
from tests.oracle.links import Links, Renames, link

Size = tuple[int, int]
Overrides = Mapping[str, object]


class Build(Protocol):
    """Makes a freshly initialised reference for images of a size from the spec's own parameters.

    `drop_path_rate` and `classes` are among these parameters.
    """

    def __call__(self, size: Size, /, **parameters: object) -> nn.Module: ...


@dataclass(frozen=True)
class Pair:
    """Our module and the reference, with the same weights, and what links their tensors."""

    ours: nn.Module
    theirs: nn.Module
    links: Links


@dataclass(frozen=True)
class Twin:
    """The reference of one spec.

    `source` is what it is, in words. `tiny` are parameters of the spec that make it small and shallow. `sizes` are
    inputs (height, width) other than `size` at which the module built for `size` must agree as well: one leaves
    windows ragged or strides inexact, one is not square. `rebuild` are sizes at which the parameter `bound` has
    another shape, so that only a module built for them may accept them. `vanishing` finds the parameters whose
    gradient is zero in exact arithmetic, `vanishing_in_training` those in training mode.
    """

    spec: str
    source: str
    build: Build
    tiny: Overrides
    size: Size = (224, 224)
    sizes: tuple[Size, ...] = ()
    rebuild: tuple[Size, ...] = ()
    bound: str = ""
    vanishing: str = ""
    vanishing_in_training: str = ""
    rounding: float = 1e-6
    """The relative float32 error allowed beyond four times the reference's."""
    gain: float = 1.0
    """Of layers' weights, where a deep network without shortcuts would let nothing of the image through."""
    renames: Renames = ()
    """Their keys to our paths, where no shipped table, name or structure decides."""
    settled: Overrides = field(default_factory=dict)
    """What makes a model that draws permutations compute the same twice."""
    drops: bool = True
    """Whether it drops paths: our parameter is `dpr`, theirs `drop_path_rate`."""
    variant: bool = False
    """Another size of an architecture that is compared already: everything is marked `full`."""
    whole: bool = False
    """Compared at its full depth in every run."""
    large: bool = False
    """Of hundreds of millions of weights, or of gigabytes of maps: counted, linked, its drop paths compared, but never
    run at its full depth."""
    slow: bool = False
    """Takes seconds even where nothing is computed, so that the whole model is asked in full runs only."""
    small: Size = (96, 64)
    """Of the images that it is trained on in tests; square where the reference takes no others."""
    interface: bool = True
    """Whether the reference has timm's interface with the stages that ours has."""
    tokens: bool = False
    """Whether the unpooled features are a sequence of tokens."""
    stem_is_a_feature: bool = False
    """Where timm counts the stem's result among the features, which come from stages here."""
    reduction: int = 32
    """By how much the last map is smaller than the image."""
    taught: Build | None = None
    """The reference with all results of training, where there are several. Ours has them where built for training."""
    teaching: Overrides = field(default_factory=dict)
    """The parameters of the spec, besides `tiny`, with which it has them."""

    def compile(self, size: Size | None = None, mode: str = "eval", **parameters: object) -> Artefact:
        """Ours, built for images of that size, drop-path off."""
        rate = {"dpr": 0.0} if self.drops else {}
        return compile_spec(self.spec, input=(3, *(size or self.size)), mode=mode, overrides={**rate, **parameters})

    def pair(self, size: Size | None = None, built: Size | None = None, **parameters: object) -> Pair:
        """Ours built for `built` and the reference for `size`, with the same random weights, in eval mode."""
        size = size or self.size
        theirs = self.build(size, **({"drop_path_rate": 0.0} if self.drops else {}), **parameters)
        randomise(theirs, gain=self.gain)
        return self.beside(theirs, size, built, **parameters)

    def pupils(self, size: Size) -> Pair:
        """Small models of ours and of the reference with all results of training, otherwise as `pair`'s."""
        assert self.taught is not None
        parameters = {**self.tiny, **self.teaching}
        theirs = self.taught(size, **({"drop_path_rate": 0.0} if self.drops else {}), **parameters)
        randomise(theirs, gain=self.gain)
        return self.beside(theirs, size, mode="train", **parameters)

    def beside(
        self, theirs: nn.Module, size: Size, built: Size | None = None, mode: str = "eval", **parameters: object
    ) -> Pair:
        """Ours with the weights of `theirs`, which was built for `size` with those parameters."""
        artefact = self.compile(built or size, mode=mode, **parameters)
        ours = artefact.module()
        links = link(artefact.graph, theirs, size, self.renames)
        ours.load_state_dict(links.translate(theirs.state_dict()))
        return Pair(ours.eval(), theirs.eval(), links)


def timm_build(
    name: str,
    names: Mapping[str, str] | None = None,
    *,
    sized: bool = False,
    make: Callable[..., nn.Module] | None = None,
    **fixed: object,
) -> Build:
    """timm's model. `names` are timm's names of the spec's parameters, where they differ.

    `sized` where timm's weights or masks depend on the size. `make` makes a model of other depths or widths than the
    named one where timm's entry point refuses to.
    """
    known = {"classes": "num_classes", **(names or {})}

    def build(size: Size, /, **parameters: object) -> nn.Module:
        import timm

        given = {known.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
        if sized:
            given["img_size"] = size
        if make is not None and parameters.keys() - {"classes", "drop_path_rate"}:
            return make(**{**fixed, **given})
        model: nn.Module = timm.create_model(name, **{**fixed, **given})
        return model

    return build


def distilled(build: Build) -> Build:
    """timm's model which gives the logits of both of its classifiers in training."""

    def taught(size: Size, /, **parameters: object) -> nn.Module:
        model = build(size, **parameters)
        model.set_distilled_training()  # type: ignore[operator]
        return model

    return taught


def timm_twin(
    spec: str,
    name: str,
    tiny: Overrides,
    names: Mapping[str, str] | None = None,
    *,
    sized: bool = False,
    make: Callable[..., nn.Module] | None = None,
    fixed: Mapping[str, object] | None = None,
    **more: object,
) -> Twin:
    """A twin that is timm's model `name`, made as `timm_build` says."""
    build = timm_build(name, names, sized=sized, make=make, **(fixed or {}))
    return Twin(spec, f"timm's `{name}`", build, tiny, **more)  # type: ignore[arg-type]


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
