"""Turns an emitted module into MLIR text through torch.export and torch-mlir, verified."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from archdsl.diagnostics import error

if TYPE_CHECKING:
    from torch import nn

DIALECTS: dict[str, str] = {"torch": "torch", "linalg": "linalg-on-tensors"}
"""Dialects by their name here, and torch-mlir's name of the output that is in them."""

_ELIDED = 16
"""Constants of more elements than this are left out where weights are."""


def to_mlir(module: nn.Module, input: Sequence[int], dialect: str = "linalg", *, weights: bool = True) -> str:
    """The module in eval mode on one image of size `input`, as a verified MLIR module in `dialect`.

    Weights are constants of the text (eight digits a float: 230 MB for Swin-T); without `weights` they are
    elided, and the text is to be read only. Raises E-DEPENDENCY where torch-mlir is not installed, and E-MLIR
    with torch-mlir's reason where it does not know an operation of the module.
    """
    try:
        import torch
        from torch_mlir import fx
    except ImportError as e:
        raise error(
            "E-DEPENDENCY", f"MLIR needs {e.name}, which is not installed", help="pip install archdsl[mlir]"
        ) from e
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and torch-mlir deprecate parts of each other
        program = torch.export.export(_all_in_state(module).eval(), (torch.zeros(1, *input),))
        try:
            lowered = fx.export_and_import(program, output_type=DIALECTS[dialect])
            lowered.operation.verify()
        except Exception as e:  # torch-mlir raises plain Exceptions, and its verifier's error derives from Exception
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise error("E-MLIR", f"torch-mlir cannot lower this module: {reason}") from e
    limit = None if weights else _ELIDED
    text: str = lowered.operation.get_asm(large_elements_limit=limit, large_resource_limit=limit)
    return text if text.endswith("\n") else text + "\n"


def _all_in_state(module: nn.Module) -> nn.Module:
    """A copy whose buffers are all persistent: torch-mlir looks every buffer's value up in the state dict."""
    module = copy.deepcopy(module)
    state = module.state_dict()
    for name, value in list(module.named_buffers()):
        if name not in state:
            owner, _, own = name.rpartition(".")
            module.get_submodule(owner).register_buffer(own, value, persistent=True)
    return module
