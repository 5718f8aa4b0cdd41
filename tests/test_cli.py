"""The command line: what it prints, what it writes, and the status it exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import archdsl
from archdsl import cli
from archdsl.api import elaborate
from archdsl.backends.write import MANIFEST, write_file, write_package
from archdsl.cli import main
from archdsl.diagnostics import ArchError
from archdsl.explain import catalogue, explain
from archdsl.frontend.locate import locate
from archdsl.frontend.program import Program
from archdsl.resources import specs_dir

TINY = (
    "arch tiny[dim = 8, classes = 10] {\n  input img: map[3, 16, 16]\n"
    "  stem { x = img |> conv[dim] }\n  head { return x |> gap |> linear[classes] }\n}\n"
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty directory that holds tiny.arch: (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    (tmp_path / "tiny.arch").write_text(TINY)

    def command(*argv: object) -> tuple[int, str, str]:
        status = main([str(a) for a in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


def process(*argv: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "archdsl", *argv]
    return subprocess.run(command, capture_output=True, text=True, **more)  # type: ignore[call-overload, no-any-return]


# -- exit status ---------------------------------------------------------------------------------


def test_fine(run: Run) -> None:
    assert run("check", "tiny.arch") == (0, "tiny.arch: ok (tiny)\n", "")


def test_all_files_are_checked_and_their_mistakes_are_on_standard_error(run: Run) -> None:
    Path("wrong.arch").write_text(TINY.replace("gap", "gapp"))
    status, out, err = run("check", "missing.arch", "wrong.arch", "tiny.arch")
    assert status == 1
    assert out == "tiny.arch: ok (tiny)\n"
    assert err.count("error[") == 2 and "error[E-FILE]" in err and "did you mean `gap`?" in err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["frobnicate"], ["cost"], ["cost", "tiny", "--per", "day"], ["cost", "a", "--set", "dim"]):
        with pytest.raises(SystemExit) as e:
            main(argv)
        assert e.value.code == 2
    assert "usage: archdsl" in capsys.readouterr().err


def test_our_own_mistakes_show_a_traceback_and_ask_for_the_graph(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("archdsl.frontend.locate.locate", broken)
    monkeypatch.setattr("archdsl.api.locate", broken)
    status, out, err = run("cost", "tiny.arch")
    assert (status, out) == (70, "")
    assert "ZeroDivisionError: oops" in err and "archdsl show SPEC --emit ir" in err


def test_interrupt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("archdsl.api.locate", interrupted)
    assert run("cost", "tiny.arch") == (130, "", "")


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "archdsl", "explain"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("sent", [signal.SIGINT])
def test_interrupt_of_a_process(tmp_path: Path, sent: signal.Signals) -> None:
    fifo = tmp_path / "waits.arch"
    os.mkfifo(fifo)
    with (
        subprocess.Popen(
            [sys.executable, "-m", "archdsl", "check", str(fifo)],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the shell's background jobs ignore it
        ) as child,
        open(fifo, "w"),
    ):  # returns when the child has opened it for reading
        child.send_signal(sent)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "")


# -- finding specs and giving sizes --------------------------------------------------------------


def test_a_bare_name_is_a_local_spec_then_a_shipped_one(run: Run) -> None:
    assert locate("swin_s").path.name == "swin_t.arch"
    Path("specs").mkdir()
    Path("specs/mine.arch").write_text(TINY.replace("tiny", "swin_s"))
    assert locate("swin_s").path == Path("specs/mine.arch")
    assert locate("mine").path == Path("specs/mine.arch")
    assert locate("tiny.arch:tiny").arch == "tiny"
    assert run("cost", "swin_s")[0] == 0


def test_an_unknown_name_gets_a_suggestion(run: Run) -> None:
    status, _, err = run("cost", "swin_ss")
    assert status == 1 and "error[E-SPEC]" in err and "did you mean `swin_s`?" in err
    status, _, err = run("cost", "tiny.arch:tinny")
    assert status == 1 and "error[E-SPEC]" in err and "did you mean `tiny`?" in err


@pytest.mark.parametrize("size", ["384", "3x384", "3x0x4", "axbxc", "3x224x224x1", "3x-1x4", "3x99999x4", "9" * 5000])
def test_bad_sizes(run: Run, size: str) -> None:
    status, _, err = run("cost", "tiny.arch", "--input", size)
    assert status == 1 and "error[E-INPUT]" in err


def test_overrides_are_written_as_in_a_spec(run: Run) -> None:
    status, out, _ = run("cost", "tiny.arch", "--set", "dim = 2 * 8", "--json", "--input", "3x8x8")
    assert status == 0
    costs = json.loads(out)
    assert costs["total"]["params"] == 3 * 16 + 16 + 16 * 10 + 10
    assert costs["input"] == [3, 8, 8]
    assert run("cost", "tiny.arch", "--set", "dim = nothing")[0] == 1
    assert "E-PARAMETER" in run("cost", "tiny.arch", "--set", "dam=8")[2]


def test_ops_of_a_file(run: Run) -> None:
    Path("bad.py").write_text("x = 1\nraise ValueError('no')\n")
    status, _, err = run("check", "tiny.arch", "--ops", "bad.py")
    assert status == 1 and "error[E-OPS]" in err and "ValueError: no" in err and "bad.py:2:" in err
    Path("again.py").write_text(
        textwrap.dedent("""
        from dataclasses import dataclass
        from archdsl.ops.base import Op

        @dataclass(frozen=True)
        class Gap(Op):
            "A second gap."
        """)
    )
    status, _, err = run("check", "tiny.arch", "--ops", "again.py")
    assert status == 1 and "gap.py" in err and "again.py" in err
    assert "E-OPS" in run("check", "tiny.arch", "--ops", "missing.py")[2]


# -- commands ------------------------------------------------------------------------------------


def test_cost_prints_its_convention(run: Run) -> None:
    for count, words in (("macs", "as in the papers"), ("timm", "fvcore's rule")):
        for level in ("stage", "block", "op"):
            status, out, _ = run("cost", "tiny.arch", "--count", count, "--per", level)
            assert status == 0 and words in out and "total" in out


def test_cost_takes_an_input_and_a_width(run: Run) -> None:
    found = [json.loads(run("cost", "tiny.arch", "--json", *more)[1]) for more in ((), ("--bytes", "2"))]
    assert found[1]["total"]["bytes"] * 2 == found[0]["total"]["bytes"] > 0
    _, out, _ = run("cost", "tiny.arch", "--json", "--input", "3x8x32")
    assert json.loads(out)["input"] == [3, 8, 32] and json.loads(out)["rows"][0]["resolution"] == "8x32"


def test_fmt(run: Run) -> None:
    ugly = TINY.replace(", ", ",").replace(" = ", "=")
    Path("tiny.arch").write_text(ugly)
    os.chmod("tiny.arch", 0o640)
    status, out, _ = run("fmt", "--check", "tiny.arch")
    assert (status, out) == (1, "tiny.arch: would be reformatted\n")
    status, out, _ = run("fmt", "--diff", "tiny.arch")
    assert status == 0 and out.startswith("--- tiny.arch\n") and Path("tiny.arch").read_text() == ugly
    assert run("fmt", "tiny.arch") == (0, "tiny.arch: reformatted\n", "")
    assert Path("tiny.arch").read_text() != ugly and Path("tiny.arch").stat().st_mode & 0o777 == 0o640
    assert run("fmt", "--check", "tiny.arch") == (0, "", "")
    assert sorted(p.name for p in Path().iterdir()) == ["tiny.arch"]


def test_fmt_leaves_a_broken_file_and_formats_the_others(run: Run) -> None:
    Path("broken.arch").write_text("arch {")
    Path("tiny.arch").write_text(TINY.replace(" = ", "="))
    status, out, err = run("fmt", "broken.arch", "tiny.arch")
    assert status == 1 and out == "tiny.arch: reformatted\n" and "broken.arch" in err
    assert Path("broken.arch").read_text() == "arch {"


def test_list(run: Run) -> None:
    status, out, err = run("list")
    assert (status, err) == (0, "")
    line = next(line for line in out.splitlines() if line.split()[:1] == ["swin_t"])
    for fact in ("28.29M", "4.49G", "3x224x224", "2103.14030", "swin_t.arch", "14x14·384 ×6 → 7x7·768 ×2"):
        assert fact in line
    listed = [line.split()[0] for line in out.splitlines() if ".arch" in line]
    declared = [name for path in specs_dir().glob("*.arch") for name in Program.open(path).archs]
    assert sorted(listed) == sorted(declared)


def test_list_as_json_is_what_cost_says(run: Run) -> None:
    found = {model["name"]: model for model in json.loads(run("list", "--json")[1])}
    for name in ("vit_s16", "overlock_xt"):
        costs = json.loads(run("cost", name, "--json")[1])
        assert {key: found[name][key] for key in costs["total"] if key != "flops"}.items() <= costs["total"].items()
        assert found[name]["input"] == costs["input"]
        stages = [{k: row[k] for k in ("name", "resolution", "width", "depth")} for row in costs["rows"]]
        assert found[name]["stages"] == [stage for stage in stages if stage["depth"]]
    assert found["vit_s16_18x2"]["paper"] == "2203.09795" and found["vit_b16"]["paper"] == "2010.11929"


def test_list_takes_local_specs_first_and_tells_of_broken_ones(run: Run) -> None:
    Path("specs").mkdir()
    Path("specs/mine.arch").write_text(TINY + TINY.replace("tiny", "swin_t"))
    Path("specs/wrong.arch").write_text(TINY.replace("gap", "gapp"))
    status, out, err = run("list")
    assert status == 1 and err.count("error[") == 1 and "wrong.arch" in err
    rows = {line.split()[0]: line for line in out.splitlines() if ".arch" in line}
    assert "3x16x16" in rows["tiny"] and "specs/mine.arch" in rows["swin_t"] and "3x16x16" in rows["swin_t"]
    assert "convnext_t" in rows


def test_ops(run: Run) -> None:
    status, out, _ = run("ops")
    assert status == 0 and "attend[heads = 1" in out and "extern" not in out
    status, out, _ = run("ops", "conv")
    assert status == 0 and "kernel size; from 1 to 1024" in out and "-> map[" in out and "param weight [" in out
    assert "did you mean `conv`?" in run("ops", "convv")[2]


def test_every_op_has_a_page(run: Run) -> None:
    from archdsl.ops.vocabulary import Vocabulary

    for name, cls in Vocabulary.of().items():
        if cls.callable:
            status, out, _ = run("ops", name)
            assert status == 0 and out.startswith(name)


def test_show(run: Run) -> None:
    status, out, _ = run("show", "tiny.arch", "--emit", "tree")
    assert status == 0 and out.startswith("File") and "Arch" in out
    status, out, _ = run("show", "tiny.arch")
    assert status == 0 and out.startswith("ir 1\n")
    status, out, _ = run("show", "tiny.arch", "--emit", "torch")
    assert status == 0 and "import torch" in out


def test_compare(run: Run) -> None:
    status, out, _ = run("compare", "tiny.arch", "tiny.arch")
    assert status == 0 and "the same computation" in out
    Path("other.arch").write_text(TINY.replace("conv[dim]", "conv@a[dim] |> conv@b[k = 3]").replace("tiny", "other"))
    status, out, _ = run("compare", "tiny.arch", "other.arch")
    assert status == 0 and "different computations" in out
    assert "parameters only in other: 4" in out and "stem.b.weight [8, 8, 3, 3]" in out


def test_lint_pins_names(run: Run) -> None:
    Path("tiny.arch").write_text(TINY.replace("conv[dim]", "conv[dim] |> conv[k = 3]"))
    before = elaborate("tiny.arch").params
    status, out, _ = run("lint", "--pin", "tiny.arch")
    assert (status, out) == (0, "tiny.arch: names of weights written out as labels\n")
    text = Path("tiny.arch").read_text()
    assert "conv@conv1[dim]" in text and "conv@conv2[k = 3]" in text and "linear@linear[classes]" in text
    assert elaborate("tiny.arch").params == before
    assert run("lint", "--pin", "tiny.arch") == (0, "", "")


@pytest.mark.parametrize("spec", ["swin_t", "convnext_t", "poolformer_s12"])
def test_pinning_renames_nothing(spec: str) -> None:
    from archdsl.diagnostics import Source
    from archdsl.frontend.pin import pin
    from archdsl.frontend.program import Program

    program = Program.open(locate(spec).path)
    pinned = Program.parse(Source(spec, pin(program)), program.path)
    assert pin(pinned) == pinned.source.text
    for arch in program.archs:
        assert list(pinned.elaborate(arch).params) == list(program.elaborate(arch).params)


@pytest.mark.parametrize("code", catalogue())
def test_every_code_is_explained_by_examples_that_behave(code: str) -> None:
    from archdsl.diagnostics import Source
    from archdsl.frontend.program import Program

    entry = catalogue()[code]
    assert entry.text and entry.title and code in explain(code)
    for example, codes in ((entry.wrong, [code]), (entry.right, [])):
        if example.language != "arch":
            continue
        try:
            found = Program.parse(Source("example.arch", example.text + "\n")).check()
        except ArchError as e:
            found = list(e.diagnostics)
        assert [d.code for d in found] == codes


def test_explain(run: Run) -> None:
    assert run("explain", "E-WINDOW")[1] == run("explain", "window")[1]
    status, out, _ = run("explain")
    assert status == 0 and len(out.splitlines()) == len(catalogue())
    assert "did you mean `E-WINDOW`?" in run("explain", "E-WINDO")[2]


# -- build and what it writes --------------------------------------------------------------------


def test_build(run: Run) -> None:
    status, out, err = run("build", "tiny.arch")
    assert (status, err) == (0, "")
    assert "head" in out and "as in the papers" in out and "generated/tiny/model.py" in out
    place = Path("generated/tiny")
    manifest = json.loads((place / MANIFEST).read_text())
    assert {p.name for p in place.iterdir()} == {MANIFEST, *manifest["files"]}
    assert manifest["spec"] == "tiny.arch" and manifest["files"].keys() >= {"__init__.py", "model.py"}
    assert manifest["archdsl"] == archdsl.__version__ and manifest["input"] == [3, 16, 16]
    assert str(Path.cwd()) not in (place / MANIFEST).read_text()
    before = {p.name: p.read_bytes() for p in place.iterdir()}
    assert run("build", "tiny.arch")[0] == 0
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before
    assert run("build", "tiny.arch", "--set", "dim=16")[0] == 0
    assert json.loads((place / MANIFEST).read_text())["overrides"] == {"dim": "16"}


def test_build_of_several_specs_prints_a_line_each(run: Run) -> None:
    Path("other.arch").write_text(TINY.replace("tiny", "other"))
    Path("wrong.arch").write_text(TINY.replace("gap", "gapp"))
    status, out, err = run("build", "tiny.arch", "wrong.arch", "other.arch", "-o", "out")
    assert status == 1 and "E-NAME" in err
    assert [line.partition(":")[0] for line in out.splitlines()] == ["tiny", "other"]


def test_build_does_not_overwrite_an_edit(run: Run) -> None:
    assert run("build", "tiny.arch")[0] == 0
    model = Path("generated/tiny/model.py")
    model.write_text(model.read_text() + "# mine\n")
    status, _, err = run("build", "tiny.arch", "--set", "dim=16")
    assert status == 1 and "error[E-EDITED]" in err and model.read_text().endswith("# mine\n")
    assert run("build", "tiny.arch", "--force")[0] == 0
    assert not model.read_text().endswith("# mine\n")


def test_a_file_of_somebody_elses_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("print('mine')\n")
    with pytest.raises(ArchError, match="edited by hand"):
        write_package(tmp_path, {"model.py": "x = 1\n"}, {})
    write_package(tmp_path, {"model.py": "print('mine')\n"}, {})  # the same text is no conflict


def test_files_no_longer_emitted_go_and_others_stay(tmp_path: Path) -> None:
    place = tmp_path / "net"
    write_package(place, {"model.py": "x = 1\n", "kernels.py": "y = 1\n"}, {})
    (place / "weights.pt").write_bytes(b"w")
    write_package(place, {"model.py": "x = 2\n"}, {})
    assert sorted(p.name for p in place.iterdir()) == [MANIFEST, "model.py", "weights.pt"]
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_an_interrupted_build_can_be_repeated(tmp_path: Path) -> None:
    write_package(tmp_path, {"a.py": "1\n", "b.py": "1\n"}, {})
    (tmp_path / "a.py").write_text("2\n")  # as if the process had died between moving a.py and the manifest
    write_package(tmp_path, {"a.py": "2\n", "b.py": "2\n"}, {})
    assert (tmp_path / "b.py").read_text() == "2\n"


def test_an_interrupted_move_leaves_whole_files_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (dict.fromkeys(("a.py", "b.py"), line * 1000) for line in ("1\n", "2\n"))
    replace = os.replace
    for done in range(3):
        place, left = tmp_path / str(done), done
        write_package(place, old, {})

        def moved(source: str, target: str) -> None:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            replace(source, target)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "replace", moved)
            write_package(place, new, {})
        assert all((place / name).read_text() in (old[name], new[name]) for name in old)
        write_package(place, new, {})  # not refused as edited by hand
        assert all((place / name).read_text() == new[name] for name in new)


@pytest.mark.parametrize("damage", ["[]", "{", '{"files": 3}', '{"files": {"../../x": "0"}}', "\xff"])
def test_a_damaged_manifest_protects_nothing_and_harms_nothing(tmp_path: Path, damage: str) -> None:
    (tmp_path / MANIFEST).write_text(damage, encoding="latin-1")
    write_package(tmp_path, {"a.py": "1\n"}, {})
    assert json.loads((tmp_path / MANIFEST).read_text())["files"].keys() == {"a.py"}


def test_nothing_half_written_is_left_where_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchError, match="cannot write"):
        write_package(tmp_path / "file" / "net", {"a.py": "1\n"}, {})

    written = []

    def full(path: Path, text: str) -> None:
        written.append(path)
        path.write_text(text[:1])
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("archdsl.backends.write._write", full)
    with pytest.raises(ArchError, match="no space left on device"):
        write_package(tmp_path / "new" / "net", {"a.py": "1\n", "b.py": "1\n"}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, {"a.py": "1\n"}, {})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(path: Path, text: str) -> None:
        path.write_text(text[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("archdsl.backends.write._write", full)
    with pytest.raises(ArchError):
        write_package(tmp_path, {"a.py": "2\n"}, {})
    with pytest.raises(ArchError):
        write_file(tmp_path / "a.py", "2\n")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_writing_through_a_link_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "real.arch").write_text("a")
    (tmp_path / "link.arch").symlink_to("real.arch")
    write_file(tmp_path / "link.arch", "b")
    assert (tmp_path / "link.arch").is_symlink() and (tmp_path / "real.arch").read_text() == "b"


# -- the Python interface and start-up -----------------------------------------------------------


def test_compile_takes_a_text_a_path_and_a_name(tmp_path: Path) -> None:
    (tmp_path / "tiny.arch").write_text(TINY)
    from_text = archdsl.compile(TINY, dim=16)
    from_path = archdsl.compile(tmp_path / "tiny.arch", dim=16)
    assert from_text.costs.params == from_path.costs.params == archdsl.cost(tmp_path / "tiny.arch", dim=16).params
    assert from_text.write(tmp_path) == tmp_path / "tiny"


def test_load_gives_a_working_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiny.arch").write_text(TINY)
    module = archdsl.load(tmp_path / "tiny.arch", input=(3, 8, 8))
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    assert sum(p.numel() for p in module.parameters()) == archdsl.cost(tmp_path / "tiny.arch").params
    again = archdsl.load(tmp_path / "tiny.arch", input=(3, 8, 8))
    assert type(again) is type(module) and again is not module


def test_a_changed_file_in_the_cache_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    package = sys.modules[type(archdsl.load(TINY, dim=4)).__module__.partition(".")[0]]
    assert package.__file__ is not None and Path(package.__file__).is_relative_to(tmp_path)
    model = Path(package.__file__).with_name("model.py")
    sound = model.read_text()
    model.write_text("raise SystemExit\n")
    for name in [n for n in sys.modules if n.partition(".")[0] == package.__name__]:
        monkeypatch.delitem(sys.modules, name)
    archdsl.load(TINY, dim=4)
    assert model.read_text() == sound


def test_the_function_cost_is_not_hidden_by_the_module_of_that_name() -> None:
    script = "import archdsl.cost; from archdsl.cost import price; import archdsl; archdsl.cost('swin_t')"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("command", [["check", "swin_t"], ["list", "--json"], ["explain"], ["--version"]])
def test_commands_import_only_what_they_need(command: list[str]) -> None:
    script = (
        f"import sys; from archdsl.cli import main\ntry: main({command})\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'rich', 'jinja2', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    assert process("--version").stdout == f"archdsl {archdsl.__version__}\n"


@pytest.mark.parametrize("dialect", ["torch", "linalg"])
def test_mlir(run: Run, dialect: str) -> None:
    pytest.importorskip("torch_mlir")
    status, out, err = run("emit", "tiny.arch", "--mlir", dialect, "--elide-weights")
    assert (status, err) == (0, "") and "func.func @main" in out
    assert run("emit", "tiny.arch", "--mlir", dialect, "-o", "tiny.mlir")[0] == 0
    assert "dialect_resources" in Path("tiny.mlir").read_text()


def test_status_of_each_outcome_is_documented() -> None:
    assert (cli.FINE, cli.MISTAKE, cli.INTERNAL, cli.INTERRUPTED, cli.NO_READER) == (0, 1, 70, 130, 141)
