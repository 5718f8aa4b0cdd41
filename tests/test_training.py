"""Turns each emitted module into a trained one: the same losses as timm's, step by step, and the usual tools."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import archdsl
from tests.oracle.compare import adopt, images, randomise
from tests.oracle.keys import laid_out, renamed
from tests.oracle.references import SMALLEST, WHOLE, Reference, reference

DEPTHS = (1, 2, 1, 1)
SIZE = (96, 64)
CLASSES = 10


FAMILIES = (*SMALLEST, "convformer_s18")
QUICK = (*WHOLE, "vit_s16")
"""Asked everything in every run; of the others most are asked in every run whether they follow timm's steps."""


@pytest.fixture(params=[pytest.param(s, marks=() if s in QUICK else pytest.mark.full) for s in FAMILIES])
def ref(request: pytest.FixtureRequest) -> Reference:
    return reference(request.param)


def depths(ref: Reference) -> int | tuple[int, ...]:
    return DEPTHS if isinstance(ref.shallow, tuple) else 2


def load(ref: Reference, dpr: float = 0.0) -> nn.Module:
    """A narrow, shallow model with ten classes, built for small images that are not square."""
    overrides = ref.overrides(depths(ref), ref.narrow)
    return archdsl.load(ref.spec, input=(3, *SIZE), dpr=dpr, classes=CLASSES, **overrides)


def batch() -> tuple[Tensor, Tensor]:
    """Eight random images with random labels: something to learn by heart."""
    labels = torch.randint(0, CLASSES, (8,), generator=torch.Generator().manual_seed(4))
    return images(8, SIZE, seed=5), labels


def steps(model: nn.Module, count: int, lr: float, dtype: torch.dtype) -> list[float]:
    """Losses of `count` AdamW steps with weight decay as the model asks for it."""
    from timm.optim import param_groups_weight_decay

    kept = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, 0.05, no_weight_decay_list=kept), lr=lr)
    x, labels = batch()
    losses = []
    for _ in range(count):
        loss = F.cross_entropy(model(x.to(dtype)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(
    "spec", [pytest.param(s, marks=pytest.mark.full if s in ("maxvit_t", "caformer_s18") else ()) for s in FAMILIES]
)
def test_training_follows_timms(spec: str) -> None:
    """Eight optimizer steps in float64 stay together, and end with the same weights."""
    ref = reference(spec)
    theirs = ref.model(SIZE, depths=depths(ref), width=ref.narrow, num_classes=CLASSES)
    randomise(theirs)
    ours = load(ref)
    adopt(ours, theirs, ref.family)
    ours, theirs = ours.double().train(), theirs.double().train()
    wanted = steps(theirs, 8, 1e-3, torch.float64)
    assert wanted[-1] < wanted[0]
    assert steps(ours, 8, 1e-3, torch.float64) == pytest.approx(wanted, rel=1e-9)
    mine = ours.state_dict()
    for key, tensor in theirs.state_dict().items():
        mine_too = mine[renamed(key, ref.family)]
        wanted_too = laid_out(key, tensor, ref.family).reshape(mine_too.shape)
        torch.testing.assert_close(mine_too, wanted_too, rtol=1e-7, atol=1e-9)


def test_learns_a_batch_from_its_own_initialisation(ref: Reference) -> None:
    torch.manual_seed(0)
    losses = steps(load(ref).train(), 40, 2e-3, torch.float32)
    assert losses[0] == pytest.approx(torch.tensor(float(CLASSES)).log().item(), abs=0.5)
    assert losses[-1] < 0.5 * losses[0]


def test_every_parameter_gets_a_gradient(ref: Reference) -> None:
    model = load(ref).train()
    x, labels = batch()
    F.cross_entropy(model(x), labels).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


def test_drop_path_acts_in_training_only_and_keeps_the_mean(ref: Reference) -> None:
    torch.manual_seed(0)
    model = load(ref, dpr=0.5).double()
    randomise(model)  # a branch that ends in a norm of zeros has nothing to drop
    x = images(1, SIZE).double()
    assert torch.equal(model.eval()(x), model(x))
    model.train()
    draws = model(x.expand(64, -1, -1, -1)).detach()
    assert len({round(float(value), 9) for value in draws[:, 0]}) > 1, "every sample got the same draw"
    drop = next(m for m in reversed(list(model.modules())) if type(m).__name__ == "DropPath")
    assert drop.rate == pytest.approx(0.5)
    ones = torch.ones(20_000, 3, 1, 1)
    dropped = drop(ones)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped.amin((1, 2, 3)), dropped.amax((1, 2, 3))), "a sample is dropped whole"
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.04)


def test_autocast_to_bfloat16(ref: Reference) -> None:
    model = load(ref)
    randomise(model)
    x, labels = batch()
    wanted = model.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
        loss = F.cross_entropy(logits, labels)
    loss.backward()
    assert float((logits.float() - wanted).norm() / wanted.norm()) < 0.1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_averaged_copy_follows(ref: Reference) -> None:
    from timm.utils import ModelEmaV3

    model = load(ref).train()
    average = ModelEmaV3(model, decay=0.5)
    steps(model, 1, 1e-3, torch.float32)
    average.update(model)
    assert average.module.state_dict().keys() == model.state_dict().keys()
    assert average.module.eval()(batch()[0]).isfinite().all()
