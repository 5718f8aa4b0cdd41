"""Holds the list of wrong edits (tests/mutants) to the code it edits, and the tests to noticing every one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import Mutant, Tree, mutants, verdicts

LAYERS = ("syntax", "frontend", "ir", "ops", "cost.py", "backends", "weights", "api.py", "cli.py")


def test_every_edit_has_one_place_and_changes_something() -> None:
    assert {m.id: fault for m in mutants() if (fault := m.fault())} == {}


def test_every_layer_is_edited_and_no_edit_is_listed_twice() -> None:
    listed = mutants()
    assert len(listed) >= 30
    assert len({(m.file, m.old, m.new) for m in listed}) == len(listed)
    files = [m.file for m in listed]
    for place in (*(f"archdsl/{layer}" for layer in LAYERS), "codegen", "specs/std"):
        assert any(file.startswith(place) for file in files), place


def test_what_cannot_be_applied_is_told(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("a + a + b\n")

    def fault(old: str, new: str, file: str = "f.py") -> str:
        return Mutant("m", file, "", (), old, new).fault(tmp_path)

    assert fault("b", "a") == ""
    assert "2 times" in fault("a", "b") and "0 times" in fault("c", "b") and "0 times" in fault("b", "a", "g.py")
    assert fault("b", "b") == "it changes nothing"


@pytest.mark.full
def test_a_mutant_that_no_test_notices_survives_and_leaves_the_copy_sound(tmp_path: Path) -> None:
    tree = Tree.copy(tmp_path / "copy")
    killer = "tests/test_cost.py::test_human"
    edit = "archdsl/cost.py", "", (killer,), "value = number / scale"
    before = (tree.place / "archdsl/cost.py").read_bytes()
    assert tree.judge(Mutant("wrong", *edit, "value = number * scale")).outcome == "killed"
    assert tree.judge(Mutant("harmless", *edit, "value = 1 * number / scale")).outcome == f"survived {killer}"
    assert "no verdict" in tree.judge(Mutant("lost", edit[0], "", ("tests/none.py",), edit[3], "value = 0")).outcome
    assert (tree.place / "archdsl/cost.py").read_bytes() == before


@pytest.mark.full
def test_every_mutant_is_killed(tmp_path: Path) -> None:
    found = list(verdicts(mutants(), tmp_path / "copy"))
    assert len(found) == len(mutants())
    assert [f"{v.mutant.id}: {v.outcome}" for v in found if v.outcome != "killed"] == []
