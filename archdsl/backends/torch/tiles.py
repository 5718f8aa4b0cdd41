"""Turns times that `archdsl tune` measured into the table of constants that kernels.py begins with."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from archdsl.diagnostics import error

USUAL = ""
"""What a launcher's own choice is written as."""
MARGIN = 0.02
"""The part of a launch's time that another choice has to save: below it, times differ by themselves."""

Tile = Mapping[str, int]


def written(tile: Tile) -> str:
    """A choice as a text, `BLOCK=64 num_warps=4`."""
    return " ".join(f"{name}={value}" for name, value in tile.items())


def tile_of(text: str) -> dict[str, int]:
    """The choice that a text stands for. Raises ValueError."""
    out = {}
    for part in text.split():
        name, _, value = part.partition("=")
        if not re.fullmatch(r"[A-Za-z]\w*", name) or not re.fullmatch(r"[1-9]\d{0,4}", value):
            raise ValueError(f"`{part}` is not NAME=NUMBER")
        out[name] = int(value)
    return out


@dataclass(frozen=True)
class Measured:
    """One launch, on tensors of some shapes: seconds by choice, of those that compute the same.

    `launch` is what kernels.py knows it by, `source` a digest of the kernel. `refused` says of other choices why they
    are left out.
    """

    launch: str
    shapes: str
    source: str
    seconds: Mapping[str, float]
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gpu:
    """What was measured on one architecture's GPU, and with which versions."""

    name: str
    versions: Mapping[str, str]
    measured: tuple[Measured, ...] = ()

    def like(self, other: Gpu) -> bool:
        """Whether the same would be measured again."""
        return (self.name, self.versions) == (other.name, other.versions)

    def known(self, launch: str, shapes: str, source: str) -> bool:
        return any((m.launch, m.shapes, m.source) == (launch, shapes, source) for m in self.measured)

    def joined(self, one: Measured) -> Gpu:
        """With one more launch, in place of what is known of it."""
        kept = (m for m in self.measured if (m.launch, m.shapes) != (one.launch, one.shapes))
        return replace(self, measured=(*kept, one))

    def chosen(self) -> dict[str, dict[str, int]]:
        """By launch, the choice that takes the least time over all shapes, where it saves more than a margin."""
        out = {}
        for launch in sorted({m.launch for m in self.measured}):
            same = [m.seconds for m in self.measured if m.launch == launch]
            tried = set.intersection(*(set(seconds) for seconds in same))
            total = {text: sum(seconds[text] for seconds in same) for text in sorted(tried)}
            best = min(total, key=lambda text: (total[text], text.count("=")), default=USUAL)
            if USUAL in total and total[best] < (1 - MARGIN) * total[USUAL]:
                out[launch] = tile_of(best)
        return out


@dataclass(frozen=True)
class Tiles:
    """What is known, by architecture of GPUs (`sm_90`)."""

    gpus: Mapping[str, Gpu] = field(default_factory=dict)

    def chosen(self) -> dict[str, dict[str, dict[str, int]]]:
        """By architecture and launch."""
        found = {architecture: gpu.chosen() for architecture, gpu in sorted(self.gpus.items())}
        return {architecture: tiles for architecture, tiles in found.items() if tiles}

    def text(self) -> str:
        gpus = {name: asdict(gpu) for name, gpu in sorted(self.gpus.items())}
        return json.dumps({"tiles": 1, "gpus": gpus}, indent=1) + "\n"


def read_tiles(path: str | Path) -> Tiles:
    """The table of a file that `archdsl tune` wrote. Raises E-FILE and E-TILES."""
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        if stored["tiles"] != 1:
            raise ValueError(f"it is of version {stored['tiles']!r}, and this archdsl reads version 1")
        return Tiles({_architecture(name): _gpu(fields) for name, fields in stored["gpus"].items()})
    except OSError as e:
        reason = e.strerror or str(e)
        raise error("E-FILE", f"cannot read `{path}`: {reason[:1].lower()}{reason[1:]}") from e
    except KeyError as e:
        reason = f"{e} is missing"
    except (AttributeError, TypeError, ValueError) as e:
        reason = str(e)
    hint = "write one with `archdsl tune SPEC -o FILE`"
    raise error("E-TILES", f"`{path}` is no table of kernels' constants: {reason}", help=hint)


def _architecture(name: str) -> str:
    if not re.fullmatch(r"sm_\d{2,3}", name):
        raise ValueError(f"`{name}` is no architecture of GPUs")
    return name


def _gpu(fields: Mapping[str, Any]) -> Gpu:
    measured = tuple(Measured(**one) for one in fields["measured"])
    for one in measured:
        for name in ("launch", "shapes", "source"):
            _text(getattr(one, name))
        for text, seconds in one.seconds.items():
            tile_of(text)
            if not isinstance(seconds, float) or not 0 < seconds < math.inf:
                raise ValueError(f"`{seconds}` is no time")
    return Gpu(_text(fields["name"]), {_text(k): _text(v) for k, v in fields["versions"].items()}, measured)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"`{value}` is no text")
    return value


def table_source(tiles: Tiles, kernels: Collection[str]) -> list[str]:
    """The lines of the table in kernels.py, between its braces, as far as it is of these kernels."""
    out = []
    for architecture, choices in tiles.chosen().items():
        of_these = {launch: tile for launch, tile in choices.items() if launch.partition(" ")[0] in kernels}
        out += [f"    {architecture!r}: {{"] if of_these else []
        for launch, tile in of_these.items():
            first, *parts = textwrap.wrap(launch, 100)
            out += [f"        {part + ' '!r}" for part in (first, *parts)[:-1]]
            out.append(f"        {(first, *parts)[-1]!r}: {tile!r},")
        out += ["    },"] if of_these else []
    return [line.replace("'", '"') for line in out]
