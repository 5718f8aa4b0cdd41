"""Turns a TOML file into a Recipe: how long, on what, and with which settings a module is trained."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from archdsl.diagnostics import ArchError, Source, Span, did_you_mean, error

DIGITS = "digits"
"""The data set that ships in a package: scikit-learn's 1,797 handwritten digits of 8x8."""
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Recipe:
    """AdamW (1711.05101) with a linear warmup and half a cosine down to zero (1608.03983).

    The accuracy is top-1 of the averaged weights on the validation images, after the last epoch.
    """

    data: str = DIGITS
    """`digits`, or a directory: `train/CLASS/*.png` and `val/CLASS/*.png`, other image formats too."""
    epochs: int = 10
    batch: int = 64
    rate: float = 1e-3
    """The highest learning rate."""
    weight_decay: float = 0.05
    """Of weights of two or more dimensions; biases, norms and layer scales have none."""
    warmup: float = 1.0
    """Epochs in which the rate rises."""
    smoothing: float = 0.1
    """Of labels (1512.00567)."""
    mixup: float = 0.0
    """Alpha of the Beta distribution that images and labels are mixed by (1710.09412); 0 is never."""
    flip: bool = False
    """Whether half of the images are mirrored."""
    crop: float = 1.0
    """The least share of an image's area that a random crop keeps (1409.4842); 1 is all of it."""
    ema: float = 0.99
    """How much of the averaged weights a step keeps; 0 averages nothing."""
    clip: float = 1.0
    """The highest norm of a step's gradient; 0 is any."""
    precision: str = "float32"
    """What autocast computes in."""

    @staticmethod
    def read(path: str | Path) -> Recipe:
        """The recipe of a file, which a path in it starts from. Raises E-RECIPE."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "it is no text in UTF-8"
            raise error("E-RECIPE", f"cannot read `{path}`: {reason}") from e
        recipe = Recipe.parsed(text, str(path))
        if recipe.data == DIGITS:
            return recipe
        place = (Path(path).parent / recipe.data).resolve()
        if not (place / "train").is_dir() or not (place / "val").is_dir():
            title, help = (
                f"`{recipe.data}` has no directories `train` and `val`",
                "of a directory a class, with its images",
            )
            raise _wrong(Source(str(path), text), "data", title, help)
        return replace(recipe, data=str(place))

    @staticmethod
    def parsed(text: str, name: str = "recipe.toml") -> Recipe:
        """The recipe that a text says; a path in it is as it stands. Raises E-RECIPE."""
        source = Source(name, text)
        try:
            given = tomllib.loads(text)
        except tomllib.TOMLDecodeError as e:
            said, place = str(e), re.search(r"at line (\d+), column (\d+)", str(e))
            line, column = (int(n) for n in place.groups()) if place else (len(source.lines), 1)
            title = f"no TOML: {said.partition(' (at')[0]}"
            raise error("E-RECIPE", title, Span(source, line, column, line, column + 1)) from e
        known = {f.name: type(f.default) for f in fields(Recipe)}
        for key, value in given.items():
            if key not in known:
                hint = did_you_mean(key, known) or f"there are {', '.join(known)}"
                raise _wrong(source, key, f"a recipe has no `{key}`", hint)
            if known[key] is float and type(value) is int:
                given[key] = value = float(value)
            if type(value) is not known[key]:
                raise _wrong(source, key, f"`{key}` is {_kind(known[key])}, not `{value}`")
        recipe = Recipe(**given)
        for key, (holds, wanted) in _BOUNDS.items():
            value = getattr(recipe, key)
            if not (math.isfinite(value) and holds(value)):
                raise _wrong(source, key, f"`{key}` is {wanted}, not `{value}`")
        if recipe.precision not in PRECISIONS:
            raise _wrong(
                source, "precision", f"there is no precision `{recipe.precision}`", f"one of {', '.join(PRECISIONS)}"
            )
        if recipe.warmup > recipe.epochs:
            raise _wrong(source, "warmup", f"`warmup` takes longer than all {recipe.epochs} epochs")
        return recipe


_BOUNDS: dict[str, tuple[Any, str]] = {
    "epochs": (lambda n: n >= 1, "at least 1"),
    "batch": (lambda n: n >= 1, "at least 1"),
    "rate": (lambda x: x > 0, "more than 0"),
    "weight_decay": (lambda x: x >= 0, "at least 0"),
    "warmup": (lambda x: x >= 0, "at least 0"),
    "smoothing": (lambda x: 0 <= x < 1, "from 0 to below 1"),
    "mixup": (lambda x: x >= 0, "at least 0"),
    "crop": (lambda x: 0 < x <= 1, "above 0, and at most 1"),
    "ema": (lambda x: 0 <= x < 1, "from 0 to below 1"),
    "clip": (lambda x: x >= 0, "at least 0"),
}


def _kind(kind: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


def _wrong(source: Source, key: str, title: str, help: str = "") -> ArchError:
    """An error at the line of a key."""
    for number, line in enumerate(source.lines, 1):
        if found := re.match(rf"\s*({re.escape(key)})\s*=", line):
            span = Span(source, number, found.start(1) + 1, number, found.end(1) + 1)
            return error("E-RECIPE", title, span, help=help)
    return error("E-RECIPE", title, Span(source, 1, 1, 1, 1), help=help)
