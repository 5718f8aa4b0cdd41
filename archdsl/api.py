"""Turns a spec into a Graph or an Artefact: what the command line and the Python interface share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from archdsl import __version__
from archdsl.cost import CONVENTIONS, Costs, price
from archdsl.diagnostics import Source, Span, error
from archdsl.frontend.locate import locate
from archdsl.frontend.program import Program
from archdsl.ir.graph import Graph
from archdsl.ir.text import parse_graph
from archdsl.ir.verify import verify
from archdsl.ops.vocabulary import DuplicateOp, Vocabulary
from archdsl.passes.base import Pass
from archdsl.passes.pipeline import Step, level, optimize
from archdsl.syntax.parser import read_source

if TYPE_CHECKING:
    from torch import nn

    from archdsl.backends.torch.tiles import Tiles
    from archdsl.frontend.space import Space

MAX_SIDE = 1 << 16
"""The largest height or width, and number of channels, an input image may have."""


@dataclass(frozen=True)
class Artefact:
    """A compiled spec: its graph and its emitted files (name -> text)."""

    graph: Graph
    files: Mapping[str, str]
    facts: Mapping[str, object] = field(default_factory=dict)
    """What the manifest says of the build, file hashes aside."""

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def input(self) -> tuple[int, ...]:
        """Channels, height and width of the input image it is built for."""
        return self.costs.input

    @cached_property
    def costs(self) -> Costs:
        return price(self.graph)

    def write(self, directory: str | Path, *, force: bool = False) -> Path:
        """Writes `directory`/`name`/ and returns its path. Raises E-EDITED and E-WRITE."""
        from archdsl.backends.write import write_package

        place = Path(directory) / self.name
        write_package(place, self.files, self.facts, force=force)
        return place

    def module(self) -> nn.Module:
        """A new instance of the emitted module, imported from a file in the user's cache directory."""
        from archdsl.backends.load import load_module

        return load_module(self.name, self.files)


def vocabulary(ops: Sequence[str | Path] = ()) -> Vocabulary:
    """The shipped ops, those of installed packages, and those of the Python files `ops`, which are run.

    Raises E-OPS where a file or package cannot be taken.
    """
    found = Vocabulary.of()
    try:
        found = found.with_entry_points()
    except Exception as e:
        raise error("E-OPS", f"an installed package's ops cannot be loaded: {_reason(e)}") from e
    for path in ops:
        try:
            found = found.with_file(path)
        except DuplicateOp as e:
            raise error("E-OPS", str(e), help="give the op another name") from e
        except Exception as e:  # whatever a user's file raises while it runs
            raise error("E-OPS", f"cannot take ops from `{path}`: {_reason(e)}", _line_of(e, Path(path))) from e
    return found


def open_spec(spec: str | Path, ops: Sequence[str | Path] = ()) -> tuple[Program, str | None]:
    """The program a spec (file, bare name, FILE:NAME, or a text of several lines) stands for, and its arch."""
    if isinstance(spec, str) and ("\n" in spec or "{" in spec):
        return Program.parse(Source("<text>", spec), vocabulary=vocabulary(ops)), None
    found = locate(spec)
    return Program.open(found.path, vocabulary(ops)), found.arch


def open_space(spec: str | Path, ops: Sequence[str | Path] = ()) -> Space:
    """The space that a file (its first), a bare name or FILE:NAME stands for. Raises ArchError."""
    from archdsl.frontend.space import Space

    found = locate(spec, kind="space")
    return Space.open(Program.open(found.path, vocabulary(ops)), found.arch)


def elaborate(
    spec: str | Path,
    *,
    input: str | Sequence[int] | None = None,
    mode: str = "eval",
    ops: Sequence[str | Path] = (),
    overrides: Mapping[str, object] | None = None,
) -> Graph:
    """The graph of a spec. Raises ArchError."""
    size = None if input is None else parse_input(input)
    program, arch = open_spec(spec, ops)
    return program.elaborate(arch, mode=mode, input=size, overrides=overrides or {})


def parse_input(text: str | Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width) of "3x224x224" or of three integers. Raises E-INPUT."""
    if isinstance(text, str):
        shown, numbers = text, re.fullmatch(r"(\d{1,9})x(\d{1,9})x(\d{1,9})", text.strip())
        sizes = () if numbers is None else tuple(int(n) for n in numbers.groups())
    else:
        shown, sizes = "x".join(map(str, text)), tuple(text)
    if len(sizes) != 3 or not all(isinstance(n, int) and 1 <= n <= MAX_SIDE for n in sizes):
        raise error(
            "E-INPUT",
            f"`{shown}` is not the size of an image",
            help=f"write channels x height x width, each from 1 to {MAX_SIDE}, as in --input 3x224x224",
        )
    return sizes[0], sizes[1], sizes[2]


def compile_spec(
    spec: str | Path,
    *,
    input: str | Sequence[int] | None = None,
    mode: str = "eval",
    ops: Sequence[str | Path] = (),
    overrides: Mapping[str, object] | None = None,
    passes: Sequence[Pass] | None = None,
    watch: Callable[[Step], None] | None = None,
    tiles: Tiles | None = None,
) -> Artefact:
    """The graph and the emitted PyTorch files of a spec, or of an .ir file. Raises ArchError.

    The passes of -O1 run, or those given; `watch` is told of each. `tiles` says how kernels are launched.
    """
    from archdsl.backends.torch import Unsupported, emit
    from archdsl.backends.torch.reserved import check_names
    from archdsl.backends.write import sha256

    size = None if input is None else parse_input(input)
    passes, overrides = level(1) if passes is None else passes, overrides or {}
    settled: Graph | None = None
    if Path(str(spec)).suffix == ".ir":
        main, graph = _read_graph(Path(spec), ops, size, mode, overrides)
        sources = [main]
    else:
        program, arch = open_spec(spec, ops)
        graph = program.elaborate(arch, mode=mode, input=size, overrides=overrides)
        if mode == "train" and len(graph.outputs) > 1:
            settled = optimize(program.elaborate(arch, input=size, overrides=overrides), passes)
        main, sources = program.source, [f.tree.source for f in program.loader.files.values()]
    graph = optimize(graph, passes, watch)
    try:
        check_names(graph)
        files = emit(graph, sha256(main.text), __version__, settled, tiles)
    except Unsupported as e:
        raise error("E-LOWERING", f"`{graph.name}` cannot be written in PyTorch: {e}", e.span, help=e.help) from e
    facts = _facts(main, sources, graph, overrides) | {"passes": [str(p) for p in passes]}
    if tiles is not None:
        facts["tiles"] = sha256(tiles.text())
    return Artefact(graph, files, facts)


def _read_graph(
    path: Path,
    ops: Sequence[str | Path],
    size: tuple[int, int, int] | None,
    mode: str,
    overrides: Mapping[str, object],
) -> tuple[Source, Graph]:
    """The graph that an .ir file holds, verified. Raises E-IR, E-FILE and E-OPS."""
    source = read_source(path)
    graph = parse_graph(source.text, vocabulary(ops), name=source.name)
    if size is not None or overrides or mode not in ("eval", graph.mode):
        title = f"`{path.name}` holds one graph, of one size, variant and mode"
        raise error("E-IR", title, help="give --input, --set and --mode to `archdsl show SPEC --emit ir`")
    if broken := verify(graph):
        raise error("E-IR", f"the graph of `{path.name}` is broken: {broken[0]}")
    return source, graph


def _facts(main: Source, sources: Sequence[Source], graph: Graph, overrides: Mapping[str, object]) -> dict[str, object]:
    """What a build records: everything it depends on, no times and no places, so that rebuilding changes nothing."""
    from archdsl.backends.write import sha256

    costs = price(graph)
    return {
        "name": graph.name,
        "archdsl": __version__,
        "spec": Path(main.name).name,
        "sources": {Path(s.name).name: sha256(s.text) for s in sources},
        "input": list(costs.input),
        "mode": graph.mode,
        "overrides": {name: str(value) for name, value in overrides.items()},
        "costs": costs.total.as_dict() | {"convention": CONVENTIONS["macs"]},
    }


def _reason(e: BaseException) -> str:
    text = str(e).strip().splitlines()
    return f"{type(e).__name__}: {text[0]}" if text else type(e).__name__


def _line_of(e: BaseException, path: Path) -> Span | None:
    """The line of the user's file that an exception arose in."""
    import traceback

    lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if Path(f.filename).name == path.name]
    if isinstance(e, SyntaxError) and e.filename is not None and Path(e.filename).name == path.name:
        lines.append(e.lineno)
    if not lines or lines[-1] is None:
        return None
    source = Source(str(path), path.read_text(encoding="utf-8", errors="replace"))
    text = source.lines[lines[-1] - 1]
    return Span(source, lines[-1], len(text) - len(text.lstrip()) + 1, lines[-1], len(text.rstrip()) + 1)
