"""Turns a file of state_keys/ into the names and shapes of a timm model's tensors.

A line each: name and shape, `{0..2}` for several blocks.
"""

from __future__ import annotations

import re
from pathlib import Path

STATE_KEYS = Path(__file__).parent / "state_keys"


def listed(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a timm model's state dict, as they are written down."""
    out = {}
    for line in (STATE_KEYS / f"{model}.txt").read_text(encoding="utf-8").splitlines():
        name, _, shape = line.partition(" ")
        head, first, last, tail = re.fullmatch(r"([^{]*)(?:\{(\d+)\.\.(\d+)\})?(.*)", name).groups()  # type: ignore[union-attr]
        numbers = [""] if first is None else range(int(first), int(last) + 1)
        out |= {f"{head}{n}{tail}": tuple(map(int, shape.split("x"))) if shape else () for n in numbers}
    return out
