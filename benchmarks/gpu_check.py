"""Turns models with every kernel there is into errors against float64, beside those of the modules without kernels.

    python -m benchmarks.gpu --check [--tiny] [--models MODEL ...]

Logits in eval mode, and gradients of every parameter and of the images in training mode, nothing dropped. Memory that
is allocated and not written holds NaN, and every step with kernels is run twice, for a race to show. Where all kernels
together are wrong, each rule is checked by itself. `--tiny` is short enough to run under
`compute-sanitizer --tool memcheck`.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from archdsl.api import Artefact, compile_spec
from archdsl.backends.load import import_files
from archdsl.backends.running import still
from archdsl.passes.fuse import ALL, Fuse
from archdsl.passes.fusions import RULES
from archdsl.passes.pipeline import level, with_kernels
from benchmarks.gpu_ways import Place
from benchmarks.report import RESULTS
from tests.oracle.compare import images, randomise
from tests.oracle.twins import TWINS

CHECK = RESULTS / "gpu_check.json"
MODELS = ("swin_t", "convnext_t", "poolformer_s12", "maxvit_t", "swinv2_t", "davit_t")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TIMES = 2.0
"""How many times the error without kernels theirs may be."""
WORST = 4.0
"""As `TIMES`, of a single parameter's gradient, whose error is luck to some extent."""
FLOOR = 1e-3
"""Of the largest gradient: smaller ones count as if they were that large, for what is nearly zero is rounding."""
ATTENTION = "attention alone"


@dataclass(frozen=True)
class Finding:
    """Relative errors of a model in a type, with kernels and without.

    `gradients` is the root of the mean square over parameters. `worst` is the parameter whose gradient's error is most
    times the one without kernels, `times` how many. `moved` is how far the logits and gradients of two runs of the
    same step were apart. `wrong` says what is too much, or what was raised.
    """

    model: str
    rules: str
    dtype: str
    kernels: Sequence[str] = ()
    logits: float = math.nan
    plain_logits: float = math.nan
    gradients: float = math.nan
    plain_gradients: float = math.nan
    worst: str = ""
    times: float = math.nan
    moved: float = math.nan
    wrong: str = ""


@dataclass(frozen=True)
class Run:
    """Logits in eval mode, and gradients by parameter in training mode, in float64."""

    logits: Tensor
    gradients: Mapping[str, Tensor]


def check(place: Place, models: Sequence[str] | None, path: Path | None, tiny: bool, budget: float) -> int:
    """Prints a row a model and type, and writes all. 1 where anything is wrong."""
    from benchmarks.gpu import hardware, state, versions, write

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    started, path, asked = time.monotonic(), path or CHECK, models or MODELS
    facts = {"hardware": hardware(place), "versions": versions(), "tiny": tiny}
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = {name: known.get(name) for name in facts} == facts
    found = [Finding(**f) for f in known.get("findings", ()) if same and f["model"] not in asked]
    before = len(found)
    print("| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS), flush=True)
    for model in asked:
        if time.monotonic() - started > budget:
            print(f"{model}: not begun, the budget is spent", flush=True)
            continue
        for one in findings(place, model, tiny):
            print(_row(one), flush=True)
            found.append(one)
            write({"suite": "gpu_check", **facts, "state": state(place), "findings": [asdict(f) for f in found]}, path)
            if one.wrong and not answers(place):
                print("The GPU does not answer any more; what is left has to be checked in a new process.", flush=True)
                return 1
    return int(any(one.wrong for one in found[before:]))


def answers(place: Place) -> bool:
    """Whether the GPU can still be used in this process, which a kernel that reads beside its memory ends."""
    try:
        place.wait()
    except RuntimeError:
        return False
    return True


def findings(place: Place, model: str, tiny: bool) -> Iterator[Finding]:
    """Of all kernels together in every type; of each rule's alone where these are wrong."""
    for dtype in DTYPES:
        together = finding(place, model, ALL, dtype, tiny)
        yield together
        if together.wrong:
            alone = (ATTENTION, *(rule.name for rule in RULES if rule.generated))
            yield from (one for one in (finding(place, model, rules, dtype, tiny) for rules in alone) if one.kernels)


def finding(place: Place, model: str, rules: str, dtype: str, tiny: bool) -> Finding:
    """Whatever a kernel raises is a finding. Without kernels nothing is run."""
    found = Finding(model, rules, dtype)
    try:
        plain, fused = artefact(place, model, "", tiny), artefact(place, model, rules, tiny)
        found = replace(found, kernels=re.findall(r'\bruns\("(\w+)"', fused.files.get("fused.py", "")))
        return compared(place, plain, fused, found, 2 if tiny else 8) if found.kernels else found
    except Exception as e:
        lines = str(e).strip().splitlines() or [""]
        return replace(found, wrong=f"{type(e).__name__}: {lines[0]}"[:200])


def artefact(place: Place, model: str, rules: str, tiny: bool) -> Artefact:
    """What is emitted with the kernels of some rules, or with none."""
    passes = level(1)
    if rules == ATTENTION:
        passes = tuple(p for p in with_kernels(passes, Fuse()) if not isinstance(p, Fuse))
    elif rules:
        passes = with_kernels(passes, Fuse(rules))
    shallow = {"depths": [2, 2, 2, 2]} if place.gpu else {"depths": [1, 1, 1, 1]}
    overrides = shallow if tiny or not place.gpu else {}
    return compile_spec(model, input=(3, *TWINS[model].size), overrides=overrides, passes=passes)


def compared(place: Place, plain: Artefact, fused: Artefact, of: Finding, batch: int) -> Finding:
    """The errors of the module with kernels beside those of the one without, at weights and images of the type."""
    dtype = DTYPES[of.dtype]
    reference = plain.module()
    randomise(reference)
    reference = reference.to(place.device, dtype)
    kernels = fused.module()
    kernels.load_state_dict(reference.state_dict())
    x = images(batch if place.gpu else 1, plain.input[1:]).to(place.device, dtype)  # type: ignore[arg-type]
    exact = ran(copy.deepcopy(reference).double(), x.double())
    usual = errors(ran(reference, x), exact)
    with poisoned(), recorded(fused) as used:
        runs = [ran(copy.deepcopy(kernels).to(place.device, dtype), x) for _ in range(2)]
    theirs = errors(runs[0], exact)
    least = torch.finfo(dtype).eps
    times = {name: theirs[name] / max(usual[name], least) for name in theirs}
    worst = max(times, key=lambda name: math.inf if math.isnan(times[name]) else times[name])
    found = Finding(
        of.model, of.rules, of.dtype, of.kernels, theirs["logits"], usual["logits"],
        _mean(theirs), _mean(usual), worst, times[worst], max(errors(runs[1], runs[0]).values()),
    )  # fmt: skip
    idle = [f"{name} did not run" for name in of.kernels if place.gpu and name not in used]
    return replace(found, wrong=", ".join([*_faults(found), *idle]))


def ran(model: nn.Module, x: Tensor) -> Run:
    """A model's logits, and the gradients of one random functional of them."""
    still(model)
    with torch.inference_mode():
        logits = model.eval()(x).double()
    x = x.detach().clone().requires_grad_()
    taught = model.train()(x)
    functional = torch.randn(taught.shape, generator=torch.Generator().manual_seed(2)).to(taught)
    (taught * functional).sum().backward()
    given = {"images": x, **dict(model.named_parameters())}
    gradients = {name: p.grad.double() for name, p in given.items() if p.grad is not None}
    assert gradients.keys() == given.keys(), f"no gradient: {sorted(given.keys() - gradients.keys())[:3]}"
    return Run(logits, gradients)


def errors(found: Run, exact: Run) -> dict[str, float]:
    """Relative errors of logits and of every gradient."""
    norms = {name: float(b.norm()) for name, b in exact.gradients.items()}
    floor = FLOOR * max(norms.values())
    out = {
        name: float((found.gradients[name] - b).norm()) / max(norms[name], floor) for name, b in exact.gradients.items()
    }
    return {"logits": float((found.logits - exact.logits).norm() / exact.logits.norm()), **out}


@contextmanager
def recorded(artefact: Artefact) -> Iterator[set[str]]:
    """The kernels that compute anything, for a package may leave any step to PyTorch."""
    used: set[str] = set()
    if "fused.py" not in artefact.files:
        yield used
        return
    fused = importlib.import_module(f"{import_files(artefact.name, artefact.files).__name__}.fused")
    before = fused.runs

    def runs(name: str, *tensors: Tensor | None) -> bool:
        chosen = bool(before(name, *tensors))
        used.update([name] * chosen)
        return chosen

    fused.runs = runs
    try:
        yield used
    finally:
        fused.runs = before


@contextmanager
def poisoned() -> Iterator[None]:
    """PyTorch fills what it allocates with NaN, as it does where algorithms have to be deterministic."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


HEADINGS = ("model", "rules", "type", "logits", "plain", "gradients", "plain", "worst", "times", "moved", "kernels", "")


def _row(one: Finding) -> str:
    numbers = (one.logits, one.plain_logits, one.gradients, one.plain_gradients)
    shown = [one.model, one.rules, one.dtype, *(f"{n:.1e}" for n in numbers)]
    shown += [one.worst, f"{one.times:.1f}", f"{one.moved:.0e}", ", ".join(one.kernels), one.wrong or "right"]
    return f"| {' | '.join(shown)} |"


def _faults(found: Finding) -> list[str]:
    """What is too far from float64."""
    least = torch.finfo(DTYPES[found.dtype]).eps
    pairs = {
        "logits": (found.logits, found.plain_logits),
        "gradients": (found.gradients, found.plain_gradients),
    }
    faults = [name for name, (ours, plain) in pairs.items() if not ours <= TIMES * max(plain, least)]
    faults += [f"the gradient of {found.worst}"] * (not found.times <= WORST)
    return faults + ["two runs differ"] * (not found.moved <= WORST * max(found.plain_gradients, least))


def _mean(found: Mapping[str, float]) -> float:
    """The root of the mean square over gradients."""
    gradients = [error for name, error in found.items() if name != "logits"]
    return math.sqrt(sum(e * e for e in gradients) / len(gradients))
