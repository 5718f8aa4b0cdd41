"""Turns a model and a way to run it into a step that can be timed: of timm's modules and of emitted ones."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archdsl.api import Artefact, compile_spec
from archdsl.passes.fuse import ALL, PLANNED, Fuse
from archdsl.passes.pipeline import level, with_kernels
from tests.oracle.compare import images, randomise
from tests.oracle.links import link
from tests.oracle.twins import TWINS

Step = Callable[[Tensor], Tensor]
"""Logits of images, or the loss of a step of training."""

DROP_PATH = 0.1
INFERENCE, TRAIN = "inference", "train"
BF16, AMP = "bf16", "amp"
CHECKED = 4
"""Images whose results are compared with float64."""
FUSED: Mapping[str, tuple[bool, bool]] = {"": (True, False), "SDPA": (True, True), "no SDPA": (False, False)}
"""Which of timm's models attend by PyTorch's fused kernel: those that timm has do so, all that can, none."""
FLEX = "FlexAttention"
GRAPHS = "max-autotune"
"""torch.compile's mode that replays CUDA graphs of its own."""


@dataclass(frozen=True)
class Place:
    """Where steps run: on a GPU, or on a CPU, which shows that everything works and measures nothing of interest."""

    device: torch.device

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], None]) -> float:
        """Of the GPU, which has nothing else to do, between the beginning and the end of `run`."""
        if not self.gpu:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        run()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1000


@dataclass(frozen=True)
class Cell:
    """What all ways are measured at. `bf16` has weights of that type, `amp` float32's under autocast to it."""

    model: str
    dtype: str
    batch: int
    what: str

    @property
    def name(self) -> str:
        return f"{self.dtype}/{self.batch}/{self.what}"

    @property
    def key(self) -> str:
        return f"{self.model}/{self.name}"

    @property
    def trains(self) -> bool:
        return self.what == TRAIN


@dataclass(frozen=True)
class Way:
    """`mode` is torch.compile's, "" where nothing is compiled; `graph` replays the step as one CUDA graph."""

    name: str
    ours: bool = False
    attention: str = ""
    channels_last: bool = False
    kernels: str = ""
    mode: str = ""
    graph: bool = False

    def exists(self, subject: Subject) -> bool:
        """Whether this is another way than timm's usual one: not every model attends, or can attend differently."""
        if self.attention == FLEX:
            return any(subject.attends["SDPA"])
        return not self.attention or subject.attends[self.attention] != subject.attends[""]


WAYS = (
    Way("timm"),
    Way("timm, channels last", channels_last=True),
    Way("timm, SDPA", attention="SDPA"),
    Way("timm, no SDPA", attention="no SDPA"),
    Way("timm, compiled", mode="default"),
    Way("timm, SDPA, compiled", attention="SDPA", mode="default"),
    Way("timm, no SDPA, compiled", attention="no SDPA", mode="default"),
    Way("timm, FlexAttention, compiled", attention=FLEX, mode="default"),
    Way("emitted", ours=True),
    Way("emitted, compiled", ours=True, mode="default"),
    Way("kernels", ours=True, kernels=PLANNED),
    Way("kernels, compiled", ours=True, kernels=PLANNED, mode="default"),
    Way("kernels, graph", ours=True, kernels=PLANNED, graph=True),
    Way("all kernels", ours=True, kernels=ALL),
    Way("timm, max-autotune", mode="max-autotune-no-cudagraphs"),
    Way("timm, max-autotune, graphs", mode=GRAPHS),
)
"""In the order in which they are begun: those that take longest to compile last."""


@dataclass(frozen=True)
class Subject:
    """A cell's model. `overrides` are parameters of the spec, and `device` the one kernels are planned for."""

    cell: Cell
    place: Place
    overrides: Mapping[str, object] = field(default_factory=dict)
    device: str = "h200"

    @property
    def size(self) -> tuple[int, int]:
        return TWINS[self.cell.model].size

    @cached_property
    def artefacts(self) -> dict[str, Artefact]:
        """What is emitted by -O2, and with kernels as planned and with all of them."""
        usual = level(2)
        plans = {
            "": usual,
            **{
                rules: with_kernels(usual, Fuse(rules, device=self.device, batch=self.cell.batch))
                for rules in (PLANNED, ALL)
            },
        }
        overrides = {"dpr": DROP_PATH, **self.overrides}
        return {
            name: compile_spec(self.cell.model, input=(3, *self.size), overrides=overrides, passes=passes)
            for name, passes in plans.items()
        }

    @cached_property
    def code(self) -> str:
        """A digest of everything that was emitted."""
        files = [f"{name}\0{text}" for a in self.artefacts.values() for name, text in sorted(a.files.items())]
        return hashlib.sha256("\0".join(files).encode()).hexdigest()[:12]

    def timms(self, attention: str) -> nn.Module:
        """timm's model that attends in one of FUSED's ways."""
        from timm.layers import set_fused_attn

        set_fused_attn(*FUSED[attention])
        model = TWINS[self.cell.model].build(self.size, drop_path_rate=DROP_PATH, **self.overrides)
        set_fused_attn(*FUSED[""])
        return model.eval()

    @cached_property
    def reference(self) -> nn.Module:
        """timm's model whose weights every other has, in float32: of all values of the cell's type."""
        model = self.timms("")
        randomise(model, gain=TWINS[self.cell.model].gain)
        if self.cell.dtype == BF16:
            with torch.no_grad():
                for tensor in (t for t in model.state_dict().values() if t.is_floating_point()):
                    tensor.copy_(tensor.bfloat16())
        return model

    @cached_property
    def attends(self) -> dict[str, list[bool]]:
        """Which of timm's attentions are fused, in order, by FUSED's ways."""
        return {
            name: [bool(m.fused_attn) for m in self.timms(name).modules() if hasattr(m, "fused_attn")] for name in FUSED
        }

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The reference's under our names, which are the same with kernels."""
        links = link(self.artefacts[""].graph, self.reference, self.size, TWINS[self.cell.model].renames)
        return links.translate(self.reference.state_dict())

    def module(self, way: Way) -> nn.Module:
        """In eval mode, where and in the type it is to run in."""
        if way.ours:
            model = self.artefacts[way.kernels].module()
            model.load_state_dict(self.weights)
        else:
            model = self.timms("SDPA" if way.attention == FLEX else way.attention)
            model.load_state_dict(self.reference.state_dict())
        model = model.to(self.place.device, torch.bfloat16 if self.cell.dtype == BF16 else torch.float32)
        model = model.eval()
        return model.to(memory_format=torch.channels_last) if way.channels_last else model

    def inputs(self, count: int = 3) -> list[Tensor]:
        """Batches of random images, in turn given to every step."""
        dtype = torch.bfloat16 if self.cell.dtype == BF16 else torch.float32
        return [images(self.cell.batch, self.size, seed=1 + n).to(self.place.device, dtype) for n in range(count)]

    def autocast(self, cached: bool = True) -> torch.autocast:
        return torch.autocast(
            self.place.device.type, torch.bfloat16, enabled=self.cell.dtype == AMP, cache_enabled=cached
        )

    def step(self, way: Way, model: nn.Module, images: Tensor) -> Step:
        """The step of a way, at images of that shape."""
        called: Callable[[Tensor], Tensor] = model
        if way.mode and self.place.gpu:
            called = torch.compile(model, mode=way.mode, dynamic=False)
        elif way.mode:  # what Inductor makes of a step for CPUs would take minutes and say nothing of GPUs
            called = torch.compile(model, backend="eager", dynamic=False)
        step = self._training(way, model, called) if self.cell.trains else self._inference(way, called)
        if way.attention == FLEX:
            step = _flexible(step)
        if way.graph and self.place.gpu:
            return captured(step, images)
        return _marked(step) if way.mode == GRAPHS else step

    def _inference(self, way: Way, called: Callable[[Tensor], Tensor]) -> Step:
        def step(x: Tensor) -> Tensor:
            with torch.inference_mode(), self.autocast(not way.graph):
                return called(x)

        return step

    def _training(self, way: Way, model: nn.Module, called: Callable[[Tensor], Tensor]) -> Step:
        model.train()
        labels = torch.randint(0, 1000, (self.cell.batch,), generator=torch.Generator().manual_seed(0))
        labels = labels.to(self.place.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True, capturable=way.graph and self.place.gpu)

        def step(x: Tensor) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            with self.autocast(not way.graph):
                loss = F.cross_entropy(called(x), labels)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    def sensitivity(self, model: nn.Module, images: Tensor, way: Way | None = None) -> Tensor:
        """The gradient of a functional of the logits for the first images, in eval mode, nothing compiled."""
        x = images[:CHECKED].detach().clone().requires_grad_()

        def step(x: Tensor) -> Tensor:
            with self.autocast() if way is not None else contextlib.nullcontext():
                return model(x)

        logits = (_flexible(step) if way is not None and way.attention == FLEX else step)(x)
        functional = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(logits)
        (gradient,) = torch.autograd.grad((logits * functional).sum(), x)
        return gradient

    def exact(self, images: Tensor) -> Tensor:
        """What the first images give in float64: logits, or their gradient where the cell trains."""
        model = copy.deepcopy(self.reference).to(self.place.device, torch.float64)
        x = images[:CHECKED].double()
        if self.cell.trains:
            return self.sensitivity(model, x)
        with torch.inference_mode():
            return model(x)


def captured(step: Step, images: Tensor) -> Step:
    """A step as one CUDA graph, which takes its images by a copy, as compiled steps with graphs do.

    The peak of memory is from then on that of the graph.
    """
    held = images.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with torch.cuda.graph(graph):
        result = step(held)

    def replay(x: Tensor) -> Tensor:
        held.copy_(x)
        graph.replay()
        return result

    return replay


def flex(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **more: object
) -> Tensor:
    """PyTorch's fused attention by FlexAttention: what is added to the scores is read where it lies."""
    from torch.nn.attention.flex_attention import flex_attention

    if attn_mask is None:
        return flex_attention(q, k, v)
    bias = attn_mask.reshape(-1, *attn_mask.shape[-3:])
    batches, heads = bias.shape[:2]

    def added(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + bias[b % batches, h % heads, i, j]

    return flex_attention(q, k, v, score_mod=added)


def _marked(step: Step) -> Step:
    """A step before which compiled graphs are told that what they gave is not needed any more."""

    def marked(x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return step(x)

    return marked


def _flexible(step: Step) -> Step:
    """A step in which `flex` is PyTorch's fused attention."""

    def patched(x: Tensor) -> Tensor:
        with _patched():
            return step(x)

    return patched


@contextlib.contextmanager
def _patched() -> Iterator[None]:
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = flex  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before
