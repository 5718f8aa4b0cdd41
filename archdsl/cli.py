"""Turns command-line arguments into calls and their outcome into an exit status; decides nothing itself.

Exit status: 0 fine, 1 a mistake in what the user wrote, 2 wrong usage, 70 a mistake of archdsl itself, 130
interrupted, 141 the reader of the output went away. Every command imports what it needs, and nothing else does.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archdsl import __version__
from archdsl.diagnostics import ArchError, Diagnostic, did_you_mean, error, render_all
from archdsl.output import print_diff, print_json, show, tell

if TYPE_CHECKING:
    from archdsl.api import Artefact
    from archdsl.deviation import Trial
    from archdsl.frontend.program import Program
    from archdsl.ir.graph import Graph
    from archdsl.passes.base import Pass
    from archdsl.passes.pipeline import Step

FINE, MISTAKE, INTERNAL, INTERRUPTED, NO_READER = 0, 1, 70, 130, 141

MODES = ("eval", "train", "deploy")

Command = Callable[[argparse.Namespace], int]


def console() -> int:
    """`main`, for a process that ends with it: its memory is given back whole, not searched for cycles first."""
    gc.disable()
    status = main()
    gc.freeze()
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    collects = gc.isenabled()
    gc.disable()  # a run is short and leaves next to no cycles: looking for them takes a tenth of its time
    try:
        return _run(argv)
    finally:
        if collects:
            gc.enable()


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse_args(argv)
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except ArchError as e:
        return _report(e.diagnostics)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except Exception:
        return _internal_error()


# -- commands ------------------------------------------------------------------------------------


def _build(args: argparse.Namespace) -> int:
    mistakes: list[Diagnostic] = []
    for spec in args.spec:
        try:
            artefact = _compile(args, spec)
            place = artefact.write(args.output, force=args.force)
        except ArchError as e:
            mistakes += e.diagnostics
            continue
        if len(args.spec) > 1:
            print(f"{artefact.name}: {artefact.costs.summary()} -> {place}")
        else:
            show(artefact.costs.table())
            print(artefact.costs.convention())
            print(place / "model.py")
    return _report(mistakes)


def _check(args: argparse.Namespace) -> int:
    found: list[Diagnostic] = []
    for spec in args.spec:
        try:
            program = _open(args, spec)
            mistakes = program.check()
        except ArchError as e:
            mistakes = list(e.diagnostics)
        found += mistakes
        if not _wrong(mistakes):
            print(f"{spec}: ok ({', '.join(program.archs) or 'no arch'})")
    return _report(found)


def _fmt(args: argparse.Namespace) -> int:
    from archdsl.syntax.parser import parse, read_source
    from archdsl.syntax.printer import format_file

    mistakes: list[Diagnostic] = []
    changed = False
    for path in args.file:
        try:
            source = read_source(path)
            text = format_file(parse(source))
            if text == source.text:
                continue
            changed = True
            if args.diff:
                print_diff(str(path), source.text, text)
            if args.check:
                print(f"{path}: would be reformatted")
            elif not args.diff:
                from archdsl.backends.write import write_file

                write_file(path, text)
                print(f"{path}: reformatted")
        except ArchError as e:
            mistakes += e.diagnostics
    status = _report(mistakes)
    return MISTAKE if args.check and changed else status


def _cost(args: argparse.Namespace) -> int:
    from archdsl.cost import price

    if args.device:
        return _roofline(args)
    costs = price(_elaborate(args, args.spec), args.bytes)
    if args.json:
        return print_json(costs.as_dict(args.per, args.count))
    show(costs.table(args.per, args.count))
    print(costs.convention(args.count))
    return FINE


def _roofline(args: argparse.Namespace) -> int:
    from archdsl.device.model import device, element_type
    from archdsl.device.roofline import roofline

    machine = device(args.device)
    dtype = element_type(machine, args.dtype)
    found = roofline(_elaborate(args, args.spec), machine, args.batch, dtype, args.plan, args.per)
    if args.json:
        return print_json(found.as_dict())
    show(found.table())
    print(found.summary())
    return FINE


def _score(args: argparse.Namespace) -> int:
    from archdsl.search.evaluators import Evaluations, evaluate
    from archdsl.search.score import Ratings, rate
    from archdsl.search.validation import Validation, validate

    found: Evaluations | Ratings | Validation
    if args.spec == ["eval"]:
        found = validate()
    elif args.proxy:
        found = evaluate([_elaborate(args, spec) for spec in args.spec], [f"proxy:{name}" for name in args.proxy])
    else:
        found = rate([_elaborate(args, spec) for spec in args.spec])
    return tell(found, args.json)


def _show_form(args: argparse.Namespace) -> int:
    if args.emit == "tree":
        from archdsl.describe import tree_text

        print(tree_text(_open(args, args.spec).file))
    elif args.emit == "ir":
        from archdsl.ir.text import print_graph
        from archdsl.passes.pipeline import optimize

        passes, watch = _passes(args)
        print(print_graph(optimize(_elaborate(args, args.spec), passes or (), watch)), end="")
    elif args.emit == "layouts":
        from archdsl.device.model import device, element_type
        from archdsl.passes.layouts import assign
        from archdsl.passes.report import placement

        machine = device(args.device)
        table, summary = placement(
            assign(_elaborate(args, args.spec), machine, args.batch, element_type(machine, args.dtype))
        )
        show(table)
        print(summary)
    else:
        for name, text in _compile(args, args.spec).files.items():
            print(f"# -- {name}\n{text}", end="")
    return FINE


def _search(args: argparse.Namespace) -> int:
    from archdsl.api import parse_input
    from archdsl.search.report import as_dict, table
    from archdsl.search.run import Search, Settings
    from archdsl.search.watch import watched

    settings = Settings(
        args.space,
        tuple(args.budget),
        tuple(args.objective),
        args.min_util,
        args.seed,
        args.trials,
        front=args.front,
        input=None if args.input is None else parse_input(args.input),
        evaluate=args.evaluate,
        evaluations=args.evaluations,
        evolve_space=args.evolve_space,
    )
    how = (args.workers, args.time_limit, args.storage)
    search = (
        Search.resumed(args.resume, *how)
        if args.resume is not None
        else Search.started(settings, args.output, args.name, *how)
    )
    search.tell = lambda line: print(line, file=sys.stderr)
    try:
        with watched(search.settings.trials, quiet=args.json) as watch:
            study = search.run(watch)
    except KeyboardInterrupt:
        print(f"interrupted; go on with: archdsl search --resume {search.directory}", file=sys.stderr)
        raise
    search.write(study)
    if args.json:
        return print_json(as_dict(study))
    show(table(study))
    for line in (study.sentence, *study.notes, str(search.directory / "best.arch")):
        print(line)
    return FINE


def _space(args: argparse.Namespace) -> int:
    from archdsl.api import open_space
    from archdsl.search.info import survey

    found = survey(open_space(args.space, args.ops), args.samples, bounds=args.bounds)
    return tell(found, args.json)


def _list(args: argparse.Namespace) -> int:
    from archdsl.api import vocabulary
    from archdsl.describe import models, models_table

    found, mistakes = models(vocabulary(args.ops))
    if args.json:
        print_json([model.as_dict() for model in found])
    else:
        show(models_table(found))
    return _report(mistakes)


def _ops(args: argparse.Namespace) -> int:
    from archdsl.api import vocabulary
    from archdsl.describe import op_page, vocabulary_table

    known = vocabulary(args.ops)
    if args.name:
        print(op_page(known, args.name))
    else:
        show(vocabulary_table(known))
    return FINE


def _lint(args: argparse.Namespace) -> int:
    from archdsl.backends.write import write_file
    from archdsl.frontend.pin import pin

    mistakes: list[Diagnostic] = []
    for path in args.file:
        try:
            program = _open(args, str(path))
            text = pin(program)
            if text != program.source.text:
                write_file(path, text)
                print(f"{path}: names of weights written out as labels")
        except ArchError as e:
            mistakes += e.diagnostics
    return _report(mistakes)


def _explain(args: argparse.Namespace) -> int:
    from archdsl.explain import explain, listing

    print(explain(args.code) if args.code else listing())
    return FINE


def _compare(args: argparse.Namespace) -> int:
    from archdsl.compare import compare

    a = _elaborate(args, args.a)
    if args.b.startswith("timm:"):
        from archdsl.deviation import compare_timm

        return _show_trial(compare_timm(a, args.b.removeprefix("timm:"), args.weights or "random:0", args.tolerance))
    b = _elaborate(args, args.b, args.mode_b)
    if args.weights is not None:
        from archdsl.deviation import compare_graphs

        deployed = [spec for spec, graph in ((args.a, a), (args.b, b)) if graph.mode == "deploy"]
        evaluated = _elaborate(args, deployed[0], "eval") if len(deployed) == 1 else None
        return _show_trial(compare_graphs(a, b, args.weights, args.tolerance, evaluated=evaluated))
    found = compare(a, b)
    show(found.table())
    print(found.a.convention())
    print(found.text())
    return FINE


def _show_trial(found: Trial) -> int:
    print(found.text())
    if found.deviating:
        show(found.table())
    return MISTAKE if found.deviating else FINE


def _bench(args: argparse.Namespace) -> int:
    from archdsl.bench import race

    found = race(
        args.spec,
        args.vs,
        training=args.training,
        batch=args.batch,
        rounds=args.rounds,
        input=args.input,
        ops=args.ops,
        overrides=dict(args.set),
    )
    return tell(found, args.json)


def _emit(args: argparse.Namespace) -> int:
    from archdsl.backends.mlir import to_mlir

    artefact = _compile(args, args.spec)
    text = to_mlir(artefact.module(), artefact.input, args.mlir, weights=args.weights)
    if args.output is None:
        print(text, end="")
    else:
        from archdsl.backends.write import write_file

        write_file(args.output, text)
        print(args.output)
    return FINE


def _import_weights(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from archdsl.weights.families import find
    from archdsl.weights.load import check_forward, import_weights
    from archdsl.weights.stores import open_store, write_file

    graph = _elaborate(args, args.spec)
    stored = open_store(args.source, args.model, needs_values=args.check or args.output is not None)
    initial = _compile(args, args.spec).module().state_dict() if "classes" in args.adapt else None
    table = find(args.table) if args.table else None
    found = import_weights(
        graph, stored, table=table, adapt=args.adapt, initial=initial, module=lambda: _compile(args, args.spec).module()
    )
    print(found.text())
    told = [replace(d, severity="warning") for d in found.diagnostics] if args.partial else found.diagnostics
    if _report(told) != FINE:
        return MISTAKE
    checked = {}
    if args.check:
        module = _compile(args, args.spec).module()
        module.load_state_dict(found.state, strict=not args.partial)
        checked["check"] = check_forward(module, graph, found, args.model)
        print(checked["check"])
    else:
        print("not checked: give --check to compare logits with timm's")
    if args.output is not None:
        write_file(args.output, found.state, found.metadata | checked)
        print(args.output)
    return FINE


def _export_weights(args: argparse.Namespace) -> int:
    from archdsl.weights.families import find
    from archdsl.weights.load import check_names, export_weights
    from archdsl.weights.stores import read_file, write_file

    if args.mode == "deploy":
        return _deploy_weights(args)
    stored = read_file(args.file)
    tensors = export_weights(_elaborate(args, args.spec), stored, table=find(args.table) if args.table else None)
    if args.model:
        check_names(tensors, args.model)
    print(f"{len(tensors)} tensors by timm's names" + (f", those of {args.model}" if args.model else ""))
    if args.output is not None:
        write_file(args.output, tensors, {"format": "pt", **stored.origin})
        print(args.output)
    return FINE


def _deploy_weights(args: argparse.Namespace) -> int:
    from archdsl.diagnostics import error
    from archdsl.weights.load import deploy_weights
    from archdsl.weights.stores import read_file, write_file

    if args.names or args.table or args.model:
        reason = "no other library's names are known for the weights of a deploy graph"
        raise error("E-WEIGHTS", reason, help="leave out --names, --table and --model: the names are the spec's")
    graph, training, deployed = (_elaborate(args, args.spec, mode) for mode in ("eval", "train", "deploy"))
    stored = read_file(args.file)
    tensors = deploy_weights(graph, training, deployed, stored, _passes(args)[0])
    print(f"{len(tensors)} tensors for `{graph.name}` in deploy mode, made of {len(stored.tensors)}")
    if args.output is not None:
        write_file(args.output, tensors, {"format": "pt", "spec": graph.name, "mode": "deploy", **stored.origin})
        print(args.output)
    return FINE


# -- what commands share -------------------------------------------------------------------------


def _open(args: argparse.Namespace, spec: str) -> Program:
    from archdsl.api import open_spec

    return open_spec(spec, args.ops)[0]


def _elaborate(args: argparse.Namespace, spec: str, mode: str | None = None) -> Graph:
    from archdsl.api import elaborate

    return elaborate(spec, input=args.input, mode=mode or args.mode, ops=args.ops, overrides=dict(args.set))


def _compile(args: argparse.Namespace, spec: str) -> Artefact:
    from archdsl.api import compile_spec

    passes, watch = _passes(args)
    return compile_spec(
        spec, input=args.input, mode=args.mode, ops=args.ops, overrides=dict(args.set), passes=passes, watch=watch
    )


def _passes(args: argparse.Namespace) -> tuple[Sequence[Pass] | None, Callable[[Step], None] | None]:
    """The passes that a command is asked for, None for the usual ones, and what is to be told of each."""
    from archdsl.passes.pipeline import PASSES, level, parse_passes

    if not hasattr(args, "passes"):
        return None, None
    wanted = args.print_after
    if wanted not in (None, "all", *PASSES):
        hint = did_you_mean(wanted, (*PASSES, "all")) or f"there are {', '.join(PASSES)}"
        raise error("E-PASS", f"there is no pass `{wanted}`", help=hint)
    passes = level(args.O) if args.passes is None else parse_passes(args.passes)
    return passes, (lambda step: _print_step(step, wanted)) if wanted else None


def _print_step(step: Step, wanted: str) -> None:
    """What a pass changed, as a diff of the graph's text, if it is one to be shown. Not among what a command prints."""
    import difflib

    from archdsl.ir.text import print_graph

    if wanted not in ("all", step.ran.name):
        return
    before, after = (print_graph(g).splitlines(True) for g in (step.before, step.after))
    print(f"# after {step.ran}: {len(step.before)} -> {len(step.after)} ops", file=sys.stderr)
    sys.stderr.writelines(difflib.unified_diff(before, after, "before", "after", n=1))


def _list_passes(args: argparse.Namespace) -> int:
    from archdsl.passes.pipeline import optimize
    from archdsl.passes.report import listing, report

    if args.spec is None:
        show(listing())
        return FINE
    passes, watch = _passes(args)
    steps: list[Step] = []
    graph = _elaborate(args, args.spec)

    def seen(step: Step) -> None:
        steps.append(step)
        if watch is not None:
            watch(step)

    optimize(graph, passes or (), seen)
    show(report(graph, steps))
    return FINE


def _wrong(diagnostics: Iterable[Diagnostic]) -> bool:
    return any(d.severity == "error" for d in diagnostics)


def _report(diagnostics: Sequence[Diagnostic]) -> int:
    if diagnostics:
        sys.stdout.flush()
        print(render_all(diagnostics), file=sys.stderr)
    return MISTAKE if _wrong(diagnostics) else FINE


def _internal_error() -> int:
    import traceback

    traceback.print_exc()
    print(
        f"\narchdsl {__version__} failed: this is a mistake in archdsl, not in your spec. Please report it with the "
        "text above and the output of `archdsl show SPEC --emit ir` (or the spec itself, if that fails too).",
        file=sys.stderr,
    )
    return INTERNAL


# -- arguments -----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="archdsl",
        description="A compiler for vision backbones: text specs to readable PyTorch modules.",
        epilog="SPEC is a file, a bare name (swin_s: looked up in ./specs, then in the shipped specs) or FILE:NAME.",
    )
    parser.add_argument("--version", action="version", version=f"archdsl {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Command, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(run=run, ops=[])
        return sub

    build = command("build", _build, "write a spec's PyTorch module and print what each stage costs")
    build.add_argument("spec", nargs="+", metavar="SPEC")
    build.add_argument(
        "-o", "--output", type=Path, default=Path("generated"), metavar="DIR", help="write to DIR/NAME/ (generated)"
    )
    build.add_argument("--force", action="store_true", help="overwrite files that were edited by hand")
    _graph_options(build)
    _pass_options(build)

    check = command("check", _check, "report every mistake in spec files and run their `check` lines")
    check.add_argument("spec", nargs="+", metavar="SPEC")
    _ops_option(check)

    fmt = command("fmt", _fmt, "format spec files in place")
    fmt.add_argument("file", nargs="+", type=Path, metavar="FILE")
    fmt.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    fmt.add_argument("--diff", action="store_true", help="change nothing; print what would change")

    cost = command("cost", _cost, "print parameters, multiply-adds, activations and bytes")
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

    score = command("score", _score, "predict how specs rank among published models, and say how far to trust it")
    score.add_argument("spec", nargs="+", metavar="SPEC", help="or `eval` alone: validate the score on those models")
    score.add_argument(
        "--proxy", action="append", default=[], metavar="NAME", help="a zero-cost proxy's number instead (repeatable)"
    )
    score.add_argument("--json", action="store_true", help="print JSON")
    _graph_options(score)

    search = command("search", _search, "search a space for the best architectures within a budget")
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
    search.add_argument("--evaluate", default="", metavar="WHAT", help="then measure: proxy:NAME or latency:local")
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

    shown = command("show", _show_form, "print what a spec is turned into")
    shown.add_argument("spec", metavar="SPEC")
    shown.add_argument(
        "--emit",
        choices=("tree", "ir", "torch", "layouts"),
        default="ir",
        help="syntax tree, graph, PyTorch module, or the orders of positions that cost least (ir)",
    )
    shown.add_argument("--device", default="h200", metavar="NAME", help="whose rates layouts are chosen by (h200)")
    shown.add_argument("--batch", type=_positive, default=64, metavar="N", help="images at once, for layouts (64)")
    shown.add_argument("--dtype", default="", metavar="TYPE", help="bf16, fp16 or fp32, for layouts (the device's)")
    _graph_options(shown)
    _pass_options(shown, usual=0)

    space = command("space", _space, "say what a space draws, how large it is, and what a sample of it costs")
    space.add_argument("action", choices=("info",))
    space.add_argument("space", metavar="SPACE", help="a file, FILE:NAME, or a bare name as `hybrid`")
    space.add_argument("--samples", type=_positive, default=200, metavar="N", help="points to elaborate (200)")
    space.add_argument("--bounds", action="store_true", help="prove what no point falls below (up to minutes)")
    space.add_argument("--json", action="store_true", help="print JSON")
    _ops_option(space)

    listed = command("list", _list, "list the architectures of ./specs and the shipped ones")
    listed.add_argument("--json", action="store_true", help="print JSON")
    _ops_option(listed)

    passes = command("passes", _list_passes, "list the passes, or say what each does to a spec")
    passes.add_argument("spec", metavar="SPEC", nargs="?")
    _graph_options(passes)
    _pass_options(passes)

    ops = command("ops", _ops, "list the vocabulary, or describe one op")
    ops.add_argument("name", nargs="?", metavar="NAME")
    _ops_option(ops)

    lint = command("lint", _lint, "rewrite spec files where their meaning should be made explicit")
    lint.add_argument("file", nargs="+", type=Path, metavar="FILE")
    lint.add_argument("--pin", action="store_true", required=True, help="write automatic weight names out as labels")
    _ops_option(lint)

    explain = command("explain", _explain, "explain a diagnostic's code, or list all codes")
    explain.add_argument("code", nargs="?", metavar="CODE")

    compare = command("compare", _compare, "say in what two specs differ: weights, shapes, costs, or computed values")
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

    bench = command("bench", _bench, "measure a spec's module against timm's model on one CPU thread")
    bench.add_argument("spec", metavar="SPEC")
    bench.add_argument("--vs", required=True, metavar="timm:NAME", help="timm's model")
    bench.add_argument("--training", action="store_true", help="forward and backward instead of inference")
    bench.add_argument("--batch", type=_positive, default=1, metavar="N", help="images at a time (1)")
    bench.add_argument("--rounds", type=_positive, default=20, metavar="N", help="runs of each model (20)")
    bench.add_argument("--json", action="store_true", help="print JSON")
    _graph_options(bench)

    emit = command("emit", _emit, "lower a spec's module to another form")
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
    imported = command("import-weights", _import_weights, "bring published weights under a spec's names, strictly")
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

    exported = command(
        "export-weights", _export_weights, "give a spec's weights the names another library uses, or its deploy form"
    )
    exported.add_argument("spec", metavar="SPEC")
    exported.add_argument("file", metavar="FILE", help="a safetensors file of the spec's weights")
    exported.add_argument("--names", choices=("timm",), help="whose names (timm; with --mode deploy the spec's)")
    _weights_options(exported)
    _pass_options(exported)
    return parser


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


def _graph_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", metavar="CxHxW", help="size of the input image, as 3x384x384")
    parser.add_argument("--mode", choices=MODES, default="eval", help="(eval)")
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
