"""Turns command-line arguments into calls and their outcome into an exit status; decides nothing itself.

Exit status: 0 fine, 1 a mistake in what the user wrote, 2 wrong usage, 70 a mistake of archdsl itself, 130
interrupted, 141 the reader of the output went away. Every command imports what it needs, and nothing else does.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from archdsl import __version__
from archdsl.arguments import parser
from archdsl.diagnostics import ArchError, Diagnostic, did_you_mean, error, render_all
from archdsl.output import print_diff, print_json, show, tell

if TYPE_CHECKING:
    from archdsl.api import Artefact
    from archdsl.backends.torch.tiles import Tiles
    from archdsl.deviation import Trial
    from archdsl.frontend.program import Program
    from archdsl.ir.graph import Graph
    from archdsl.passes.base import Pass
    from archdsl.passes.pipeline import Step
    from archdsl.passes.planner import FusionPlan

FINE, MISTAKE, INTERNAL, INTERRUPTED, NO_READER = 0, 1, 70, 130, 141

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
        args = parser().parse_args(argv)
        status = COMMANDS[args.command](args)
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
            explained = _fusions(args, spec) if args.explain else None
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
        if explained is not None:
            tell(explained, as_json=False)
    return _report(mistakes)


def _fusions(args: argparse.Namespace, spec: str) -> FusionPlan:
    from archdsl.device.model import device, element_type
    from archdsl.passes.attend_in_place import left
    from archdsl.passes.fuse import Fuse
    from archdsl.passes.fusions import RULES
    from archdsl.passes.pipeline import optimize
    from archdsl.passes.planner import Declined, plan

    machine, generated = device(args.device), args.target == "triton"
    before = [one for one in _passes(args)[0] or () if not isinstance(one, Fuse)]
    graph = optimize(_elaborate(args, spec), before)
    rules = [rule for rule in RULES if rule.generated or not generated]
    found = plan(graph, machine, args.batch, element_type(machine, args.dtype), rules, written=generated)
    if not generated:
        return found
    stay = (Declined("window_attention", (path,), why) for path, why in left(graph).items())
    return replace(found, declined=(*found.declined, *stay))


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
        from archdsl.api import vocabulary
        from archdsl.device.model import device, element_type
        from archdsl.passes.layouts import assign
        from archdsl.passes.report import placement

        machine, graph = device(args.device), _elaborate(args, args.spec)
        dtype, kernels = element_type(machine, args.dtype), [name for name in args.kernels.split(",") if name]
        known = vocabulary(args.ops)
        if unknown := [name for name in kernels if name not in known]:
            raise error("E-NAME", f"there is no op `{unknown[0]}`", help=did_you_mean(unknown[0], known))
        table, summary = placement(assign(graph, machine, args.batch, dtype, kernels))
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


def _tune(args: argparse.Namespace) -> int:
    from archdsl.device.model import device, element_type

    try:
        from archdsl.tuning import rehearse, tune
    except ImportError as e:
        reason = f"measuring kernels needs {e.name}, which is not installed"
        raise error("E-DEPENDENCY", reason, help="pip install archdsl[triton]") from e
    artefact, dtype = _compile(args, args.spec), element_type(device(args.device), args.dtype)
    how = (args.on, args.batch, dtype, not args.forward_only, args.only)
    if args.dry:
        return tell(rehearse(artefact, *how), args.json)
    found = tune(artefact, args.output, *how, told=lambda line: print(line, file=sys.stderr))
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


def _deploy(args: argparse.Namespace) -> int:
    from archdsl.deployment import FILE, deploy
    from archdsl.weights.stores import read_file

    passes, _ = _passes(args)
    stored = read_file(args.file)
    found = deploy(args.spec, stored, input=args.input, ops=args.ops, overrides=dict(args.set), passes=passes)
    place = found.write(args.output, force=args.force)
    print(found.text())
    print(place / "model.py")
    print(place / FILE)
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
        spec,
        input=args.input,
        mode=args.mode,
        ops=args.ops,
        overrides=dict(args.set),
        passes=passes,
        watch=watch,
        tiles=_tiles(args),
    )


def _tiles(args: argparse.Namespace) -> Tiles | None:
    """What was measured of kernels, where a command is given it."""
    if getattr(args, "tiles", None) is None:
        return None
    from archdsl.backends.torch.tiles import read_tiles

    if args.target != "triton":
        raise error("E-TILES", "`--tiles` is for Triton kernels, and none are written", help="add --target triton")
    return read_tiles(args.tiles)


def _passes(args: argparse.Namespace) -> tuple[Sequence[Pass] | None, Callable[[Step], None] | None]:
    """The passes that a command is asked for, None for the usual ones, and what is to be told of each."""
    from archdsl.passes.fuse import Fuse
    from archdsl.passes.pipeline import PASSES, level, parse_passes, with_kernels

    if not hasattr(args, "passes"):
        return None, None
    wanted = args.print_after
    if wanted not in (None, "all", *PASSES):
        hint = did_you_mean(wanted, (*PASSES, "all")) or f"there are {', '.join(PASSES)}"
        raise error("E-PASS", f"there is no pass `{wanted}`", help=hint)
    passes = level(args.O) if args.passes is None else parse_passes(args.passes)
    target, kernels = getattr(args, "target", ""), getattr(args, "kernels", "planned")
    if target == "torch" and kernels != "planned":
        raise error("E-PASS", "`--kernels` chooses Triton kernels, and none are written", help="add --target triton")
    if target == "triton":
        from archdsl.device.model import device, element_type

        dtype = element_type(device(args.device), args.dtype)
        passes = with_kernels(passes, Fuse(args.kernels, args.device, args.batch, dtype))
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


COMMANDS: Mapping[str, Command] = {
    "build": _build,
    "check": _check,
    "fmt": _fmt,
    "cost": _cost,
    "score": _score,
    "search": _search,
    "show": _show_form,
    "space": _space,
    "list": _list,
    "passes": _list_passes,
    "ops": _ops,
    "lint": _lint,
    "explain": _explain,
    "compare": _compare,
    "bench": _bench,
    "tune": _tune,
    "emit": _emit,
    "import-weights": _import_weights,
    "export-weights": _export_weights,
    "deploy": _deploy,
}
