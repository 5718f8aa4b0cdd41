"""Turns an emitted module into MLIR text through torch.export and torch-mlir, verified."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
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
    with the operation where torch-mlir does not know one of the module's.
    """
    try:
        import torch
        from torch_mlir import fx, ir
        from torch_mlir.dialects import torch as torch_dialect
        from torch_mlir.extras.fx_importer import FxImporter
    except ImportError as e:
        raise error(
            "E-DEPENDENCY", f"MLIR needs {e.name}, which is not installed", help="pip install archdsl[mlir]"
        ) from e
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and torch-mlir deprecate parts of each other
        program = torch.export.export(_all_in_state(module).eval(), (torch.zeros(1, *input),))
        context = ir.Context()
        torch_dialect.register_dialect(context)
        said: list[str] = []

        def hear(spoken: ir.DiagnosticInfo) -> bool:
            if spoken.severity == ir.DiagnosticSeverity.ERROR:
                said.append(_reason(spoken.message, str(spoken.location)))
            return True  # or MLIR prints it

        context.attach_diagnostic_handler(hear)
        importer = FxImporter(context=context)
        try:
            lowered = fx.export_and_import(program, output_type=DIALECTS[dialect], fx_importer=importer)
            lowered.operation.verify()
        except Exception as e:  # torch-mlir raises plain Exceptions, and its verifier's error derives from Exception
            reason = (said or str(e).strip().splitlines() or [type(e).__name__])[0]
            raise error("E-MLIR", f"torch-mlir cannot lower this module: {reason}") from e
    limit = None if weights else _ELIDED
    text: str = lowered.operation.get_asm(large_elements_limit=limit, large_resource_limit=limit)
    return text if text.endswith("\n") else text + "\n"


_LINE = re.compile(r'"([^"]+)":(\d+)')
_OPERATOR = re.compile(r'name = "torch\.([\w.]+)"')


def _reason(message: str, location: str) -> str:
    """What MLIR says of what it cannot lower: the operator, where it is one, and its place in Python."""
    found, line = _OPERATOR.search(message), _LINE.search(location)
    what = f"it has no lowering of `{found[1]}`" if found else message.strip().partition("\n")[0].partition(": %")[0]
    return f"{what} ({Path(line[1]).name}:{line[2]})" if line else what


def _all_in_state(module: nn.Module) -> nn.Module:
    """A copy whose buffers are all persistent: torch-mlir looks every buffer's value up in the state dict."""
    module = copy.deepcopy(module)
    state = module.state_dict()
    for name, value in list(module.named_buffers()):
        if name not in state:
            owner, _, own = name.rpartition(".")
            module.get_submodule(owner).register_buffer(own, value, persistent=True)
    return module
