"""Turns a live module into one whose runs can be compared: nothing random in training, one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

RATES = ("rate", "drop_prob", "p")
"""What emitted modules, timm's and torch's call the probability of dropping something."""


def still(model: nn.Module) -> None:
    """Switches off what is random in training: drop path and dropout."""
    for module in model.modules():
        for rate in RATES:
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread, and as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
