"""Choosing kernels' constants: what is tried, what is left out, what a table changes, and what a user is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from archdsl import tuning
from archdsl.api import Artefact, compile_spec
from archdsl.backends.launches import SHARED_MEMORY, Compiled, Launch, recorded
from archdsl.backends.torch.tiles import Gpu, Measured, Tiles, read_tiles, tile_of, written
from archdsl.cli import main
from archdsl.diagnostics import ArchError
from archdsl.passes.fuse import Fuse
from archdsl.passes.pipeline import level, with_kernels
from archdsl.tuning import Tuned, Tuner, other_tiles, rehearse, trials
from tests.compiled import interpreter, package
from tests.test_kernel_ops import CASES

SPEC = """language 1
arch tiny[classes = 10] {
  input img: map[3, 16, 20]
  stem { x = img |> conv@stem[16, k = 4, s = 4] }
  stage i in 1 -> x { x = local_mix[3](softmax(local_scores[3, heads = 1](x, x)), x) }
  head { return x |> gap |> linear@fc[classes] }
}
"""
KERNELS = with_kernels(level(1), Fuse("local_mix"))
LAUNCH = "local_mix_kernel fp32 SOFTMAX GROUPS=1 DIM=16 K=3 BLOCK=16 TAPS=8 BLOCK_D=16 num_warps=4"
USUAL = {"BLOCK": 16, "TAPS": 8, "num_warps": 4}
WRONG = "computes something else"
VERSIONS = {"torch": "2.13.0", "triton": "3.7.1"}


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def artefact(tiles: Tiles | None = None) -> Artefact:
    return compile_spec(SPEC, passes=KERNELS, tiles=tiles)


def table(seconds: dict[str, float], launch: str = LAUNCH, shapes: str = "") -> Tiles:
    return Tiles({"sm_90": Gpu("a GPU", VERSIONS, (Measured(launch, shapes, "0", seconds),))})


def compiled(launch: Launch, capability: int) -> Compiled:
    """What a compiler might find: large tiles spill, and many stages take more memory than there is."""
    tile = launch.tile()
    if tile["BLOCK"] < 64:
        raise ValueError("too small a product")
    return Compiled(tile["num_stages"] * (60 << 10), 64, 8 * (tile["BLOCK"] > 128), "")


def a_launch(**tile: int) -> Launch:
    constants = tuple(tile.items())[:-2]
    return Launch(None, "kernel", (), constants, (), tuple(tile.items())[-2:], free=tuple(n for n, _ in constants))


def test_what_is_tried_lies_beside_the_usual_choice() -> None:
    assert other_tiles({"BLOCK": 64, "num_warps": 4, "num_stages": 1}) == [
        {"BLOCK": 32},
        {"BLOCK": 128},
        {"num_warps": 2},
        {"num_warps": 8},
        {"num_stages": 2},
        {"BLOCK": 32, "num_warps": 2},
        {"BLOCK": 32, "num_warps": 8},
        {"BLOCK": 128, "num_warps": 2},
        {"BLOCK": 128, "num_warps": 8},
    ]
    assert all(tile_of(written(tile)) == tile for tile in other_tiles({"BLOCK": 64, "num_warps": 1, "num_stages": 5}))


def test_what_a_gpu_cannot_hold_is_not_tried() -> None:
    found = {written(t.tile): t.refused for t in trials(a_launch(BLOCK=64, num_warps=4, num_stages=3), 90, compiled)}
    assert found[""] == found["BLOCK=128"] == found["num_stages=2"] == found["BLOCK=128 num_warps=8"] == ""
    assert found["num_stages=4"] == "needs 240 KiB of shared memory"
    assert found["BLOCK=32"] == "cannot be compiled: ValueError"
    found = {written(t.tile): t.refused for t in trials(a_launch(BLOCK=128, num_warps=4, num_stages=2), 90, compiled)}
    assert found["BLOCK=256"] == "spills 8 bytes" and found["num_stages=3"] == ""
    found = {written(t.tile): t.refused for t in trials(a_launch(BLOCK=128, num_warps=4, num_stages=2), 80, compiled)}
    assert found["num_stages=3"] == "needs 180 KiB of shared memory"


def test_compilers_say_what_choices_take() -> None:
    """Triton's own compiler: a launch as it is, and with what a table may change."""
    of = package(artefact().files)
    with recorded(of) as found:
        mixed(of, "meta", torch.bfloat16)
    (one,) = found
    assert one.known_as == LAUNCH.replace("fp32", "bf16") and one.tile() == USUAL
    usual, more = one.compile(90), one.changed({"BLOCK": 64, "num_warps": 2}).compile(90)
    assert more.registers > usual.registers and usual.spilled == 0


@pytest.mark.full
@pytest.mark.parametrize("device", ["sm_80", "sm_90", "sm_100"])
def test_choices_for_a_network_are_compiled(device: str) -> None:
    """Of every kernel of small networks, in training: what is left out is what a GPU has no room for."""
    for spec, overrides in (("swin_t", {"depths": [1, 1, 1, 1]}), ("poolformer_s12", {"depths": [1, 1, 1, 1]})):
        made = compile_spec(spec, passes=with_kernels(level(1), Fuse("all")), overrides=overrides)
        rehearsed = rehearse(made, device, 2)
        assert rehearsed.tried and "nothing was run" in rehearsed.text()
        for one, tried in rehearsed.tried:
            usual = tried[0].compiled
            assert usual is not None and sum(not t.refused for t in tried) > 1, one
            for t in tried:
                if t.compiled is not None:
                    shared = t.compiled.shared <= SHARED_MEMORY[rehearsed.capability]
                    assert (shared and t.compiled.spilled <= usual.spilled) == (not t.refused), (one, t)


# -- measured ------------------------------------------------------------------------------------


def mixed(of: Any, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    a, v = (torch.randn(n).to(device, dtype) for n in ((1, 1, 20, 9), (1, 4, 5, 16)))
    out: torch.Tensor = of.fused.local_mix_in_place(a, v, 3, edge="zeros", softmax=True)
    return out


def tuned(path: Path, spoiled: int = 0, interrupted: bool = False) -> tuple[list[str], Tiles, float]:
    """A launch tried in the interpreter, whose clock counts programs: those of what it measured, the table, and the
    result's error. Tiles of `spoiled` positions are made to compute something else.
    """
    of = package(artefact().files)
    wanted, programs, launch = mixed(of), [], of.kernels.launch

    def counted(kernel: Any, count: Callable[[dict[str, Any]], int], *arguments: Any, **meta: Any) -> None:
        programs.append(count(meta))
        launch(kernel, count, *arguments, **meta)
        if meta["BLOCK"] == spoiled:
            arguments[3].view(-1)[5] += 9.0

    def clock(ran: Callable[[], None]) -> float:
        if interrupted and len(measured) == 3:
            raise KeyboardInterrupt
        ran()
        measured.append(programs[-1])
        return 1e-6 * programs[-1]

    of.kernels.launch = counted
    measured: list[int] = []
    kept = read_tiles(path) if path.exists() else Tiles()

    def keep(gpu: Gpu, _: Measured) -> None:
        path.write_text(Tiles({"sm_90": gpu}).text())

    gpu = kept.gpus.get("sm_90", Gpu("a GPU", VERSIONS))
    tuner = Tuner(of, 90, gpu, clock, keep, lambda *_: Compiled(0, 0, 0, ""))
    try:
        with tuner.tuning():
            found = mixed(of)
    finally:
        of.kernels.launch = launch
    return [str(n) for n in measured], read_tiles(path), float((found - wanted).norm())


def test_choices_that_compute_something_else_are_left_out(interpreting: Executor, tmp_path: Path) -> None:
    measured, tiles, apart = interpreting.submit(tuned, tmp_path / "tiles.json", 32).result()
    (one,) = tiles.gpus["sm_90"].measured
    assert one.launch == LAUNCH and one.shapes == "1x1x20x9 1x4x5x16 1x4x5x16 0"
    assert one.refused == dict.fromkeys(("BLOCK=32", "BLOCK=32 num_warps=2", "BLOCK=32 num_warps=8"), WRONG)
    assert one.seconds[""] == pytest.approx(2e-6) and one.seconds["BLOCK=8"] == pytest.approx(3e-6)
    assert len(measured) == len(one.seconds) > 10 and apart == 0.0
    assert tiles.chosen() == {}


def test_what_is_measured_is_kept_and_the_fastest_is_chosen(interpreting: Executor, tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    with pytest.raises(KeyboardInterrupt):
        interpreting.submit(tuned, path, interrupted=True).result()
    assert not path.exists()
    first, tiles, _ = interpreting.submit(tuned, path).result()
    again, same, _ = interpreting.submit(tuned, path).result()
    assert first and not again and same == tiles
    assert tiles.chosen() == {"sm_90": {LAUNCH: {"BLOCK": 32}}}


def network(path: Path) -> tuple[Tuned, list[str]]:
    """A network tuned in the interpreter, as on a GPU, by a clock that finds four warps slow; and what was told."""
    told: list[str] = []
    warps: list[int] = []
    of = package(artefact().files)
    launch = of.kernels.launch

    def watched(*arguments: Any, **meta: Any) -> None:
        warps.append(meta["num_warps"])
        launch(*arguments, **meta)

    def clock(ran: Callable[[], None]) -> float:
        ran()
        return 2e-6 if warps[-1] == 4 else 1e-6

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tuning, "place_of", lambda device: torch.device("cpu"))
        patched.setattr(tuning, "capability_of", lambda place: 90)
        patched.setattr(torch.cuda, "get_device_name", lambda place: "a GPU")
        patched.setattr(tuning, "package_of", lambda made: of)
        patched.setattr(tuning, "seconds", clock)
        patched.setattr(Launch, "compile", lambda launch, capability: Compiled(0, 0, 0, ""))
        patched.setattr(of.kernels, "launch", watched)
        return tuning.tune(artefact(), path, "cuda", 1, "fp32", False, "local_mix*", told.append), told


def test_a_network_is_tuned_launch_by_launch(interpreting: Executor, tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    first, told = interpreting.submit(network, path).result()
    again, nothing = interpreting.submit(network, path).result()
    assert first.gpu.chosen() == {LAUNCH: {"num_warps": 2}} == again.gpu.chosen()
    assert len(told) == 1 and told[0].startswith(LAUNCH) and not nothing and not again.fresh
    assert read_tiles(path).gpus["sm_90"] == first.gpu
    assert "1 launches of tiny measured on a GPU (sm_90; " in first.text() and str(path) in first.text()
    assert first.table().row_count == 1 and first.as_dict()["measured"] == 1


def freed(case: str) -> dict[str, dict[str, str]]:
    """By launch of a small network that leaves constants open, why other values of them are left out."""
    spec, rules, overrides, size = CASES[case]
    made = compile_spec(spec, passes=with_kernels(level(1), Fuse(rules)), overrides=overrides, input=size or None)
    of, found = package(made.files), {}
    module = getattr(of, made.name)()

    def compiler(launch: Launch, _: int) -> Compiled:
        if launch.tile()["num_warps"] != usual or dict(launch.options).get("num_stages") != stages:
            raise ValueError("the interpreter knows no warps")
        return Compiled(0, 0, 0, "")

    def keep(_: Gpu, measured: Measured) -> None:
        found[measured.launch] = {k: v for k, v in measured.refused.items() if "ValueError" not in v}

    tuner = Tuner(of, 90, Gpu("a GPU", VERSIONS), lambda ran: 1e-6, keep, compiler)
    launch = tuner.launch

    def open_ones(kernel: Any, programs: Any, *arguments: Any, free: Sequence[str] = (), **meta: Any) -> None:
        nonlocal usual, stages
        usual, stages = meta["num_warps"], meta.get("num_stages")
        (launch if free else tuner.usually)(kernel, programs, *arguments, free=free, **meta)

    usual, stages, tuner.launch = 0, 0, open_ones  # type: ignore[method-assign]
    torch.manual_seed(0)
    with tuner.tuning():
        with torch.no_grad():
            module.half().eval()(torch.randn(2, *made.input).half())
        module.float().train()(torch.randn(2, *made.input)).sum().backward()
    return found


@pytest.mark.parametrize("case", [c if c == "products" else pytest.param(c, marks=pytest.mark.full) for c in CASES])
def test_what_launchers_leave_open_may_have_other_values(interpreting: Executor, case: str) -> None:
    """All of them compute the same, but for sides that products cannot have."""
    found = interpreting.submit(freed, case).result()
    assert case != "products" or len(found) >= 2
    for launch, refused in found.items():
        wrong = {tile: why for tile, why in refused.items() if min(tile_of(tile).values()) >= 16}
        assert not wrong, launch


# -- tables --------------------------------------------------------------------------------------


def test_a_choice_has_to_save_more_than_times_differ_by() -> None:
    assert table({"": 1.0, "BLOCK=32": 0.985}).chosen() == {}
    assert table({"": 1.0, "BLOCK=32": 0.9, "num_warps=8": 0.95}).chosen() == {"sm_90": {LAUNCH: {"BLOCK": 32}}}
    two = table({"": 1.0, "BLOCK=32": 0.5, "num_warps=8": 0.8}).gpus["sm_90"]
    two = two.joined(Measured(LAUNCH, "larger", "0", {"": 9.0, "BLOCK=32": 9.6, "num_warps=8": 8.0}))
    assert Tiles({"sm_90": two}).chosen() == {"sm_90": {LAUNCH: {"num_warps": 8}}}, "the least over all sizes"
    assert len(two.joined(replace(two.measured[0], source="1")).measured) == 2


def launched(tiles: Tiles | None, architecture: str = "sm_90") -> tuple[dict[str, int], float]:
    """The constants of a launch with a table, and how far its result is from PyTorch's."""
    of = package(artefact(tiles).files)
    before, of.kernels.architecture, runs = of.kernels.architecture, lambda device: architecture, of.fused.runs
    try:
        with recorded(of) as found:
            mixed(of)
        result = mixed(of)
        of.fused.runs = lambda *_: False
        return found[0].tile(), float((result - mixed(of)).norm() / result.norm())
    finally:
        of.kernels.architecture, of.fused.runs = before, runs


def test_a_table_changes_launches_of_its_architecture(interpreting: Executor) -> None:
    tiles = table({"": 1.0, "BLOCK=32 num_warps=8": 0.5})
    for given, architecture, wanted in (
        (None, "sm_90", USUAL),
        (tiles, "sm_90", USUAL | {"BLOCK": 32, "num_warps": 8}),
        (tiles, "sm_80", USUAL),
    ):
        tile, apart = interpreting.submit(launched, given, architecture).result()
        assert tile == wanted and apart <= 2e-6
    unsafe = table({"": 1.0, "BLOCK_D=8": 0.5})
    tile, apart = interpreting.submit(launched, unsafe).result()
    assert tile == USUAL and apart <= 2e-6, "a table changes nothing but what a launcher leaves open"


def test_tables_are_written_as_they_are_read(tmp_path: Path) -> None:
    tiles = table({"": 4.5e-05, "BLOCK=32 num_warps=2": 4e-05})
    path = tmp_path / "tiles.json"
    path.write_text(tiles.text())
    assert read_tiles(path) == tiles
    text = artefact(tiles).files["kernels.py"]
    assert '    "sm_90": {\n        "local_mix_kernel fp32 ' in text
    assert max(map(len, text.split("\n"))) <= 140
    scope: dict[str, Any] = {}
    exec(text[text.index("TILES: ") : text.index("\n}\n") + 3], scope)
    assert scope["TILES"] == tiles.chosen()
    bare = artefact().files["kernels.py"]
    assert "= {}\n" in bare and ops(bare) != ops(text), "compilers' caches know kernels by their operators' names"


def ops(text: str) -> str:
    return next(line for line in text.split("\n") if line.startswith("OPS = "))


GOOD: dict[str, Any] = json.loads(table({"": 1.0, "BLOCK=32": 0.5}).text())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ("{}", "'tiles' is missing"),
        ('{"tiles": 2}', "it is of version 2"),
        ('{"tiles": 1, "gpus": {"h100": {}}}', "`h100` is no architecture"),
        (json.dumps(GOOD).replace("BLOCK=32", "BLOCK=32.5"), "`BLOCK=32.5` is not NAME=NUMBER"),
        (json.dumps(GOOD).replace("BLOCK=32", "__import__('os')=1"), "is not NAME=NUMBER"),
        (json.dumps(GOOD).replace("0.5", "NaN"), "`nan` is no time"),
        (json.dumps(GOOD).replace('"shapes"', '"shape"'), "unexpected keyword argument 'shape'"),
    ],
)
def test_a_broken_table_is_a_users_mistake(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "tiles.json"
    path.write_text(text)
    with pytest.raises(ArchError) as caught:
        read_tiles(path)
    (found,) = caught.value.diagnostics
    assert found.code == "E-TILES" and reason in found.title


# -- the command ---------------------------------------------------------------------------------

Run = Callable[[Sequence[str]], tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.arch").write_text(SPEC)

    def call(argv: Sequence[str]) -> tuple[int, str, str]:
        status = main(argv)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_a_rehearsal_needs_no_gpu(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Launch, "compile", lambda launch, capability: Compiled(0, 32, 0, ""))
    status, out, _ = run(["tune", "tiny.arch", "--kernels", "local_mix", "--dry", "--forward-only", "--json"])
    found = json.loads(out)
    assert status == 0 and found["architecture"] == "sm_90" and len(found["launches"]) == 2
    assert {"instead", "registers", "spilled", "shared", "left_out"} == found["launches"][0]["choices"][0].keys()
    assert not Path("tiles.json").exists()


def test_measuring_needs_one(run: Run) -> None:
    status, out, err = run(["tune", "tiny.arch", "--device", "cuda:99"])
    assert status == 1 and "error[E-GPU]" in err and "--dry" in err and not out


def test_build_takes_a_table(run: Run) -> None:
    Path("tiles.json").write_text(table({"": 1.0, "BLOCK=32": 0.5}).text())
    kernels = ["--target", "triton", "--kernels", "local_mix"]
    status, _, err = run(["build", "tiny.arch", *kernels, "--tiles", "tiles.json"])
    assert status == 0, err
    assert '"BLOCK": 32' in Path("generated/tiny/kernels.py").read_text()
    assert run(["build", "tiny.arch", "--tiles", "tiles.json"])[0] == 1
    status, _, err = run(["build", "tiny.arch", *kernels, "--tiles", "none.json"])
    assert status == 1 and "error[E-FILE]" in err
