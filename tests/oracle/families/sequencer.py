"""Sequencer (2205.01972)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, variant: bool = False) -> Twin:
    # 250: patches of 7 and pairs of rows leave a remainder out. 192x288: not square.
    return timm_twin(
        f"sequencer2d_{size}",
        f"sequencer2d_{size}",
        {"dims": [24, 48, 48, 48], "depths": [1, 1, 1, 1], "hidden": [8, 12, 12, 12]},
        {"dims": "embed_dims", "depths": "layers", "hidden": "hidden_sizes"},
        sizes=((250, 250), (192, 288)),
        reduction=14,
        slow=True,  # LSTMs go step by step on the meta device
        variant=variant,
    )


TWINS = (_twin("s"), _twin("m", variant=True), _twin("l", variant=True))
