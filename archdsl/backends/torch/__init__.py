"""Graph -> readable PyTorch: plan classes, choose axis orders, fit constructor arguments, print."""

from __future__ import annotations

from archdsl.backends.torch.emit import Unsupported, emit

__all__ = ["Unsupported", "emit"]
