"""Turns each emitted module into a trained one: the same losses as timm's, step by step, and the usual tools."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.oracle.compare import images, randomise
from tests.oracle.twin import Size, Twin
from tests.oracle.twins import ARCHITECTURES

FULL = pytest.mark.full

CLASSES = 1000

QUICK = ("swin_t", "convnext_t", "poolformer_s12", "vit_s16")
"""Asked everything in every run; of the others most are asked in every run whether they follow the reference."""
SLOW = ("maxvit_t", "caformer_s18", "gcvit_t", "overlock_xt", "cswin_t")
"""Asked nothing in every run."""


EACH = [pytest.param(t, id=t.spec, marks=() if t.spec in QUICK else FULL) for t in ARCHITECTURES]


@pytest.fixture(params=EACH)
def ref(request: pytest.FixtureRequest) -> Twin:
    found: Twin = request.param
    return found


def load(ref: Twin, **parameters: object) -> nn.Module:
    """A narrow, shallow model, built for small images that are not square where that is possible."""
    return ref.compile(ref.small, **{**ref.tiny, **parameters}).module()


def batch(size: Size) -> tuple[Tensor, Tensor]:
    """Eight random images with random labels: something to learn by heart."""
    labels = torch.randint(0, CLASSES, (8,), generator=torch.Generator().manual_seed(4))
    return images(8, size, seed=5), labels


def decayed(model: nn.Module) -> set[str]:
    """The names of the parameters whose weights decay, as training scripts ask the model."""
    from timm.optim import param_groups_weight_decay

    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    found = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in found}


def steps(model: nn.Module, names: set[str], size: Size, count: int, lr: float, dtype: torch.dtype) -> list[float]:
    """Losses of `count` AdamW steps with a decay of the weights that have those names."""
    groups = [
        {"params": [p for name, p in model.named_parameters() if (name in names) == decays], "weight_decay": rate}
        for decays, rate in ((True, 0.05), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    x, labels = batch(size)
    losses = []
    for step in range(count):
        torch.manual_seed(step)  # some models draw the order of tokens
        loss = F.cross_entropy(model(x.to(dtype)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(
    "ref", [pytest.param(t, id=t.spec, marks=FULL if t.spec in SLOW else ()) for t in ARCHITECTURES]
)
def test_training_follows_the_references(ref: Twin) -> None:
    """Eight optimizer steps in float64 stay together, and end with the same weights."""
    pair = ref.pair(ref.small, **ref.tiny)
    ours, theirs = pair.ours.double().train(), pair.theirs.double().train()
    names = decayed(ours)
    theirs_too = {key for link in pair.links.links if link.path in names for key in link.keys}
    wanted = steps(theirs, theirs_too, ref.small, 8, 1e-3, torch.float64)
    assert wanted[-1] < wanted[0]
    assert steps(ours, names, ref.small, 8, 1e-3, torch.float64) == pytest.approx(wanted, rel=1e-9)
    mine = ours.state_dict()
    for key, tensor in pair.links.translate(theirs.state_dict()).items():
        torch.testing.assert_close(mine[key], tensor, rtol=1e-7, atol=1e-9)


def test_learns_a_batch_from_its_own_initialisation(ref: Twin) -> None:
    """Thirty steps tell eight images apart, at one of three rates: knowing the labels alone leaves log(8) = 2.08."""
    for rate in (5e-3, 1e-3, 1e-2):
        torch.manual_seed(0)
        model = load(ref).train()
        losses = steps(model, decayed(model), ref.small, 30, rate, torch.float32)
        assert losses[0] == pytest.approx(torch.tensor(float(CLASSES)).log().item(), abs=0.5)
        if losses[-1] < 1.5:
            return
    raise AssertionError(f"the loss is still {losses[-1]:.2f} after 30 steps")


def test_every_parameter_gets_a_gradient(ref: Twin) -> None:
    model = load(ref).train()
    x, labels = batch(ref.small)
    F.cross_entropy(model(x), labels).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("ref", [each for each in EACH if each.values[0].drops], indirect=True)
def test_drop_path_acts_in_training_only_and_keeps_the_mean(ref: Twin) -> None:
    torch.manual_seed(0)
    model = load(ref, dpr=0.5, **ref.settled).double()
    randomise(model)  # a branch that ends in a norm of zeros has nothing to drop
    x = images(1, ref.small).double()
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


def test_autocast_to_bfloat16(ref: Twin) -> None:
    model = load(ref)
    randomise(model)
    x, labels = batch(ref.small)
    wanted = model.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
        loss = F.cross_entropy(logits, labels)
    loss.backward()
    assert float((logits.float() - wanted).norm() / wanted.norm()) < 0.1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_averaged_copy_follows(ref: Twin) -> None:
    from timm.utils import ModelEmaV3

    model = load(ref).train()
    average = ModelEmaV3(model, decay=0.5)
    steps(model, decayed(model), ref.small, 1, 1e-3, torch.float32)
    average.update(model)
    assert average.module.state_dict().keys() == model.state_dict().keys()
    assert average.module.eval()(batch(ref.small)[0]).isfinite().all()
