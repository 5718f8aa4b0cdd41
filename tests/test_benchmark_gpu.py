"""The benchmark of GPUs, small and on a CPU: each row runs, what is known is not measured again, failures are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import Artefact
from benchmarks import gpu, gpu_check
from benchmarks.gpu_ways import BF16, INFERENCE, TRAIN, WAYS, Cell, Place, Step, Subject, Way, flex

MODEL = "poolformer_s12"
CPU = Place(torch.device("cpu"))


def smoke(path: Path, *more: str, model: str = MODEL, cell: str = "bf16/2/inference") -> None:
    assert gpu.main(["--smoke", "--models", model, "--cells", cell, "--file", str(path), *more]) == 0


def test_a_cell_is_written_and_then_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row fails; rows that are asked for later join those that are there; nothing is measured twice."""
    path, usual, asked = tmp_path / "gpu.json", Subject.step, []

    def step(self: Subject, way: Way, model: nn.Module, images: Tensor) -> Step:
        asked.append(way.name)
        if way.name == "kernels":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate a lot")
        return usual(self, way, model, images)

    monkeypatch.setattr(Subject, "step", step)
    before = gpu.GPU.read_bytes() if gpu.GPU.exists() else b""
    smoke(path, "--rows", "timm", "timm, compiled", "emitted", "kernels*")
    key = f"{MODEL}/bf16/2/inference"
    record = gpu.records(path)[key]
    assert list(record.rows) == ["timm", "timm, compiled", "emitted", "kernels", "kernels, compiled", "kernels, graph"]
    assert record.rows["kernels"].error == "OutOfMemoryError: CUDA out of memory."
    for name, row in record.rows.items():
        if name == "kernels":
            continue
        assert not row.error and row.samples == 2 and len(row.seconds) == 3
        assert 0 < row.seconds[0] <= row.seconds[1] <= row.seconds[2]
        assert row.kernels is not None and row.kernels > 100
        assert row.rms is not None and 1e-4 < row.rms < 1e-2, "bfloat16 rounds to 2^-9, over a dozen layers"
    assert record.hardware["gpu"] == "none" and record.versions["torch"] == torch.__version__

    asked.clear()
    written = path.read_bytes()
    smoke(path, "--rows", "timm", "timm, compiled", "emitted", "kernels*")
    assert not asked and path.read_bytes() == written
    assert "known" in capsys.readouterr().out
    smoke(path, "--rows", "timm*")
    assert asked == ["timm, channels last", "timm, max-autotune", "timm, max-autotune, graphs"]
    merged = gpu.records(path)[key].rows
    assert merged["emitted"] == record.rows["emitted"] and not merged["timm, max-autotune"].error

    (tmp_path / "other.json").write_text(written.decode().replace(record.code, "of another emitter"))
    asked.clear()
    smoke(tmp_path / "other.json", "--rows", "emitted")
    assert asked == ["emitted"] and list(gpu.records(tmp_path / "other.json")[key].rows) == ["emitted"]
    smoke(path, "--budget", "-1", "--again", "--rows", "timm")
    assert "not begun" in capsys.readouterr().out and not gpu.records(path)
    monkeypatch.setattr(gpu, "GRACE", -60.0)
    for known in (["timm"], ["timm", "emitted"]):
        smoke(path, "--budget", "30", "--rows", "timm", "emitted")
        assert list(gpu.records(path)[key].rows) == known
    assert before == (gpu.GPU.read_bytes() if gpu.GPU.exists() else b""), "a smoke test is no measurement"


def test_a_row_that_takes_the_gpu_with_it_is_left_out_by_a_new_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, usual, started = tmp_path / "gpu.json", Subject.step, []

    def step(self: Subject, way: Way, model: nn.Module, images: Tensor) -> Step:
        if way.name == "emitted":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return usual(self, way, model, images)

    def lost(place: Place) -> None:
        raise gpu.DeviceLost("CUDA error: an illegal memory access was encountered")

    def start(program: str, command: list[str]) -> None:
        started.append(command[3:])
        raise SystemExit

    monkeypatch.setattr(Subject, "step", step)
    monkeypatch.setattr(gpu, "cleared", lost)
    monkeypatch.setattr(gpu.os, "execv", start)
    with pytest.raises(SystemExit):
        smoke(path, "--again", "--budget", "60", "--rows", "timm", "emitted", "kernels")
    rows = gpu.records(path)[f"{MODEL}/bf16/2/inference"].rows
    assert list(rows) == ["emitted"] and "illegal memory access" in rows["emitted"].error
    (again,) = started
    assert "--again" not in again and again[-2] == "--budget" and 0 < float(again[-1]) < 60
    assert gpu.main(again) == 0
    rows = gpu.records(path)[f"{MODEL}/bf16/2/inference"].rows
    assert [(name, bool(row.error)) for name, row in rows.items()] == [
        ("timm", False), ("emitted", True), ("kernels", False)
    ]  # fmt: skip


def test_training_steps_learn() -> None:
    """Every row's parameters move, and a row whose images are not the reference's is found by its error."""
    subject = Subject(Cell(MODEL, "amp", 2, TRAIN), CPU, {"dims": [16, 24, 32, 40], "depths": [1, 1, 1, 1]})
    x = subject.inputs(1)[0]
    exact = subject.exact(x)
    for name in ("timm", "kernels"):
        way = next(way for way in WAYS if way.name == name)
        model = subject.module(way)
        right = gpu.deviation(subject.sensitivity(model, x, way), exact)[0]
        assert right < 3e-2
        assert gpu.deviation(subject.sensitivity(model, x.flip(0), way), exact)[0] > 10 * right
        before = [p.detach().clone() for p in model.parameters()]
        step = subject.step(way, model, x)
        assert step(x).isfinite() and step(x).dtype == torch.float32
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_ways_that_are_no_others_are_left_out() -> None:
    """By which of timm's attentions are fused: Swin's only where experimental ones are, MaxViT's always."""
    tiny = {"swin_t": {"dim": 24, "depths": [1] * 4}, "maxvit_t": {"dims": [32] * 4, "depths": [1] * 4}, MODEL: {}}
    names = ("SDPA", "no SDPA", "FlexAttention")
    wanted = {"swin_t": (True, False, True), "maxvit_t": (False, True, True), MODEL: (False, False, False)}
    for model, overrides in tiny.items():
        subject = Subject(Cell(model, BF16, 1, INFERENCE), CPU, overrides)
        assert tuple(Way("", attention=name).exists(subject) for name in names) == wanted[model], model


@pytest.mark.parametrize("masks", [(), (3, 6, 5), (1, 3, 6, 5), (4, 3, 6, 5)])
def test_flex_attention_is_the_fused_one(masks: tuple[int, ...]) -> None:
    q, k, v = (torch.randn(4, 3, n, 8) for n in (6, 5, 5))
    mask = torch.randn(masks) if masks else None
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(flex(q, k, v, mask), wanted)


def test_the_page_compares_with_the_best_of_timms(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"

    def row(median: float, run: str = "1") -> gpu.Row:
        return gpu.Row(run, "", (0.9 * median, median, 1.1 * median), 50, 10**9, 60, 2.0, 0, 1e-3, 2e-3)

    rows = {"timm": row(0.4), "timm, compiled": row(0.2), "emitted": gpu.Row("1", "Error: none"), "kernels": row(0.16)}
    record = gpu.Record("2026-01-01", "abc", "d", {"gpu": "a GPU"}, {"torch": "2"}, {}, rows)
    key = "swin_t/bf16/256/inference"
    assert gpu.document(path).count("not measured") == len(gpu.MODELS) * len(gpu.NAMES)
    gpu.save({key: record}, path)
    page = gpu.document(path)
    line = "| `swin_t` | bf16 | 256 | inference | timm, compiled | 1,280 | kernels | 1,600 | 1.25x | >= 1.10x |"
    assert line in page.splitlines()
    assert "| kernels | 1,600 | 1,455 to 1,778 | 1,000 | 60 | 2.0 | 1.0e-03 | 2.0e-03 |" in page.splitlines()
    assert "- emitted: Error: none" in page and page.count("not measured") == len(gpu.MODELS) * len(gpu.NAMES) - 1
    gpu.save({key: replace(record, rows={**rows, "kernels": row(0.16, "2")})}, path)
    assert "1.25x, of two runs" in gpu.document(path)


def test_a_wrong_kernel_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and where the mixer of kernels counts the padding."""
    path, usual = tmp_path / "check.json", gpu_check.artefact
    monkeypatch.setattr(gpu_check, "DTYPES", {"fp32": torch.float32})
    rules = [rule for rule in gpu_check.RULES if rule.name in ("pool_mixer", "project_residual")]
    monkeypatch.setattr(gpu_check, "RULES", rules)
    assert gpu_check.check(CPU, [MODEL], path, tiny=True, budget=60) == 0

    def artefact(place: Place, model: str, rules: str, tiny: bool) -> Artefact:
        made = usual(place, model, rules, tiny)
        files = {
            n: t.replace("count_include_pad=include_pad", "count_include_pad=not include_pad")
            for n, t in made.files.items()
        }
        return replace(made, files=files) if rules else made

    monkeypatch.setattr(gpu_check, "artefact", artefact)
    assert gpu_check.check(CPU, [MODEL], path, tiny=True, budget=60) == 1
    found = {f["rules"]: f for f in json.loads(path.read_text())["findings"]}
    assert found["all"]["wrong"].startswith("logits, gradients")
    assert found["pool_mixer"]["wrong"] and not found["project_residual"]["wrong"]
