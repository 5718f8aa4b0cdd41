"""Whatever is given as a spec ends in bounded time with diagnostics: no traceback, nothing half-written."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archdsl.api import compile_spec
from archdsl.backends.torch.reserved import MODEL, MODULE
from archdsl.cli import main
from archdsl.cost import price
from archdsl.diagnostics import ArchError, Diagnostic, Source, Span, render_all
from archdsl.frontend.program import Program
from archdsl.resources import specs_dir
from tests import fuzz

HERE = Path(__file__).parent
SECONDS = 20.0
"""Of processor time, several times what the slowest case takes."""
DEEP = 10_000
MANY = 1_000_000_000
DOUBLING = "def f{1}(x: map) = f{0}(f{0}(x))"


def arch(body: str, before: str = "", head: str = "gap") -> str:
    return (
        f"{before}\narch a[classes = 10] {{\n  input img: map[3, 8, 8]\n  x = img\n  {body}\n"
        f"  head {{ return x |> {head} |> linear[classes] }}\n}}\n"
    )


def mistakes(data: bytes | str) -> Sequence[Diagnostic]:
    """What `check` and `build` say of a file with these contents, both within the bounds."""
    start = time.process_time()
    found: list[Diagnostic] = []
    try:
        text = data.decode() if isinstance(data, bytes) else data
        program = Program.parse(Source("a.arch", text))
        found += program.check()
        for name in program.archs[:1]:
            graph = program.elaborate(name)
            price(graph)
    except ArchError as e:
        found += e.diagnostics
    assert time.process_time() - start < SECONDS
    render_all(found)
    return found


def codes(text: str) -> set[str]:
    found = mistakes(text)
    assert all(d.span is not None for d in found), found
    return {d.code for d in found}


# -- bytes that are no spec ------------------------------------------------------------------------


def run(path: Path, *more: str, command: str = "check") -> tuple[int, str]:
    """A command in a process of its own, with 2 GiB of memory."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(
        [sys.executable, "-m", "archdsl", command, str(path), *more],
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "XDG_CACHE_HOME": str(path.parent / ".cache")},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        preexec_fn=limit,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (random.Random(0).randbytes(5000), "E-ENCODING"),
        (Path(sys.executable).read_bytes()[:300_000], "E-ENCODING"),
        (b"# a\n" * 2_600_000, "E-SIZE"),
        ("let a = 1".encode("utf-16"), "E-ENCODING"),
        (b'let a = "\xed\xa0\x80"', "E-ENCODING"),
        (b"\0\0\0", "E-ENCODING"),
        (b"\xef\xbb\xbf\xef\xbb\xbflet a = 1", "E-CHARACTER"),
    ],
    ids=["random", "binary", "10 MB", "utf-16", "surrogate", "nul", "two byte order marks"],
)
def test_files_that_are_no_text(data: bytes, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.arch"
    path.write_bytes(data)
    assert main(["check", str(path)]) == 1
    assert f"error[{code}]" in capsys.readouterr().err


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda s: s.encode(errors="replace")))
def test_any_bytes(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    mistakes(text)


# -- depth, recursion and counts -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "let a = " + "[" * DEEP + "]" * DEEP,
        "let a = " + "(" * DEEP,
        "let a = " + "-" * DEEP + "1",
        "let a = " + "not " * DEEP + "true",
        "let a = " + "1 + " * DEEP + "1",
        "let a = " + "2 ^ " * DEEP + "1",
        "let a = " + "f(" * DEEP + "1" + ")" * DEEP,
        "let a = f" + "[1]" * DEEP,
        "let a = f" + ".x" * DEEP,
        "let a = " + "fn(x) => " * DEEP + "1",
        arch("if 1 > 2 { x = relu(x) } " + "else if 1 > 2 { x = relu(x) } " * DEEP),
        arch("if 1 > 2 { " * DEEP + "}" * DEEP),
        "def f(x: " + "list[" * DEEP + "map" + "]" * DEEP + ") = x",
    ],
    ids=lambda text: text[:14],
)
def test_deep_nesting(text: str) -> None:
    assert codes(text) <= {"E-NESTING", "E-SYNTAX", "E-TYPE", "E-JUXTAPOSED", "E-UNCLOSED"} and codes(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (arch("x = f(x)", "def f(x: map) = f(x)"), "E-RECURSION"),
        (arch("x = f(x)", "def f(x: map) = g(x)\ndef g(x: map) = f(x)"), "E-RECURSION"),
        (arch("x = f[1](x)", "def f[n](x: map) = f[n + 1](f[n + 1](x))"), "E-RECURSION"),
        (arch("x = f(x)", "let f = fn(x) => f(x)"), "E-RECURSION"),
        ("let a = a + 1", "E-NAME"),
        ("let a = b\nlet b = a", "E-NAME"),
        (
            arch("x = f[40](x)", "def f[n](x: map) { if n == 0 { return x } return f[n - 1](f[n - 1](x)) }"),
            "E-TOO-LARGE",
        ),
    ],
)
def test_recursion_without_end(text: str, code: str) -> None:
    assert codes(text) == {code}


@pytest.mark.parametrize(
    "text",
    [
        arch(f"for i in {MANY} {{ y = 1 }}"),
        arch("for i in 1000 { for j in 1000 { for k in 1000 { y = 1 } } }"),
        arch(f"blocks i in {MANY} {{ x = relu(x) }}"),
        arch(f"stage i in {MANY} -> x {{ x = relu(x) }}"),
        f"let a = [i for i in 0..{MANY}]",
        f"let a = [1] * {MANY}",
        "let a = [[j for j in 10000] for i in 10000]",
        "let a = 2 ^ 1000000",
        "let a = 10 ^ 10 ^ 10 ^ 10",
        "let a0 = [1]\n" + "\n".join(f"let a{i + 1} = a{i} + a{i}" for i in range(50)),
        "let a0 = [1]\n" + "\n".join(f"let a{i + 1} = [a{i}, a{i}]" for i in range(50)) + "\nlet b = a50 == a50",
        arch("x = f30(x)", "def f0(x: map) = relu(x)\n" + "\n".join(map(DOUBLING.format, range(30), range(1, 31)))),
    ],
    ids=lambda text: text.strip()[-30:],
)
def test_counts_without_bound(text: str) -> None:
    assert codes(text) == {"E-TOO-LARGE"}


@pytest.mark.parametrize(
    "text",
    [
        "let a = 0 ^ -1",
        "let a = (0 - 8) ^ 0.5",
        "let a = 1e308 * 10",
        "let a = 1e1000000000",
        "let a = " + "9" * 10_000,
        "let a = max([])",
        "let a = 1 % 0",
        "let a = 1 // 0.0",
        arch("x = conv[100000000000000000000](x)"),
        arch("x = x |> conv[8, g = 0]"),
        arch("x = x |> windows[-1] |> merge"),
        arch("x = x |> conv[8, k = 0]"),
    ],
)
def test_numbers_without_a_value(text: str) -> None:
    assert codes(text)


def test_wide_models_allocate_nothing() -> None:
    found = mistakes(arch("x = x |> conv[1000000000] |> conv[1000000000]"))
    assert found == []


def test_a_file_with_thousands_of_mistakes_names_the_first() -> None:
    found = mistakes("\n".join(f"let a{i} = b{i}" for i in range(20_000)))
    assert len(found) == 20 and found[0].span is not None and found[0].span.line == 1


# -- files -----------------------------------------------------------------------------------------


def imports(tmp_path: Path, file: str) -> Sequence[Diagnostic]:
    spec = tmp_path / "specs" / "a.arch"
    spec.parent.mkdir(exist_ok=True)
    spec.write_text(f'import f from "{file}"\n' + arch("x = f(x)"))
    try:
        return Program.open(spec).check()
    except ArchError as e:
        return e.diagnostics


def test_imports_stay_in_the_directory_of_the_spec(tmp_path: Path) -> None:
    secret = tmp_path / "secret.arch"
    secret.write_text("def f(x: map) = relu(x)\n")
    inside = tmp_path / "specs" / "parts"
    inside.mkdir(parents=True)
    (inside / "f.arch").write_text("def f(x: map) = relu(x)\n")
    (inside / "up.arch").write_text('import f from "../g.arch"\n')
    (tmp_path / "specs" / "g.arch").write_text("def f(x: map) = relu(x)\n")
    (inside / "out.arch").symlink_to(secret)
    (inside / "linked.arch").symlink_to(inside / "f.arch")
    (inside / "loop.arch").symlink_to(inside / "loop.arch")
    for fine in ("parts/f.arch", "parts/linked.arch", "g.arch", "parts/../g.arch"):
        assert imports(tmp_path, fine) == [], fine
    for outside in ("../secret.arch", str(secret), "parts/out.arch", "../../../../../../etc/passwd", "/etc/passwd"):
        (wrong,) = imports(tmp_path, outside)
        assert wrong.code == "E-IMPORT" and "leaves the directory" in wrong.title and wrong.span, outside
    for missing in ("parts/loop.arch", "parts", ".", "", "x" * 5000, "/dev/zero", "/dev/null"):
        (wrong,) = imports(tmp_path, missing)
        assert wrong.code == "E-IMPORT" and wrong.span, missing


def test_a_long_chain_of_imports(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"f{i}.arch").write_text(f'import f from "f{i + 1}.arch"\n')
    with pytest.raises(ArchError) as caught:
        Program.open(tmp_path / "f0.arch")
    assert {d.code for d in caught.value.diagnostics} == {"E-IMPORT"}


def test_a_broken_import_is_no_circle(tmp_path: Path) -> None:
    (tmp_path / "b.arch").write_text("def f(x: map) = rellu(x)\n")
    (tmp_path / "a.arch").write_text('import f from "b.arch"\nimport f as g from "b.arch"\n')
    with pytest.raises(ArchError) as caught:
        Program.open(tmp_path / "a.arch")
    assert {d.code for d in caught.value.diagnostics} == {"E-NAME"}


def test_unreadable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "directory.arch").mkdir()
    (tmp_path / "loop.arch").symlink_to(tmp_path / "loop.arch")
    (tmp_path / "gone.arch").symlink_to(tmp_path / "nothing.arch")
    for path in ("directory.arch", "loop.arch", "gone.arch", "x" * 5000 + ".arch", "a\0b.arch"):
        assert main(["check", str(tmp_path / path)]) == 1
        assert "error[E-FILE]" in capsys.readouterr().err, path
    assert main(["check", "/dev/zero"]) == 1
    assert "error[E-SIZE]" in capsys.readouterr().err


def test_a_file_that_vanishes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.arch").write_text('import f from "b.arch"\n' + arch("x = f(x)"))
    (tmp_path / "b.arch").write_text("def f(x: map) = relu(x)\n")
    is_file = Path.is_file

    def vanishes(path: Path) -> bool:
        found = is_file(path)
        if path.name == "b.arch":
            path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Path, "is_file", vanishes)
    assert main(["check", str(tmp_path / "a.arch")]) == 1
    assert "error[E-FILE]" in capsys.readouterr().err


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.arch")
    with subprocess.Popen(
        [sys.executable, "-m", "archdsl", "check", str(tmp_path / "a.arch")],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        (tmp_path / "a.arch").write_text("let a = b\n")
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1 and "error[E-NAME]" in err


# -- writing ---------------------------------------------------------------------------------------


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "a.arch"
    path.write_text(arch("x = x |> conv[8]"))
    return path


def test_a_full_disk(
    spec: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["build", str(spec), "-o", str(out)]) == 0
    before = {p.name: p.read_bytes() for p in (out / "a").iterdir()}
    spec.write_text(arch("x = x |> conv[16]"))
    import archdsl.backends.write as write

    def full(path: Path, text: str) -> None:
        path.write_text(text[: len(text) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write, "_write", full)
    capsys.readouterr()
    for place in (out, tmp_path / "new" / "place"):
        assert main(["build", str(spec), "-o", str(place)]) == 1
        assert "error[E-WRITE]" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (out / "a").iterdir()} == before
    assert not (tmp_path / "new").exists()
    assert [p.name for p in out.iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_to(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = spec.parent / "out"
    out.mkdir(mode=0o500)
    assert main(["build", str(spec), "-o", str(out)]) == 1
    assert "error[E-WRITE]" in capsys.readouterr().err


@pytest.mark.parametrize("second", [False, True], ids=["first build", "rebuild"])
def test_an_interrupt_in_the_middle_of_writing(spec: Path, second: bool) -> None:
    out = spec.parent / "out"
    if second:
        assert main(["build", str(spec), "-o", str(out)]) == 0
        spec.write_text(arch("x = x |> conv[16]"))
    before = {p.name: p.read_bytes() for p in (out / "a").iterdir()} if second else {}
    script = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(HERE.parent)!r})
        import archdsl.backends.write as write
        plain = write._write
        def slow(path, text):
            plain(path, text[: len(text) // 2])
            print("writing", flush=True)
            time.sleep(30)
        write._write = slow
        from archdsl.cli import main
        sys.exit(main(["build", {str(spec)!r}, "-o", {str(out)!r}]))
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the shell's background jobs ignore it
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "")
    left = {p.name: p.read_bytes() for p in (out / "a").iterdir()} if second else {}
    assert left == before
    assert second or not out.exists()


# -- mutated specs ---------------------------------------------------------------------------------


def test_mutated_specs() -> None:
    found = fuzz.run(1, range(200))
    assert [(o.mutant.number, o.wrong) for o in found if o.wrong] == []
    assert len({s.code for o in found for s in o.said}) > 10


@pytest.mark.full
def test_many_mutated_specs() -> None:
    found = list(fuzz.survey(2, 2000, 1))
    assert len(found) == 2000
    assert [(o.mutant.number, o.wrong) for o in found if o.wrong] == []


@pytest.mark.parametrize(
    ("status", "printed", "wrong"),
    [
        (0, "", False),
        (1, "error[E-NAME]: unknown name `a`\n", False),
        (1, "", True),
        (0, "error[E-NAME]: unknown name `a`\n", True),
        (1, "Traceback (most recent call last):\n", True),
        (2, "usage: archdsl\n", True),
        (70, "error[E-NAME]: unknown name `a`\n", True),
    ],
)
def test_what_breaks_a_rule_is_seen(
    status: int, printed: str, wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(_: Sequence[str]) -> int:
        print(printed, end="", file=sys.stderr)
        return status

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "archdsl", answers)
    assert bool(fuzz.outcome(fuzz.mutant(0, 0), build=False).wrong) == wrong


def test_what_is_underlined_is_read_off_the_message() -> None:
    source = Source("a.arch", "let a = conv[3](x,\n  y) + 40")
    spans = [Span(source, 1, 9, 1, 13), Span(source, 1, 14, 1, 15), Span(source, 1, 9, 2, 5), Span(source, 2, 6, 2, 7)]
    found = fuzz.said(render_all([Diagnostic("E-NAME", "a title", span) for span in spans]))
    assert [(s.file, s.line, s.underlined, s.kind) for s in found] == [
        ("a.arch", 1, "conv", "name"),
        ("a.arch", 1, "3", "number"),
        ("a.arch", 1, "conv[3](x,", "several lines"),
        ("a.arch", 2, "+", "sign"),
    ]


@pytest.mark.parametrize(
    ("body", "before", "code"),
    [
        ("x = x |> conv[2 ^ 40] |> split[3]", "", "E-SPLIT"),
        ("x = x |> conv[2 ^ 30] |> gn[7]", "", "E-GROUPS"),
        ("x = x |> conv[make_div(8, 0.5)]", "", "E-VALUE"),
        ("x = x |> conv[8, init = normal([0.02])]", "", "E-VALUE"),
        ("input img: map[3, 8, 8]", "", "E-INPUT"),
        ("for i in 2 { input low: map[3, 8, 8] }", "", "E-INPUT"),
        ("x = f(x)", "def f(x: map) { input low: map[3, 8, 8] return low }", "E-INPUT"),
    ],
)
def test_what_mutants_have_found(body: str, before: str, code: str) -> None:
    assert codes(arch(body, before)) == {code}


def test_blocks_whose_result_nothing_uses_are_built() -> None:
    torch = pytest.importorskip("torch")
    built = compile_spec(arch("blocks i in 2 { y = f(x) }", "def f(x: map) = x |> conv@one[3] |> relu |> conv@two[3]"))
    assert built.module()(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


# -- mistakes that model libraries let through -----------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("heads = [3, 6, 12, 24]", "heads = [5, 6, 12, 24]"), "E-HEADS", "5 heads do not divide the 96"),
        (("heads = [3, 6, 12, 24]", "haeds = [3, 6, 12, 24]"), "E-NAME", "haeds"),
        (("heads = [3, 6, 12, 24]", "heads = [3, 6, 12]"), "E-INDEX", "out of range for a list of 3"),
        (("|> windows[2] |> pack", '|> windows[2, pad = "none"] |> pack'), "", ""),
        (("windows[i], shift", "windws[i], shift"), "E-NAME", "did you mean `windows`"),
    ],
)
def test_swin_with_a_usual_mistake(change: tuple[str, str], code: str, words: str) -> None:
    text = (specs_dir() / "swin_t.arch").read_text(encoding="utf-8").replace(*change)
    found = mistakes(text)
    if not code:
        assert found == []
        return
    assert code in {d.code for d in found}
    assert words in render_all(found)


def test_an_odd_map_before_a_merge_without_padding() -> None:
    text = (specs_dir() / "swin_t.arch").read_text(encoding="utf-8")
    text = text.replace("|> windows[2] |> pack", '|> windows[2, pad = "none"] |> pack').replace("224, 224", "200, 200")
    found = mistakes(text)
    assert found and found[0].code == "E-WINDOW" and "25x25" in found[0].title and found[0].help


def test_misspelt_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "swin_t", "--set", "head=[3, 6, 12, 24]"]) == 1
    err = capsys.readouterr().err
    assert "E-PARAMETER" in err and "`heads`" in err


def test_three_stages_and_two_stages_with_their_own_windows_work() -> None:
    torch = pytest.importorskip("torch")
    import archdsl

    convnext = (specs_dir() / "convnext_t.arch").read_text(encoding="utf-8")
    assert "stage i in 4" in convnext
    three = convnext.replace("stage i in 4", "stage i in 3")
    swin = (specs_dir() / "swin_t.arch").read_text(encoding="utf-8").replace("stage i in 4", "stage i in 2")
    two = swin.replace("[window] * 4", "[7, 4]")
    assert "windows = [7, 4]" in two
    for text, stages in ((three, 3), (two, 2)):
        text = "\n".join(line for line in text.splitlines() if not line.startswith("check "))
        name = "convnext_t" if stages == 3 else "swin_t"
        artefact = archdsl.compile(_single(text, name), depths=[1] * stages)
        assert len(artefact.graph.features) == stages
        model = artefact.module().eval()
        with torch.no_grad():
            assert model(torch.randn(1, 3, 224, 224)).shape == (1, 1000)


def _single(text: str, name: str) -> str:
    """The text without the variants after its first arch, which would be the file's own choice."""
    return "\n".join(line for line in text.splitlines() if not (line.startswith("arch ") and f"= {name[:4]}" in line))


# -- names that Python has taken -------------------------------------------------------------------


def test_reserved_names_are_all_of_torch_and_of_the_model() -> None:
    torch = pytest.importorskip("torch")
    import archdsl

    plain = {n for n in (*dir(torch.nn.Module), *dir(torch.nn.Module())) if not n.startswith("__")}
    assert plain <= MODULE
    model = archdsl.load("swin_t", depths=[1, 1, 1, 1])
    assert {n for n in set(dir(model)) - set(model._modules) - plain if not n.startswith("__")} <= MODEL


@pytest.mark.parametrize("label", ["class", "self", "forward", "train", "import", "__init__", "num_classes", "None"])
def test_a_label_that_python_has_taken(label: str) -> None:
    with pytest.raises(ArchError) as caught:
        compile_spec(arch(f"x = x |> conv@{label}[8]"))
    (wrong,) = caught.value.diagnostics
    assert wrong.code in ("E-LOWERING", "E-RESERVED", "E-SYNTAX") and wrong.span is not None


def test_an_arch_of_any_name_runs_or_is_refused() -> None:
    torch = pytest.importorskip("torch")
    text = arch("x = g(x)", "def g(x: map) = x |> conv@one[3] |> relu |> conv@two[3]")
    refused = set()
    for name in ("f", "nn", "F", "Swin", "Tensor", "class", "super", "create", "__", "_b"):
        try:
            built = compile_spec(text.replace("arch a", f"arch {name}"))
        except ArchError as e:
            assert {d.code for d in e.diagnostics} == {"E-LOWERING"}
            refused.add(name)
            continue
        assert built.module()(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    assert refused == {"nn", "F", "Tensor", "class", "super", "create", "__"}


@pytest.mark.parametrize("name", ["f", "F", "true_", "tensor", "any", "a_model", "A"])
def test_a_def_of_a_name_that_the_emitted_module_uses(name: str) -> None:
    torch = pytest.importorskip("torch")
    text = arch(f"x = {name}(x)", f"def {name}(x: map) = x |> conv@one[3] |> relu |> conv@two[3]")
    assert compile_spec(text).module()(torch.zeros(1, 3, 8, 8)).shape == (1, 10)


def test_what_pytorch_cannot_say_is_told_where() -> None:
    with pytest.raises(ArchError) as caught:
        compile_spec(arch("y, z = windows[4, halo = 1](x, relu(x))\n  x = attend(windows[4](x), y, z) |> merge"))
    (wrong,) = caught.value.diagnostics
    assert wrong.code == "E-LOWERING" and wrong.span is not None and wrong.span.line == 5
