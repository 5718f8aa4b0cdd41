"""Turns the words of a command line into a namespace: which commands there are, and what each takes."""

from __future__ import annotations

import argparse
from pathlib import Path

from archdsl import __version__

MODES = ("eval", "train", "tune", "deploy")


def parser() -> argparse.ArgumentParser:
    """Of the whole command line; the namespace it makes has the name of the `command`."""
    made = argparse.ArgumentParser(
        prog="archdsl",
        description="A compiler for vision backbones: text specs to readable PyTorch modules.",
        epilog="SPEC is a file, a bare name (swin_s: looked up in ./specs, then in the shipped specs) or FILE:NAME.",
    )
    made.add_argument("--version", action="version", version=f"archdsl {__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(command=name, ops=[])
        return sub

    build = command("build", "write a spec's PyTorch module and print what each stage costs")
    build.add_argument("spec", nargs="+", metavar="SPEC")
    _package_options(build)
    build.add_argument(
        "--target", choices=("torch", "triton"), default="torch", help="triton: write GPU kernels, too (torch)"
    )
    build.add_argument(
        "--kernels",
        default="planned",
        metavar="RULES",
        help="with --target triton: planned for a device, all, or names of fusion rules, a+b (planned)",
    )
    build.add_argument("--tiles", metavar="FILE", help="with --target triton: what `archdsl tune` measured of kernels")
    build.add_argument("--explain", action="store_true", help="say what generated kernels would gain on a device")
    _device_options(build, "for --explain and --target triton")
    _graph_options(build)
    _pass_options(build)

    check = command("check", "report every mistake in spec files and run their `check` lines")
    check.add_argument("spec", nargs="+", metavar="SPEC")
    _ops_option(check)

    fmt = command("fmt", "format spec files in place")
    fmt.add_argument("file", nargs="+", type=Path, metavar="FILE")
    fmt.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    fmt.add_argument("--diff", action="store_true", help="change nothing; print what would change")

    cost = command("cost", "print parameters, multiply-adds, activations and bytes")
    cost.add_argument("spec", metavar="SPEC")
    cost.add_argument("--per", choices=("stage", "block", "op"), default="stage", help="one row for each (stage)")
    cost.add_argument(
        "--count",
        choices=("macs", "timm"),
        default="macs",
        help="macs: as in the papers; timm: as timm's tables (macs)",
    )
    cost.add_argument("--bytes", type=_positive, default=4, metavar="N", help="bytes an element (4)")
    cost.add_argument(
        "--device", default="", metavar="NAME", help="predict the time on h200, h100, a100, rtx4090, cpu ..."
    )
    cost.add_argument("--batch", type=_positive, default=1, metavar="N", help="images at once, on the device (1)")
    cost.add_argument("--dtype", default="", metavar="TYPE", help="bf16, fp16 or fp32 (what is usual on the device)")
    cost.add_argument(
        "--plan", choices=("eager", "inductor"), default="eager", help="which ops share a kernel on the device (eager)"
    )
    cost.add_argument("--json", action="store_true", help="print JSON")
    _graph_options(cost)

    score = command("score", "predict how specs rank among published models, and say how far to trust it")
    score.add_argument("spec", nargs="+", metavar="SPEC", help="or `eval` alone: validate the score on those models")
    score.add_argument(
        "--proxy", action="append", default=[], metavar="NAME", help="a zero-cost proxy's number instead (repeatable)"
    )
    score.add_argument("--json", action="store_true", help="print JSON")
    _graph_options(score)

    search = command("search", "search a space for the best architectures within a budget")
    search.add_argument("--space", default="hybrid", metavar="FILE[:NAME]", help="the space to search (hybrid)")
    search.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="AMOUNT",
        help="what it may cost: 4GFLOPs (a multiply-add is one), 30Mparams, 12Macts, 600MB, 2ms@h200, "
        "2ms@local (measured on this machine); repeatable",
    )
    search.add_argument(
        "--objective",
        action="append",
        default=[],
        metavar="NAME",
        help="what to trade off: score, macs, params, activations, bytes, latency@h200x64 (score and the space's)",
    )
    search.add_argument(
        "--min-util", type=_share, default=0.975, metavar="SHARE", help="of a budget (0.975), unless one is measured"
    )
    search.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    search.add_argument("--trials", type=_positive, default=1_000_000, help="distinct candidates to price (1000000)")
    search.add_argument(
        "--evaluate", default="", metavar="WHAT", help="then measure: proxy:NAME, latency:local or train:RECIPE.toml"
    )
    search.add_argument(
        "--evaluations", type=_positive, default=100, help="candidates to measure, where some are (100)"
    )
    search.add_argument(
        "--evolve-space",
        type=_positive,
        nargs="?",
        const=16,
        default=0,
        metavar="STEPS",
        help="move the space to where random points are good, in at most so many steps (16), then search there",
    )
    search.add_argument("--front", type=_positive, default=32, help="members of the front to write out (32)")
    search.add_argument("--input", metavar="CxHxW", help="input size; the arch's own by default")
    search.add_argument(
        "--time-limit", type=float, metavar="SECONDS", help="stop then; the result depends on the machine"
    )
    search.add_argument("--workers", type=_positive, default=1, help="processes (1); the result is the same")
    search.add_argument(
        "--storage",
        metavar="URL",
        help="keep an Optuna study there: journal:PATH, sqlite:///PATH, postgresql://...; again with --resume",
    )
    search.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted search")
    search.add_argument("-o", "--output", type=Path, default=Path("runs"), metavar="DIR", help="where runs go (runs)")
    search.add_argument("--name", help="directory of the run below it (the space, the budgets and a number)")
    search.add_argument("--json", action="store_true", help="print JSON")

    shown = command("show", "print what a spec is turned into")
    shown.add_argument("spec", metavar="SPEC")
    shown.add_argument(
        "--emit",
        choices=("tree", "ir", "torch", "layouts"),
        default="ir",
        help="syntax tree, graph, PyTorch module, or the orders of positions that cost least (ir)",
    )
    _device_options(shown, "for layouts")
    shown.add_argument(
        "--kernels", default="", metavar="OPS", help="ops with kernels that move what they read and write"
    )
    _graph_options(shown)
    _pass_options(shown, usual=0)

    space = command("space", "say what a space draws, how large it is, and what a sample of it costs")
    space.add_argument("action", choices=("info",))
    space.add_argument("space", metavar="SPACE", help="a file, FILE:NAME, or a bare name as `hybrid`")
    space.add_argument("--samples", type=_positive, default=200, metavar="N", help="points to elaborate (200)")
    space.add_argument("--bounds", action="store_true", help="prove what no point falls below (up to minutes)")
    space.add_argument("--json", action="store_true", help="print JSON")
    _ops_option(space)

    listed = command("list", "list the architectures of ./specs and the shipped ones")
    listed.add_argument("--json", action="store_true", help="print JSON")
    _ops_option(listed)

    passes = command("passes", "list the passes, or say what each does to a spec")
    passes.add_argument("spec", metavar="SPEC", nargs="?")
    _graph_options(passes)
    _pass_options(passes)

    ops = command("ops", "list the vocabulary, or describe one op")
    ops.add_argument("name", nargs="?", metavar="NAME")
    _ops_option(ops)

    lint = command("lint", "rewrite spec files where their meaning should be made explicit")
    lint.add_argument("file", nargs="+", type=Path, metavar="FILE")
    lint.add_argument("--pin", action="store_true", required=True, help="write automatic weight names out as labels")
    _ops_option(lint)

    explain = command("explain", "explain a diagnostic's code, or list all codes")
    explain.add_argument("code", nargs="?", metavar="CODE")

    compare = command("compare", "say in what two specs differ: weights, shapes, costs, or computed values")
    compare.add_argument("a", metavar="SPEC")
    compare.add_argument("b", metavar="SPEC|timm:NAME")
    compare.add_argument(
        "--weights", metavar="FILE|random:SEED", help="run both on these weights, and find where they first deviate"
    )
    compare.add_argument("--mode-b", choices=MODES, help="mode of the second spec (the first's)")
    compare.add_argument(
        "--tolerance", type=float, default=1e-9, metavar="X", help="relative deviation that is rounding (1e-9)"
    )
    _graph_options(compare)

    bench = command("bench", "measure a spec's module against timm's model on one CPU thread")
    bench.add_argument("spec", metavar="SPEC")
    bench.add_argument("--vs", required=True, metavar="timm:NAME", help="timm's model")
    bench.add_argument("--training", action="store_true", help="forward and backward instead of inference")
    bench.add_argument("--batch", type=_positive, default=1, metavar="N", help="images at a time (1)")
    bench.add_argument("--rounds", type=_positive, default=20, metavar="N", help="runs of each model (20)")
    bench.add_argument("--json", action="store_true", help="print JSON")
    _graph_options(bench)

    tune = command("tune", "measure on a GPU with which constants a spec's kernels run fastest, and write a table")
    tune.add_argument("spec", metavar="SPEC")
    tune.add_argument(
        "--device",
        dest="on",
        default="cuda",
        metavar="GPU",
        help="cuda or cuda:N; with --dry an architecture: sm_80, sm_90, sm_100 (cuda; sm_90)",
    )
    tune.add_argument("--batch", type=_positive, default=64, metavar="N", help="images at once (64)")
    tune.add_argument("--dtype", default="", metavar="TYPE", help="bf16, fp16 or fp32 (what is usual on the device)")
    tune.add_argument(
        "--kernels",
        default="planned",
        metavar="RULES",
        help="which: as for `archdsl build --target triton`, planned for --plan-for (planned)",
    )
    tune.add_argument(
        "--plan-for", dest="device", default="h200", metavar="NAME", help="whose rates count for the plan (h200)"
    )
    tune.add_argument("--only", default="*", metavar="PATTERN", help="kernels of these names, as *linear* (*)")
    tune.add_argument("--forward-only", action="store_true", help="not what a training step launches")
    tune.add_argument("--dry", action="store_true", help="compile what would be tried, and run nothing: needs no GPU")
    tune.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("tiles.json"),
        metavar="FILE",
        help="the table; what it has is not measured again (tiles.json)",
    )
    tune.add_argument("--json", action="store_true", help="print JSON")
    tune.set_defaults(target="triton")
    _graph_options(tune)
    _pass_options(tune)

    emit = command("emit", "lower a spec's module to another form")
    emit.add_argument("spec", metavar="SPEC")
    emit.add_argument(
        "--mlir", choices=("linalg", "torch"), required=True, help="MLIR in this dialect (needs torch-mlir)"
    )
    emit.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to FILE (standard output)")
    emit.add_argument(
        "--elide-weights",
        dest="weights",
        action="store_false",
        help="leave large constants out: readable, not runnable",
    )
    _graph_options(emit)
    _pass_options(emit)
    imported = command("import-weights", "bring published weights under a spec's names, strictly")
    imported.add_argument("source", metavar="SOURCE", help="timm:NAME, or a safetensors file")
    imported.add_argument("spec", metavar="SPEC")
    imported.add_argument("--check", action="store_true", help="compare logits with timm's model in float64")
    imported.add_argument(
        "--adapt",
        action="append",
        default=[],
        choices=("inputs", "patch", "classes"),
        help="fit another number of image channels, patch size or number of classes",
    )
    imported.add_argument("--partial", action="store_true", help="take what matches and only warn of the rest")
    _weights_options(imported)

    exported = command("export-weights", "give a spec's weights the names another library uses, or its deploy form")
    exported.add_argument("spec", metavar="SPEC")
    exported.add_argument("file", metavar="FILE", help="a safetensors file of the spec's weights")
    exported.add_argument("--names", choices=("timm",), help="whose names (timm; with --mode deploy the spec's)")
    _weights_options(exported)
    _pass_options(exported)

    deployed = command("deploy", "write a spec's deploy module and the weights that trained ones become, and compare")
    deployed.add_argument("spec", metavar="SPEC")
    deployed.add_argument("file", metavar="FILE", help="a safetensors file of the spec's weights, as they were trained")
    _package_options(deployed)
    _size_options(deployed)
    _pass_options(deployed)
    return made


def _weights_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a safetensors file (only report)")
    parser.add_argument("--model", default="", metavar="NAME", help="timm's model, where the file does not say")
    parser.add_argument("--table", metavar="TABLE", help="a shipped table of names, a TOML file, or none")
    _graph_options(parser)


def _pass_options(parser: argparse.ArgumentParser, usual: int = 1) -> None:
    parser.add_argument(
        "-O", type=int, choices=(0, 1, 2), default=usual, help=f"0: as elaborated; 1, 2: optimized ({usual})"
    )
    parser.add_argument("--passes", metavar="LIST", help="these passes instead: a,b{option=4}; see `archdsl passes`")
    parser.add_argument("--print-after", metavar="PASS", help="print what a pass, or `all`, changes in the graph")


def _package_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("generated"), metavar="DIR", help="write to DIR/NAME/ (generated)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that were edited by hand")


def _device_options(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument("--device", default="h200", metavar="NAME", help=f"whose rates count, {use} (h200)")
    parser.add_argument("--batch", type=_positive, default=64, metavar="N", help=f"images at once, {use} (64)")
    parser.add_argument("--dtype", default="", metavar="TYPE", help=f"bf16, fp16 or fp32, {use} (the device's)")


def _graph_options(parser: argparse.ArgumentParser) -> None:
    _size_options(parser)
    parser.add_argument("--mode", choices=MODES, default="eval", help="(eval)")


def _size_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", metavar="CxHxW", help="size of the input image, as 3x384x384")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="give a parameter of the arch another value, written as in a spec",
    )
    _ops_option(parser)


def _ops_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ops", action="append", default=[], type=Path, metavar="FILE", help="add the ops of a Python file (it is run)"
    )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier() or not value.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
