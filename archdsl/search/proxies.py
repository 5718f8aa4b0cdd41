"""Turns an untrained module into one number that papers hold against accuracy after training: zero-cost proxies.

Emitted modules call activations, norms and attention as functions, so that hooks on layers see none of them:
what a proxy reads or replaces there, it intercepts. Each function takes a module that is its own to change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from archdsl.backends.running import still
from archdsl.cost import price
from archdsl.ir.graph import Graph
from archdsl.ops.attend import Attend
from archdsl.ops.base import Op, op_of
from archdsl.ops.conv import Conv
from archdsl.ops.linear import Linear
from archdsl.ops.local_mix import LocalMix
from archdsl.ops.local_scores import LocalScores
from archdsl.ops.mix import Mix
from archdsl.ops.scores import Scores
from archdsl.search.genome import stream

if TYPE_CHECKING:
    from torch import Tensor, nn

Function = Callable[..., "Tensor"]
Answer = Callable[[Function, Sequence[Any], Mapping[str, Any]], "Tensor"]
"""What a call of a torch function (itself, its arguments) gives instead."""
Labelled = tuple["Tensor", "Tensor"]
"""Images [B, C, H, W] and their classes [B]."""

IMAGES, NOISE = 0x494D47, 0x4E4F49
"""Purposes of random numbers."""
BATCH = 8
"""Images in a batch, for every proxy but NWOT, whose matrix has a row an image."""
CODED = 16

ACTIVATIONS = frozenset(("relu", "relu6", "gelu", "silu", "hardswish"))
NORMS = frozenset(("batch_norm", "layer_norm", "group_norm", "rms_norm"))
"""Names of torch's functions."""
PASSING = ACTIVATIONS | NORMS | {"square"}
"""What synflow takes for the identity. Squares belong to StarReLU (2210.13452): a power a layer would overflow."""
NORM_OPS = frozenset(("bn", "evonorm", "gn", "ln", "rms"))
LAYER_SCALE = 0.1
"""A weight that starts as a smaller number than this, the same everywhere, scales a branch down."""


class Inapplicable(Exception):
    """A module has nothing that the proxy reads."""


@dataclass(frozen=True)
class Subject:
    """A module, the graph it was emitted from, and the seed of all that is drawn for it."""

    graph: Graph
    module: nn.Module
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(int(d) for d in self.graph.inputs[0].type.dims)

    def images(self, count: int = BATCH, batch: int = 0) -> Tensor:
        """Noise: every number from the standard normal distribution."""
        import torch

        drawn = stream(self.seed, IMAGES, batch).standard_normal((count, *self.shape), np.float32)
        return torch.from_numpy(drawn)

    def labelled(self, batch: int = 0) -> Labelled:
        """Images with classes drawn at random."""
        import torch

        classes = self.graph.outputs[0].type.elements
        return self.images(BATCH, batch), torch.from_numpy(
            stream(self.seed, NOISE, batch).integers(0, classes, BATCH, dtype=np.int64)
        )


# -- what the proxies share ----------------------------------------------------------------------


def intercepted(answer: Answer) -> AbstractContextManager[object]:
    """A context in which `answer` stands between a module and torch's functions."""
    from torch.overrides import TorchFunctionMode

    class Interception(TorchFunctionMode):
        def __torch_function__(
            self, function: Function, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Tensor:
            return answer(function, args, kwargs or {})

    return Interception()


def layers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Names and weights of convolutions and linear layers, in order, a shared one once."""
    from torch import nn

    kinds = (nn.Linear, nn.Conv2d)
    return [(f"{name}.weight", m.weight) for name, m in module.named_modules() if isinstance(m, kinds)]


def balance(module: nn.Module, graph: Graph) -> None:
    """Sets norms' weights and layer scales to 1: as they start, some proxies would see nothing but the trunk."""
    import torch

    paths = [path for n in graph.weight_nodes() if op_of(n).name in NORM_OPS for role, path in n.params]
    scales = [p.path for p in graph.params.values() if p.init.startswith("constant(") and _small(p.init)]
    with torch.no_grad():
        for path in {*(p for p in paths if p.endswith("weight")), *scales}:
            module.get_parameter(path).fill_(1.0)


def _small(init: str) -> bool:
    return abs(float(init.removeprefix("constant(").removesuffix(")"))) < LAYER_SCALE


def redraw(module: nn.Module, draw: Callable[[Tensor], object]) -> None:
    """Draws the weights of convolutions and linear layers anew, biases being 0."""
    import torch
    from torch import nn

    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, (nn.Linear, nn.Conv2d)):
                draw(m.weight)
                if m.bias is not None:
                    m.bias.zero_()


def gradients(module: nn.Module, batch: Labelled) -> list[tuple[Tensor, Tensor]]:
    """Each layer's weight and the gradient of the cross-entropy by it, where the logits depend on it."""
    import torch
    from torch.nn.functional import cross_entropy

    images, classes = batch
    weights = [w for _, w in layers(module)]
    loss = cross_entropy(module(images).flatten(1), classes)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return [(w.detach(), g) for w, g in zip(weights, found, strict=True) if g is not None]


def total(parts: Iterable[Tensor]) -> float:
    """The sum of all elements, in double precision."""
    return math.fsum(part.double().sum().item() for part in parts)


# -- the proxies ---------------------------------------------------------------------------------


def nwot(module: nn.Module, images: Tensor) -> float:
    """The log-determinant of how alike images switch activations on and off (2006.04647).

    Activations that are not ReLU count as switched on where what they are given is positive. Those that do not
    depend on the image (a network that makes position biases) are left out.
    """
    import torch

    count = len(images)
    alike = torch.zeros(count, count, dtype=torch.float64)
    seen = False

    def read(function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        nonlocal seen
        if function.__name__ in ACTIVATIONS and args[0].requires_grad:
            on = (args[0].detach() > 0).reshape(count, -1).float()
            alike.add_(on @ on.T + (1 - on) @ (1 - on).T)
            seen = True
        return function(*args, **kwargs)

    module.requires_grad_(False)
    # Only what depends on the image requires a gradient; as none is computed, nothing need be kept for it.
    keep_nothing = torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0))
    with intercepted(read), keep_nothing:
        module(images.clone().requires_grad_())
    if not seen:
        raise Inapplicable("no activation depends on the image")
    return float(torch.linalg.slogdet(alike).logabsdet)


def grad_norm(module: nn.Module, batch: Labelled) -> float:
    """The sum over layers of the norm of the weight's gradient, for one batch (2101.08134)."""
    return total(g.norm() for _, g in gradients(module, batch))


def snip(module: nn.Module, batch: Labelled) -> float:
    """The sum over weights of |weight * gradient|, for one batch (1810.02340, summed as in 2101.08134)."""
    return total((w * g).abs() for w, g in gradients(module, batch))


def zico(module: nn.Module, batches: Sequence[Labelled]) -> float:
    """The sum over layers of log sum of mean / deviation of |gradient| over batches (2301.11300)."""
    import torch

    by_batch = [[g.abs() for _, g in gradients(module, batch)] for batch in batches]
    out = 0.0
    for grads in zip(*by_batch, strict=True):
        stacked = torch.stack(grads).double()
        mean, deviation = stacked.mean(0), stacked.std(0, correction=0)
        moving = deviation > 0
        if moving.any():
            out += math.log((mean[moving] / deviation[moving]).sum().item())
    return out


def synflow(module: nn.Module, shape: Sequence[int]) -> float:
    """The logarithm of the flow through all paths: sum of |weight| * gradient for an image of ones (2006.05467).

    Weights count by magnitude, activations and norms pass on what they are given (the flow is positive), and
    softmax is uniform, as for equal scores, so that queries and keys carry no flow.
    """
    import torch

    def linear(function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        name = function.__name__
        if name in PASSING:
            passed: Tensor = args[0]
            return passed
        if name == "softmax":
            return torch.full_like(args[0], 1 / args[0].shape[kwargs["dim"] if "dim" in kwargs else args[1]])
        if name == "scaled_dot_product_attention":
            q, _, v = args[:3]
            mean: Tensor = v.mean(-2, keepdim=True)
            return mean.expand(*mean.shape[:-2], q.shape[-2], -1)
        return function(*args, **kwargs)

    flow = _flow(module, shape, linear)
    if not flow:
        raise Inapplicable("no convolution or linear layer reaches the output")
    out = total((w * g).abs() for _, w, g in flow)
    return math.log(out) if out != 0 else -math.inf


def dss(module: nn.Module, shape: Sequence[int], attention: frozenset[str]) -> float:
    """Diversity of attention and saliency of the rest, for an image of ones (2203.12217).

    The weights named in `attention` count by the product of their and their gradient's nuclear norms, the others
    by |weight * gradient|. Weights are taken by magnitude; all else computes as it does.
    """
    import torch

    def nuclear(x: Tensor) -> Tensor:
        values: Tensor = torch.linalg.svdvals(x.flatten(1))
        return values.sum()

    flow = _flow(module, shape, lambda function, args, kwargs: function(*args, **kwargs))
    return total(nuclear(w) * nuclear(g) if name in attention else (w * g).abs() for name, w, g in flow)


def _flow(module: nn.Module, shape: Sequence[int], answer: Answer) -> list[tuple[str, Tensor, Tensor]]:
    """Each layer's name, its |weight| and the gradient by it of the summed output for an image of ones."""
    import torch

    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.abs_()
    named = layers(module)
    with intercepted(answer):
        out = module(torch.ones(1, *shape, dtype=torch.float64)).sum()
    found = torch.autograd.grad(out, [w for _, w in named], allow_unused=True)
    return [(name, w.detach(), g) for (name, w), g in zip(named, found, strict=True) if g is not None]


def zen(features: Function, images: Tensor, noise: Tensor, step: float = 0.01) -> float:
    """How far features move when images do, with what norms take away of it put back (2102.01063).

    log of the mean |f(x) - f(x + step * noise)|, plus of every norm log sqrt(mean variance) of what it divides.
    """
    import torch

    logs: list[float] = []

    def read(function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        if function.__name__ in NORMS:
            logs.append(0.5 * math.log(_divided(function.__name__, args).item()))
        return function(*args, **kwargs)

    with torch.no_grad():
        with intercepted(read):
            before = features(images)
        after = features(images + step * noise)
    moved = (after.double() - before.double()).flatten(1).norm(dim=1).mean().item()
    return (math.log(moved) if moved > 0 else -math.inf) + math.fsum(logs)


def _divided(norm: str, args: Sequence[Any]) -> Tensor:
    """The mean of the variances (mean squares, for rms) by whose roots a norm divides."""
    x: Tensor = args[0].double()
    if norm == "batch_norm":
        variance = x.transpose(0, 1).flatten(1).var(1, correction=0)
    elif norm == "group_norm":
        variance = x.reshape(len(x), args[1], -1).var(2, correction=0)
    else:
        x = x.flatten(-len(args[1]))
        variance = x.var(-1, correction=0) if norm == "layer_norm" else x.square().mean(-1)
    return variance.mean()


# -- AZ-NAS --------------------------------------------------------------------------------------


def block_results(module: nn.Module, blocks: Sequence[str], images: Tensor) -> list[Tensor]:
    """What the blocks named by their paths give, as [B, positions..., C]; of several results the first."""
    found: list[Tensor] = []

    def keep(block: nn.Module, given: object, result: Tensor | tuple[Tensor, ...]) -> object:
        x, *others = result if isinstance(result, tuple) else (result,)
        first = channels_first(x, images.shape)
        found.append(x.permute(0, 2, 3, 1) if first else x)
        passed = found[-1].permute(0, 3, 1, 2) if first else x  # so that gradients come by what is kept
        return (passed, *others) if isinstance(result, tuple) else passed

    hooks = [module.get_submodule(path).register_forward_hook(keep) for path in blocks]
    module(images)
    for hook in hooks:
        hook.remove()
    return found


def channels_first(x: Tensor, image: Sequence[int]) -> bool:
    """Whether x is [B, C, H, W]: told by the image's aspect and, where that says nothing, by the order in memory."""
    if x.dim() != 4:
        return False
    height, width = image[-2:]
    first, last = (x.shape[i] * width == x.shape[i + 1] * height for i in (2, 1))
    return first if first != last else x.stride(1) == 1


def entropies(results: Sequence[Tensor]) -> list[float]:
    """Of each block: the entropy of its features' variances along their principal directions (2403.19232)."""
    import torch

    out = []
    for result in results:
        x = result.detach().double().flatten(0, -2)
        x = x - x.mean(0)
        variances = torch.linalg.eigvalsh(x.T @ x / len(x)).clamp_min(0)
        shares = variances / variances.sum()
        out.append(torch.special.entr(shares).sum().item())
    return out


def expressivity(results: Sequence[Tensor]) -> float:
    """AZ-NAS: the sum of the blocks' entropies."""
    return math.fsum(entropies(results))


def progressivity(results: Sequence[Tensor]) -> float:
    """AZ-NAS: the least growth of entropy from one block to the next."""
    found = entropies(results)
    if len(found) < 2:
        raise Inapplicable("fewer than two blocks")
    return min(b - a for a, b in pairwise(found))


def trainability(results: Sequence[Tensor], rng: np.random.Generator) -> float:
    """AZ-NAS: the mean over blocks of 2 - s - 1 / s, s being the spectral norm of a block's approximate Jacobian.

    That is the mean over positions of (gradient at the block before) x (random signs at the block). Blocks that do
    not depend on the block before, or whose positions do not map onto its, are left out.
    """
    import torch

    out = []
    for before, after in pairwise(results):
        signs = torch.from_numpy(rng.integers(0, 2, tuple(after.shape)).astype(np.float32) * 2 - 1)
        (back,) = torch.autograd.grad(after, before, signs, retain_graph=True, allow_unused=True)
        if back is None:
            continue
        rows, columns = (x.flatten(0, -2).double() for x in (_folded(back, after.shape), signs))
        if len(rows) == len(columns):
            norm = torch.linalg.matrix_norm(rows.T @ columns / len(rows), 2).item()
            out.append(2 - norm - 1 / norm if norm > 0 else -math.inf)
    if not out:
        raise Inapplicable("no block depends on the block before it, position by position")
    return math.fsum(out) / len(out)


def _folded(x: Tensor, wanted: Sequence[int]) -> Tensor:
    """A map whose cells are put into channels until it has the height and width wanted, where these divide its own."""
    if x.dim() != 4 or len(wanted) != 4 or x.shape[1] % wanted[1] or x.shape[2] % wanted[2]:
        return x
    (height, width), (down, right) = wanted[1:3], (x.shape[1] // wanted[1], x.shape[2] // wanted[2])
    cells = x.reshape(len(x), height, down, width, right, x.shape[3])
    return cells.permute(0, 1, 3, 2, 4, 5).flatten(3)


def az_nas(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """AZ-NAS's score of every candidate of a set, from its components [candidates, 4]: the sum of log(rank / count).

    Of equal values each has their mean rank. A candidate with a component that is not a number gets none.
    """
    out = np.full(len(components), np.nan)
    known = ~np.isnan(components).any(1)
    rows = components[known]
    below = (rows[:, None, :] > rows[None, :, :]).sum(1)
    equal = (rows[:, None, :] == rows[None, :, :]).sum(1)
    out[known] = np.log((below + (equal + 1) / 2) / max(len(rows), 1)).sum(1)
    return out


# -- the proxies of a graph ----------------------------------------------------------------------

QUERIES: Mapping[type[Op], tuple[int, ...]] = {
    Attend: (0, 1, 2),
    Scores: (0, 1),
    Mix: (1,),
    LocalScores: (0, 1),
    LocalMix: (1,),
}
"""Operands of attention that are queries, keys or values."""


def attention_weights(graph: Graph) -> frozenset[str]:
    """Paths of the weights that make queries, keys and values, and of those next after attention."""
    found: set[str] = set()
    seen: set[tuple[str, bool]] = set()

    def walk(path: str, back: bool) -> None:
        if (path, back) in seen:
            return
        seen.add((path, back))
        node = graph.node(path)
        if isinstance(op_of(node), (Linear, Conv)):
            found.update(p for role, p in node.params if role == "weight")
        elif back:
            for value in graph.operands(node):
                if value is not None:
                    walk(value.node, back)
        else:
            for value in node.values:
                for user, _ in graph.users(value):
                    walk(user.path, back)

    for node in graph.nodes():
        slots = QUERIES.get(type(op_of(node)), ())
        operands = graph.operands(node)
        for slot in slots:
            value = operands[slot]
            if value is not None:
                walk(value.node, True)
        if slots and not isinstance(op_of(node), (Scores, LocalScores)):
            for value in node.values:
                for user, _ in graph.users(value):
                    walk(user.path, False)
    return frozenset(found)


def block_paths(graph: Graph) -> list[str]:
    """Weight paths of the blocks, in order; of the stages where there are no blocks."""
    for kind in ("blocks", "stage"):
        paths = [r.module for r in graph.regions if r.kind == kind]
        if paths:
            return paths
    raise Inapplicable("the arch has neither blocks nor stages")


def _trained(subject: Subject) -> nn.Module:
    """The module as it trains, without what is random."""
    still(subject.module)
    balance(subject.module, subject.graph)
    return subject.module.train()


def _kaiming(subject: Subject) -> list[Tensor]:
    """What the blocks of the module give after AZ-NAS's initialisation."""
    from torch import nn

    module = _trained(subject)
    redraw(module, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"))
    return block_results(module, block_paths(subject.graph), subject.images())


def _zen(subject: Subject) -> float:
    import torch
    from torch import nn

    module = _trained(subject)
    redraw(module, nn.init.normal_)
    images = subject.images()
    noise = stream(subject.seed, NOISE, 0).standard_normal(tuple(images.shape), np.float32)
    features: Function = module.forward_features  # type: ignore[assignment]
    return zen(features, images, torch.from_numpy(noise))


def _dss(subject: Subject) -> float:
    return dss(_trained(subject), subject.shape, attention_weights(subject.graph))


PROXIES: Mapping[str, Callable[[Subject], float]] = {
    "nwot": lambda s: nwot(_trained(s), s.images(CODED)),
    "grad-norm": lambda s: grad_norm(_trained(s), s.labelled()),
    "snip": lambda s: snip(_trained(s), s.labelled()),
    "zico": lambda s: zico(_trained(s), [s.labelled(0), s.labelled(1)]),
    "synflow": lambda s: synflow(_trained(s), s.shape),
    "dss": _dss,
    "zen": _zen,
    "az-expressivity": lambda s: expressivity(_kaiming(s)),
    "az-progressivity": lambda s: progressivity(_kaiming(s)),
    "az-trainability": lambda s: trainability(_kaiming(s), stream(s.seed, NOISE, 0)),
    "az-complexity": lambda s: float(price(s.graph).total.macs),
}
"""Every proxy by name; more is better, papers say, of each."""
