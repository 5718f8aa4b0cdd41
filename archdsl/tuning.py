"""Turns a spec's kernels into a table of the constants with which a GPU runs them fastest. Needs torch and triton."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from triton.testing import do_bench

from archdsl.api import Artefact
from archdsl.backends.launches import (
    CAPABILITIES,
    SHARED_MEMORY,
    Compiled,
    Grid,
    Launch,
    launch_of,
    recorded,
    replaced,
    run,
    source_of,
)
from archdsl.backends.load import import_files
from archdsl.backends.torch.tiles import USUAL, Gpu, Measured, Tile, Tiles, read_tiles, written
from archdsl.backends.write import write_file
from archdsl.diagnostics import error
from archdsl.weights.random import random_weight

if TYPE_CHECKING:
    from rich.table import Table

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ROUNDING = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-4}
"""How far results of two choices may be apart, relatively: they add up in another order."""
LEAST_SHARED = 99 << 10

Clock = Callable[[Callable[[], None]], float]
"""Seconds that a launch takes."""
Compiler = Callable[[Launch, int], Compiled]


def other_tiles(tile: Tile) -> list[dict[str, int]]:
    """What to try in place of a choice: one thing halved, doubled or a step on, then a constant together with warps."""
    one: list[dict[str, int]] = []
    for name, value in tile.items():
        near = (value - 1, value + 1) if name == "num_stages" else (value // 2, value * 2)
        most = {"num_stages": 5, "num_warps": 16}.get(name, 1 << 16)
        one += [{name: n} for n in near if 1 <= n <= most]
    warps = [change for change in one if "num_warps" in change]
    two = [a | b for a in one for b in warps if not a.keys() & {"num_warps", "num_stages"}]
    return [*one, *two]


@dataclass(frozen=True)
class Trial:
    """A choice, what it takes of a GPU, and why it is left out, or ""."""

    tile: Tile
    compiled: Compiled | None
    refused: str = ""


def trials(launch: Launch, capability: int, compiler: Compiler | None = None) -> Iterator[Trial]:
    """Every choice for a launch, compiled, the usual one first: others are left out where they spill more, say."""
    compiler = compiler or Launch.compile
    usual = compiler(launch, capability)
    yield Trial({}, usual)
    for tile in other_tiles(launch.tile()):
        try:
            compiled = compiler(launch.changed(tile), capability)
        except Exception as e:  # Triton's passes and ptxas raise many kinds
            yield Trial(tile, None, f"cannot be compiled: {type(e).__name__}")
            continue
        most = SHARED_MEMORY.get(capability, LEAST_SHARED)
        if compiled.shared > most:
            yield Trial(tile, compiled, f"needs {compiled.shared >> 10} KiB of shared memory")
        elif compiled.spilled > usual.spilled:
            yield Trial(tile, compiled, f"spills {compiled.spilled} bytes")
        else:
            yield Trial(tile, compiled)


@dataclass
class Tuner:
    """Stands in for a package's `launch`: each launch that is not known yet is tried with other constants as it comes.

    Tensors are those of a real run. `keep` is told of every launch when it has been measured.
    """

    package: ModuleType
    capability: int
    gpu: Gpu
    clock: Clock
    keep: Callable[[Gpu, Measured], None]
    compiler: Compiler | None = None
    only: str = "*"

    def __post_init__(self) -> None:
        self.usually = self.package.kernels.launch

    @contextmanager
    def tuning(self) -> Iterator[None]:
        with replaced(self.package, self.launch):
            yield

    def launch(self, kernel: Any, programs: Grid, *arguments: Any, free: tuple[str, ...] = (), **meta: Any) -> None:
        known_as = self.package.kernels.known_as(kernel, arguments, meta)
        one = launch_of(kernel, arguments, meta, known_as, free)
        source = hashlib.sha256(source_of(kernel).encode()).hexdigest()[:12]

        def ran(tile: Tile) -> None:
            self.usually(kernel, programs, *arguments, free=free, **(meta | dict(tile)))

        if fnmatch(one.name, self.only) and not self.gpu.known(known_as, one.shapes, source):
            measured = self.measured(one, source, ran, [x for x in arguments if isinstance(x, Tensor)])
            self.gpu = self.gpu.joined(measured)
            self.keep(self.gpu, measured)
        ran({})

    def measured(self, launch: Launch, source: str, ran: Callable[[Tile], None], tensors: Sequence[Tensor]) -> Measured:
        """Times of all choices that compute the same. Kernels write into fresh tensors: what changes is a result."""
        before = [x.clone() for x in tensors]
        ran({})
        wanted = [x.clone() for x in tensors]
        results = [x for x, was in zip(tensors, before, strict=True) if not _same(x, was, 0.0)]
        apart = ROUNDING[next(x.dtype for x in tensors if x.dtype in ROUNDING)]
        seconds, refused = {}, {}
        for trial in trials(launch, self.capability, self.compiler):
            name = written(trial.tile)
            if trial.refused:
                refused[name] = trial.refused
                continue
            for x in results:
                x.fill_(float("nan") if x.is_floating_point() else -1)
            try:
                ran(trial.tile)
                if not all(_same(x, y, apart) for x, y in zip(tensors, wanted, strict=True)):
                    refused[name] = "computes something else"
                else:
                    seconds[name] = self.clock(lambda tile=trial.tile: ran(tile))  # type: ignore[misc]
            except torch.AcceleratorError:
                raise  # the GPU takes no more launches of this process
            except Exception as e:  # of Triton, which has many kinds
                refused[name] = f"does not run: {type(e).__name__}"
        return Measured(launch.known_as, launch.shapes, source, seconds, refused)


def _same(x: Tensor, y: Tensor, apart: float) -> bool:
    """Whether x is y up to a part of y's norm, and has NaN where y has."""
    if not x.is_floating_point():
        return torch.equal(x, y)
    nowhere = x.isnan()
    if not torch.equal(nowhere, y.isnan()):
        return False
    x, y = (t.float().nan_to_num(0.0) for t in (x, y))
    return bool((x - y).norm() <= apart * y.norm())


@dataclass(frozen=True)
class Tuned:
    """The launches that were tried, and the GPU's table with what is known of others."""

    spec: str
    architecture: str
    gpu: Gpu
    path: Path
    fresh: tuple[Measured, ...]

    def as_dict(self) -> dict[str, object]:
        return {
            "spec": self.spec,
            "architecture": self.architecture,
            "gpu": self.gpu.name,
            "versions": dict(self.gpu.versions),
            "measured": len(self.fresh),
            "chosen": self.gpu.chosen(),
        }

    def table(self) -> Table:
        """One row a launch that was measured."""
        table = _table("kernel", "constants", "better")
        for title in ("usual", "best", "tried", "left out"):
            table.add_column(title, justify="right")
        chosen = self.gpu.chosen()
        for m in self.fresh:
            kernel, _, constants = m.launch.partition(" ")
            best = chosen.get(m.launch, {})
            times = [f"{1e6 * m.seconds[t]:.1f} us" if t in m.seconds else "" for t in (USUAL, written(best))]
            table.add_row(kernel, constants, written(best), *times, str(len(m.seconds)), str(len(m.refused)))
        return table

    def text(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.gpu.versions.items())
        return (
            f"{len(self.fresh)} launches of {self.spec} measured on {self.gpu.name} ({self.architecture}; {versions}); "
            f"{len(self.gpu.chosen())} gain from another choice\nuse it: archdsl build {self.spec} --target triton "
            f"--tiles {self.path}"
        )


@dataclass(frozen=True)
class Rehearsed:
    """What a GPU would be given to try: every launch with its choices, compiled."""

    spec: str
    capability: int
    tried: Sequence[tuple[Launch, Sequence[Trial]]]

    def as_dict(self) -> dict[str, object]:
        return {
            "spec": self.spec,
            "architecture": f"sm_{self.capability}",
            "launches": [
                {"launch": one.known_as, "choices": [_numbers(t) for t in all_of]} for one, all_of in self.tried
            ],
        }

    def table(self) -> Table:
        """One row a choice."""
        table = _table("kernel", "constants", "instead")
        for title in ("registers", "spilled", "shared"):
            table.add_column(title, justify="right")
        table.add_column("left out, for it")
        for one, all_of in self.tried:
            kernel, _, constants = one.known_as.partition(" ")
            for t in all_of:
                row = ("", "", "") if t.compiled is None else _taken(t.compiled)
                table.add_row(*((kernel, constants) if not t.tile else ("", "")), written(t.tile), *row, t.refused)
        return table

    def text(self) -> str:
        every = [t for _, all_of in self.tried for t in all_of]
        left = sum(not t.refused for t in every)
        return (
            f"{len(self.tried)} launches of {self.spec} compiled for sm_{self.capability}; of {len(every)} choices "
            f"a GPU would measure {left}; nothing was run"
        )


def _table(*titles: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(title)
    return table


def _taken(compiled: Compiled) -> tuple[str, str, str]:
    return str(compiled.registers), f"{compiled.spilled} B", f"{compiled.shared >> 10} KiB"


def _numbers(trial: Trial) -> dict[str, object]:
    c = trial.compiled
    taken = {} if c is None else {"registers": c.registers, "spilled": c.spilled, "shared": c.shared}
    return {"instead": dict(trial.tile), **taken, "left_out": trial.refused}


def package_of(artefact: Artefact) -> ModuleType | None:
    """The imported package of a spec, None where it has no kernels."""
    if "kernels.py" not in artefact.files:
        return None
    made = import_files(artefact.name, artefact.files)
    for part in ("fused", "kernels"):
        import_module(f"{made.__name__}.{part}")
    return made


def rehearse(
    artefact: Artefact,
    device: str = "sm_90",
    batch: int = 64,
    dtype: str = "bf16",
    training: bool = True,
    only: str = "*",
) -> Rehearsed:
    """What `tune` would try, compiled for an architecture, or for sm_90; nothing runs. Raises E-GPU for others."""
    names = {f"sm_{c}": c for c in CAPABILITIES} | {"cuda": 90}
    if device not in names:
        raise error("E-GPU", f"kernels are not compiled for `{device}`", help=f"there are {', '.join(names)}")
    capability, package = names[device], package_of(artefact)
    found: list[Launch] = []
    if package is not None:
        module: nn.Module = getattr(package, artefact.name)().to("meta", TYPES[dtype])
        x = torch.empty(batch, *artefact.input, device="meta", dtype=TYPES[dtype])
        with recorded(package) as found:
            for train in (False, True)[: 1 + training]:
                run(module, x, train)
    tried = [(one, tuple(trials(one, capability))) for one in found if fnmatch(one.name, only)]
    return Rehearsed(artefact.name, capability, tried)


def tune(
    artefact: Artefact,
    path: Path,
    device: str = "cuda",
    batch: int = 64,
    dtype: str = "bf16",
    training: bool = True,
    only: str = "*",
    told: Callable[[str], None] = lambda line: None,
) -> Tuned:
    """Measures every launch of a spec on a GPU, and writes the file anew after each: what it knows is not repeated.

    Raises E-GPU where there is none, E-FILE and E-TILES where the file is none of this kind, and E-WRITE.
    """
    place = place_of(device)
    tiles = read_tiles(path) if path.exists() else Tiles()
    capability = capability_of(place)
    architecture = f"sm_{capability}"
    here = Gpu(torch.cuda.get_device_name(place), {name: version(name) for name in ("torch", "triton")})
    before = tiles.gpus.get(architecture)
    gpu = before if before is not None and before.like(here) else here
    fresh: list[Measured] = []

    def keep(found: Gpu, measured: Measured) -> None:
        fresh.append(measured)
        write_file(path, replace(tiles, gpus={**tiles.gpus, architecture: found}).text())
        told(f"{measured.launch}: {len(measured.seconds)} measured, {len(measured.refused)} left out")

    package = package_of(artefact)
    if package is None:
        return Tuned(artefact.name, architecture, gpu, path, ())
    module: nn.Module = getattr(package, artefact.name)()
    state = module.state_dict()
    module.load_state_dict(
        {k: random_weight(k, tuple(v.shape)) if v.is_floating_point() else v for k, v in state.items()}
    )
    module.to(place, TYPES[dtype])
    x = torch.randn(batch, *artefact.input, device=place, dtype=TYPES[dtype])
    tuner = Tuner(package, capability, gpu, seconds, keep, only=only)
    with tuner.tuning():
        for train in (False, True)[: 1 + training]:
            run(module, x, train)
    return Tuned(artefact.name, architecture, tuner.gpu, path, tuple(fresh))


def seconds(launch: Callable[[], None]) -> float:
    """The median by CUDA events, with a cache that holds nothing of the tensors."""
    return 1e-3 * float(do_bench(launch, warmup=10, rep=50, return_mode="median"))


def capability_of(place: torch.device) -> int:
    """A GPU's compute capability: 90 for an H100."""
    major, minor = torch.cuda.get_device_capability(place)
    return 10 * major + minor


def place_of(device: str) -> torch.device:
    """The GPU of this name. Raises E-GPU."""
    try:
        place = torch.device(device)
        there = place.type == "cuda" and torch.cuda.is_available() and (place.index or 0) < torch.cuda.device_count()
    except RuntimeError:
        there = False
    if not there:
        hint = "run it where there is one; --dry compiles what it would try, and needs none"
        raise error("E-GPU", f"torch finds no GPU `{device}` to measure kernels on", help=hint)
    return place
