"""Training as part of a search: what a recipe says, what a step draws, and that interruptions change nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import AveragedModel

import archdsl
from archdsl.api import compile_spec
from archdsl.diagnostics import ArchError
from archdsl.search.budget import Measure
from archdsl.search.evaluators import TrainEvaluator
from archdsl.search.run import Search, Settings
from archdsl.search.store import EVALUATIONS
from archdsl.training.data import Data, data
from archdsl.training.recipe import Recipe
from archdsl.training.trainer import CHECKPOINT, Diverged, Run, augmented, train

SPEC = """\
language 1
arch tiny[dim = 24, depth = 2, dpr = 0.2, classes = 10] {
  input img: map[3, 16, 16]
  stem { x = img |> conv[dim, k = 4, s = 2, p = 1, bias = false] |> bn }
  stage i in 1 -> x {
    blocks j in depth { x = x + drop_path(x |> dwconv[3] |> bn |> conv[2 * dim] |> gelu |> conv[dim]) }
  }
  head { return x |> gap |> linear[classes] }
}
"""
RECIPE = Recipe(epochs=2, batch=256, rate=3e-3, mixup=0.2, crop=0.5, flip=True, ema=0.9)


@pytest.fixture(scope="module")
def digits() -> Data:
    return data("digits", (3, 16, 16))


def module(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return archdsl.compile(SPEC).module()


def test_a_module_learns_digits(digits: Data) -> None:
    """What it knows is of images that it has not seen; as its classes are balanced, to know nothing is 0.1."""
    assert train(module(), Recipe(epochs=6, batch=32, rate=1e-2), digits, seed=0).accuracy > 0.8
    assert not set(map(bytes, digits.train.take(range(50)).numpy())) & set(
        map(bytes, digits.validation.take(range(len(digits.validation.labels))).numpy())
    )


def test_the_rate_is_that_of_torchs_schedules(digits: Data) -> None:
    run = Run.started(module(), Recipe(epochs=6, batch=128, warmup=2.0), digits, 0)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    warm = 2 * run.in_epoch
    parts = (LinearLR(optimizer, 1 / warm, 1.0, warm - 1), CosineAnnealingLR(optimizer, run.steps - warm))
    theirs = SequentialLR(optimizer, list(parts), [warm])
    for step in range(run.steps):
        assert run.rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        theirs.step()


def test_the_average_is_torchs(digits: Data) -> None:
    """With the same share kept at every step, of weights as of running statistics."""
    run = Run.started(module(), replace(RECIPE, epochs=1), digits, 0)
    theirs = AveragedModel(
        run.module, use_buffers=True, avg_fn=lambda a, b, n: a.lerp(b, 1 - kept) if a.is_floating_point() else b
    )
    theirs.update_parameters(run.module)  # the first call copies
    for _ in run:
        kept = min(0.9, run.step / (run.step + 10))
        theirs.update_parameters(run.module)
    for name, value in run.average.state_dict().items():
        torch.testing.assert_close(value, theirs.module.state_dict()[name])


def test_crops_and_mirrors() -> None:
    x = torch.rand(6, 3, 8, 8)
    assert augmented(x, Recipe(), np.random.default_rng(0)) is x
    mirrored = augmented(x, Recipe(flip=True), np.random.default_rng(0))
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(mirrored, x, strict=True)]
    turned = [torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(mirrored, x, strict=True)]
    assert any(same) and any(turned) and all(a != b for a, b in zip(same, turned, strict=True))
    cropped = augmented(torch.linspace(0, 1, 64).expand(9, 1, 64, 64), Recipe(crop=0.25), np.random.default_rng(1))
    assert cropped.shape == (9, 1, 64, 64)
    extents = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]
    assert extents.min() > 0.4 and extents.max() < 1.01 and extents.std() > 0.05


def test_a_training_that_was_killed_goes_on_to_the_same_weights(digits: Data, tmp_path: Path) -> None:
    whole = train(module(), RECIPE, digits, seed=3)
    script = textwrap.dedent(
        f"""
        import sys, time, torch
        torch.set_num_threads(1)
        from pathlib import Path
        from archdsl.training import trainer
        from archdsl.training.data import data
        from tests.test_trainer import RECIPE, module
        trainer.EVERY = 0.0
        advance = trainer.Run._advance
        def slow(run):
            if run.step == 5:
                print("here", flush=True)
                time.sleep(600)
            return advance(run)
        trainer.Run._advance = slow
        trainer.train(module(), RECIPE, data("digits", (3, 16, 16)), 3, Path({str(tmp_path)!r}))
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["step"] == 5 < whole.steps
    after = train(module(1), RECIPE, digits, 3, tmp_path)  # other first weights, which the checkpoint replaces
    assert after.accuracy == whole.accuracy
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, after.module.state_dict()[name]), name


def test_checkpoints_of_something_else_are_refused(digits: Data, tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=1, batch=1024, warmup=0.0)
    train(module(), short, digits, 0, tmp_path)
    for recipe, seed in ((replace(short, rate=1e-2), 0), (short, 1)):
        with pytest.raises(ArchError, match="another recipe, seed or data"):
            train(module(), recipe, digits, seed, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"PK")
    with pytest.raises(ArchError, match="no checkpoint"):
        train(module(), short, digits, 0, tmp_path)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast(digits: Data, precision: str) -> None:
    """The same steps in fewer bits: near the losses of float32, with weights that stay in it."""
    short = replace(RECIPE, epochs=1, mixup=0.0)
    runs = [Run.started(module(), replace(short, precision=p), digits, 0) for p in ("float32", precision)]
    exact, coarse = (list(run) for run in runs)
    assert exact != coarse and np.allclose(exact, coarse, rtol=0.02)
    assert {p.dtype for p in runs[1].module.parameters()} == {torch.float32}


def test_a_loss_that_is_no_number_ends_a_training(digits: Data) -> None:
    with pytest.raises(Diverged, match="at step 0"):
        broken = module()
        torch.nn.init.constant_(next(broken.parameters()), float("inf"))
        train(broken, RECIPE, digits, 0)


def test_images_of_a_directory(tmp_path: Path) -> None:
    from PIL import Image

    for part, count in (("train", 4), ("val", 2)):
        for shade, name in ((40, "dark"), (220, "light")):
            (tmp_path / part / name).mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (20 + n, 12), (shade, shade, shade)).save(tmp_path / part / name / f"{n}.png")
    (tmp_path / "recipe.toml").write_text('data = "."\nepochs = 8\nbatch = 4\nrate = 1e-2\nwarmup = 0\nema = 0.0\n')
    recipe = Recipe.read(tmp_path / "recipe.toml")
    found = data(recipe.data, (3, 16, 16))
    assert found.classes == 2 and found.train.labels.tolist() == [0] * 4 + [1] * 4
    assert found.train.take([0, 7]).mean((1, 2, 3)).tolist() == pytest.approx([40 / 255, 220 / 255], abs=0.01)
    assert train(module(), recipe, found, 0).accuracy == 1
    (tmp_path / "val" / "dark" / "0.png").write_bytes(b"no image")
    with pytest.raises(ArchError, match="no image that can be read"):
        train(module(), recipe, found, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = 0", "`epochs` is at least 1, not `0`"),
        ("\nepoch = 5", "a recipe has no `epoch`"),
        ('rate = "fast"', "`rate` is a number, not `fast`"),
        ("flip = 1", "`flip` is true or false, not `1`"),
        ("rate = nan", "`rate` is more than 0, not `nan`"),
        ('precision = "half"', "there is no precision `half`"),
        ("epochs = 2\nwarmup = 3", "`warmup` takes longer than all 2 epochs"),
        ("epochs = ", "no TOML: Invalid value"),
    ],
)
def test_recipes_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ArchError) as caught:
        Recipe.parsed(text)
    (found,) = caught.value.diagnostics
    assert found.code == "E-RECIPE" and found.title == said and found.span is not None
    assert found.span.line == text.count("\n") + 1


# -- in a search -----------------------------------------------------------------------------------

SPACE = f"""{SPEC}
space tinies of tiny {{
  dim = {{8..24 by 8}}
  depth = {{1..3}}
}}
"""
SHORT = "epochs = 1\nbatch = 256\nrate = 1e-2\nwarmup = 0\nema = 0.0\n"


@pytest.fixture
def search(tmp_path: Path) -> Callable[..., Search]:
    (tmp_path / "tinies.arch").write_text(SPACE)
    (tmp_path / "short.toml").write_text(SHORT)

    def started(name: str, workers: int = 1) -> Search:
        settings = Settings(str(tmp_path / "tinies.arch"), trials=9, generation=16, evaluations=4)
        settings = replace(settings, objectives=("score", "params"), evaluate=f"train:{tmp_path / 'short.toml'}")
        return Search.started(settings, tmp_path / "runs", name, workers)

    return started


def told(search: Search) -> list[object]:
    """The evaluations of a search, in their order."""
    return [json.loads(line) for line in (search.directory / EVALUATIONS).read_text().splitlines()]


def test_a_search_by_training(search: Callable[..., Search]) -> None:
    """Kills and workers change nothing; the recipe is the search's own, whatever becomes of its file."""
    whole = search("whole")
    study = whole.run()
    assert len(told(whole)) == 4 and not list(whole.directory.rglob(CHECKPOINT))
    assert study.settings["recipe"]["epochs"] == 1 and study.settings["reproducible"]
    best = max(m.measures[Measure("train:short.toml")] for m in study.members)
    assert best == max(one["found"]["train:short.toml"]["value"] for one in told(whole))

    together = search("together", workers=2)
    assert together.run().digest == study.digest and told(together) == told(whole)

    killed = search("killed")
    (killed.directory.parent.parent / "short.toml").unlink()
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from archdsl.search.run import Search
        from archdsl.training import trainer
        trainer.EVERY = 0.0
        advance, seen = trainer.Run._advance, set()
        def slow(run):
            seen.add(id(run))
            if len(seen) == 3 and run.step == 2:
                print("here", flush=True)
                time.sleep(600)
            return advance(run)
        trainer.Run._advance = slow
        Search.resumed(Path({str(killed.directory)!r})).run()
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    assert len(told(killed)) == 2 and len(list(killed.directory.rglob(CHECKPOINT))) == 1
    after = Search.resumed(killed.directory)
    assert after.run().digest == study.digest and told(after) == told(whole)


def test_candidates_with_too_few_classes_fail_alone(tmp_path: Path) -> None:
    graph = compile_spec(SPEC, overrides={"classes": 9}).graph
    found = TrainEvaluator("train:short.toml", Recipe.parsed(SHORT), tmp_path).evaluate(graph, 0)
    assert found.reason == "it has 9 classes, and `digits` 10" and not list(tmp_path.iterdir())
