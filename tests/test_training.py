"""Turns each emitted module into a trained one: the same losses as timm's, step by step, and the usual tools."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.oracle.compare import EXACT, check_exact, images, randomise, run
from tests.oracle.twin import Pair, Size, Twin
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


# -- several results of training --------------------------------------------------------------------

TAUGHT = [t for t in ARCHITECTURES if t.taught is not None]


@pytest.fixture
def pupils(ref: Twin) -> Pair:
    """Ours built for training and the reference, in float64, with the same random weights."""
    found = ref.pupils(ref.small)
    found.ours.double()
    found.theirs.double()
    return found


def beside_each_other(_: nn.Module, __: tuple[Tensor], found: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A forward hook that makes one tensor of several results."""
    return torch.stack(found, 1) if isinstance(found, tuple) else found


def logits_and_input_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of one tensor of logits; those of parameters would lack the layers that these are not made by."""
    x = x.clone().requires_grad_()
    logits = model(x)
    functional = torch.randn(logits.shape, generator=torch.Generator().manual_seed(6), dtype=logits.dtype)
    return logits.detach(), torch.autograd.grad((logits * functional).sum(), x)[0]


@torch.no_grad()
def close(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(float((a - b).norm()) <= EXACT * float(b.norm()) for a, b in zip(mine, theirs, strict=True))


# EfficientFormerV2 has the head of EfficientFormer.
@pytest.mark.parametrize(
    "ref", [pytest.param(t, id=t.spec, marks=FULL if t.spec == "efficientformerv2_s0" else ()) for t in TAUGHT]
)
def test_all_results_of_training_are_the_references(ref: Twin, pupils: Pair) -> None:
    ours, theirs = pupils.ours, pupils.theirs
    x = images(2, ref.small)
    for model in (ours, theirs):
        model.register_forward_hook(beside_each_other)
    wanted = run(theirs.train(), x, torch.float64, pupils.links)
    assert wanted.logits.shape == (2, 2, CLASSES)
    assert not close((wanted.logits[:, 0],), (wanted.logits[:, 1],))
    check_exact(run(ours.train(), x, torch.float64), wanted, ref.vanishing_in_training or ref.vanishing)
    in_eval = [logits_and_input_gradient(model.eval(), x.double()) for model in (ours, theirs)]
    assert in_eval[0][0].shape == (2, CLASSES) and close(*in_eval)
    if hasattr(theirs, "set_distilled_training"):
        for model in (ours, theirs):
            model.set_distilled_training(False)
        alone = [logits_and_input_gradient(model.train(), x.double()) for model in (ours, theirs)]
        assert alone[0][0].shape == (2, CLASSES) and close(*alone)


SEVERAL = [pytest.param(t, id=t.spec, marks=() if t.spec == "repvit_m1" else FULL) for t in TAUGHT]


@pytest.mark.parametrize("ref", SEVERAL)
def test_the_interface_of_a_module_with_several_results(ref: Twin, pupils: Pair) -> None:
    """One tensor in eval, without classes, before logits and after switching; each classifier counts as one."""
    model, x = pupils.ours.train(), images(2, ref.small).double()
    first, second = model(x)
    model.set_distilled_training(False)
    assert model(x).shape == first.shape == second.shape
    model.set_distilled_training()
    assert isinstance(model(x), tuple)
    model.eval()
    features = model.forward_features(x)
    assert close((model.forward_head(features),), (model(x),))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.get_classifier().out_features == 7
    assert [r.shape for r in model.train()(x)] == [(2, 7), (2, 7)]
    model.reset_classifier(0)
    assert model(x).shape == pooled.shape
    model.eval()
    assert close((model(x),), (model.forward_head(model.forward_features(x), pre_logits=True),))
    maps = model.forward_intermediates(x, intermediates_only=True)
    only = type(model)(num_classes=0).double().train()
    assert only(x).shape == pooled.shape
    assert [m.shape for m in only.forward_intermediates(x, intermediates_only=True)] == [m.shape for m in maps]


@pytest.mark.parametrize("ref", SEVERAL)
def test_a_module_with_several_results_compiles_as_one_graph(ref: Twin, pupils: Pair) -> None:
    torch._dynamo.reset()
    model, x = pupils.ours.train(), images(2, ref.small).double()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(x)
    assert close(found, model(x))
    sum(r.square().sum() for r in found).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("ref", SEVERAL)
def test_both_results_learn_a_batch(ref: Twin) -> None:
    """As one result does: thirty steps, from the initialisation of the spec."""
    x, labels = batch(ref.small)
    for rate in (5e-3, 1e-3, 1e-2):
        torch.manual_seed(0)
        model = ref.compile(ref.small, mode="train", **{**ref.tiny, **ref.teaching}).module().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        for _ in range(30):
            losses = [F.cross_entropy(logits, labels) for logits in model(x)]
            optimizer.zero_grad()
            sum(losses).backward()  # type: ignore[union-attr]
            optimizer.step()
        if max(loss.item() for loss in losses) < 1.5:
            return
    raise AssertionError(f"the losses are still {losses} after 30 steps")


@pytest.mark.parametrize("ref", SEVERAL)
def test_timm_distils_a_teacher_into_it(ref: Twin, pupils: Pair) -> None:
    from timm.task import TokenDistillationTask

    student, teacher = pupils.ours.train(), load(ref).double()
    task = TokenDistillationTask(student, teacher, nn.CrossEntropyLoss(), distill_type="hard", verbose=False)
    x, labels = batch(ref.small)
    found = task(x.double(), labels)
    first, second = student(x.double())
    with torch.no_grad():
        taught = teacher.eval()(x.double()).argmax(-1)
    assert float(found["task_loss"]) == pytest.approx(float(F.cross_entropy(first, labels)))
    assert float(found["distill_loss"]) == pytest.approx(float(F.cross_entropy(second, taught)))
    found["loss"].backward()
    assert all(p.grad is not None for p in student.parameters())
