"""Texts that tests compare with what is produced now; `--update-golden` writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest


def check_golden(request: pytest.FixtureRequest, name: str, text: str) -> None:
    """Asserts that `text` is the golden file `name` in this folder, or writes it under --update-golden."""
    path = Path(__file__).parent / (name + ".golden" if name.endswith(".py") else name)
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name} differs: see the diff, or run with --update-golden"
