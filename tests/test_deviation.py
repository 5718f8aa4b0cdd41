"""Two specs, or a spec and timm's model, on equal weights: the first result that differs is found and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archdsl.api import elaborate
from archdsl.cli import main
from archdsl.diagnostics import ArchError
from archdsl.resources import specs_dir

torch = pytest.importorskip("torch")

from archdsl.bench import median_ratio  # noqa: E402
from archdsl.deviation import compare_graphs, compare_timm  # noqa: E402

SMALL = {"depths": [1, 1, 1, 1]}


def changed(tmp_path: Path, old: str, new: str) -> str:
    """swin_t with one text exchanged, as FILE:NAME."""
    text = (specs_dir() / "swin_t.arch").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.arch"
    path.write_text(text.replace(old, new))
    return f"{path}:swin_t"


def test_a_spec_agrees_with_itself() -> None:
    graph = elaborate("swin_t", overrides=SMALL)
    found = compare_graphs(graph, graph)
    assert not found.deviating and len(found.points) > 80
    assert "results agree" in found.text()


def test_the_first_deviation_between_specs_is_the_changed_call(tmp_path: Path) -> None:
    spec = changed(tmp_path, "attend[heads](q, k, v,", "attend[heads](q, k, 1.001 * v,")
    found = compare_graphs(elaborate("swin_t", overrides=SMALL), elaborate(spec, overrides=SMALL), "random:3")
    first = found.deviating[0]
    assert (first.path, first.what) == ("stages.0.blocks.0.attn.attend", "attend")
    assert 1e-4 < first.relative < 1e-2
    assert found.last_equal is not None and found.last_equal.path.startswith("stages.0.blocks.0.attn")
    assert "swin_t.arch:8" in found.text()


def test_modes_without_reparameterisation_agree() -> None:
    a, b = (elaborate("poolformer_s12", mode=m, input="3x64x64", overrides=SMALL) for m in ("train", "eval"))
    assert not compare_graphs(a, b).deviating


def test_weights_of_another_shape_are_remarked(tmp_path: Path) -> None:
    a = elaborate("swin_t", overrides=SMALL)
    b = elaborate("swin_t", overrides={**SMALL, "classes": 10})
    found = compare_graphs(a, b)
    assert "weights are not the same in both" in found.text()
    assert found.deviating[0].note == "shapes differ"


def test_images_of_different_sizes_are_a_mistake() -> None:
    with pytest.raises(ArchError) as caught:
        compare_graphs(elaborate("swin_t", overrides=SMALL), elaborate("swin_t", input="3x256x256", overrides=SMALL))
    assert caught.value.diagnostics[0].code == "E-INPUT"


def test_a_file_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    import archdsl

    settings = ["--set", "depths=[1, 1, 1, 1]", "--input", "3x64x64"]
    model = archdsl.load("poolformer_s12", input=(3, 64, 64), depths=[1, 1, 1, 1])
    path = tmp_path / "w.safetensors"
    safetensors.save_file(model.state_dict(), path)
    command = ["compare", "poolformer_s12", "poolformer_s12", "--weights", str(path), *settings]
    assert main(command) == 0
    assert "results agree" in capsys.readouterr().out
    state = {k: v for k, v in model.state_dict().items() if k != "head.fc.bias"}
    safetensors.save_file(state, path)
    assert main(command) == 1
    assert "has no `head.fc.bias`" in capsys.readouterr().err
    assert main([*command[:4], "random:x", *settings]) == 1
    assert "E-WEIGHTS" in capsys.readouterr().err


def test_timm_agrees_and_a_change_is_found(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    name = "swin_tiny_patch4_window7_224"
    found = compare_timm(elaborate("swin_t"), name)
    assert not found.deviating and len(found.points) > 100
    spec = changed(tmp_path, "norm = ln[eps = 1e-5]", "norm = ln[eps = 1e-3]")
    wrong = compare_timm(elaborate(spec), name)
    assert (wrong.deviating[0].path, wrong.deviating[0].what) == ("stem.norm", "ln")
    assert wrong.last_equal is not None and wrong.last_equal.path == "stem.proj"


def test_timm_with_other_weights_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    assert main(["compare", "swin_t", "timm:convnext_tiny"]) == 1
    err = capsys.readouterr().err
    assert "E-WEIGHTS" in err and "do not correspond" in err
    assert main(["compare", "swin_t", "timm:swin_tinny_patch4_window7_224"]) == 1
    assert "did you mean `swin_tiny_patch4_window7_224`" in capsys.readouterr().err


def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    command = ["bench", "poolformer_s12", "--vs", "timm:poolformer_s12", "--input", "3x64x64", "--rounds", "3"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ours"]["params"] == found["theirs"]["params"] and found["ours"]["macs"] == found["theirs"]["macs"]
    assert found["ratio"]["lower"] <= found["ratio"]["value"] <= found["ratio"]["upper"]
    assert len(found["ours"]["seconds"]) == 3
    assert main([*command[:2], "--vs", "poolformer_s12"]) == 1
    assert "write timm:NAME" in capsys.readouterr().err


def test_the_ratio_of_paired_rounds() -> None:
    found = median_ratio([2.0, 4.0, 2.2, 2.0], [1.0, 2.0, 1.1, 1.0])
    assert (found.lower, found.value, found.upper) == (2.0, 2.0, 2.0)
