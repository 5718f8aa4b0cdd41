"""Turns a safetensors file, or the name of a timm model, into stored tensors; and tensors into a file.

Pickles are refused unread: opening one runs whatever code is in it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archdsl.diagnostics import ArchError, did_you_mean, error

if TYPE_CHECKING:
    from torch import Tensor, nn

TIMM = "timm:"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")


@dataclass(frozen=True)
class Stored:
    """Tensors by key, as another library stores them."""

    name: str
    tensors: Mapping[str, Tensor]
    """On the meta device where only names and shapes are known (`values` is False)."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    values: bool = True
    model: str = ""
    """timm's name of the model, where it is known."""
    license: str = ""
    order: Mapping[str, int] | None = None
    """When the model first uses each key."""

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights come from, as far as it is known."""
        known = {k: self.metadata.get(k, "") for k in ("source", "model")} | {"license": self.license}
        return {k: v for k, v in known.items() if v}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {k: tuple(t.shape) for k, t in self.tensors.items()}


def open_store(source: str, model: str = "", *, needs_values: bool = False) -> Stored:
    """`timm:NAME` or a safetensors file; `model` is timm's name of what the file holds, if that is known.

    Where timm has no weights at hand, names and shapes are enough unless `needs_values`.

    Raises E-PICKLE, E-WEIGHTS, E-FILE and E-DEPENDENCY.
    """
    if source.startswith(TIMM):
        return _from_timm(source.removeprefix(TIMM), needs_values)
    stored = read_file(source)
    model = (model or stored.metadata.get("model", "")).removeprefix(TIMM)
    if not model:
        return stored
    timm = _timm()
    _known(timm, model)
    license = stored.license or _license(timm, model)
    order = execution_order(timm.create_model(model, pretrained=False))
    return Stored(stored.name, stored.tensors, stored.metadata, True, model, license, order)


def read_file(path: str | Path) -> Stored:
    """The tensors of a safetensors file. Raises E-PICKLE, E-WEIGHTS, E-FILE and E-DEPENDENCY."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(4)
    except OSError as e:
        raise error("E-FILE", f"cannot read `{path}`: {(e.strerror or str(e)).lower()}") from e
    if Path(path).suffix in _PICKLES or start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise error(
            "E-PICKLE",
            f"`{path}` is a pickle, which could run code when it is opened",
            help="convert it where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), ...)",
        )
    safe = _safetensors()
    try:
        with safe.safe_open(str(path), "pt") as content:
            tensors = {k: content.get_tensor(k) for k in content.keys()}  # noqa: SIM118 (it is not a mapping)
            metadata = dict(content.metadata() or {})
    except (safe.SafetensorError, OSError, ValueError, KeyError) as e:
        raise error("E-WEIGHTS", f"`{path}` is not a safetensors file: {str(e).rpartition(': ')[2]}") from e
    return Stored(str(path), tensors, metadata, license=metadata.get("license", ""))


def write_file(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Replaces a safetensors file in a single step. Raises E-WRITE and E-DEPENDENCY."""
    _safetensors()
    from safetensors.torch import save

    content = save({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}, dict(metadata))
    place = Path(os.path.realpath(path))
    staged = place.with_name(f".{place.name}-{secrets.token_hex(4)}.tmp")
    try:
        staged.write_bytes(content)
        os.replace(staged, place)
    except OSError as e:
        reason = e.strerror or str(e)
        raise error("E-WRITE", f"cannot write `{path}`: {reason[:1].lower()}{reason[1:]}") from e
    finally:
        with suppress(OSError):
            staged.unlink()


def timm_model(name: str, **arguments: object) -> nn.Module:
    """timm's model without weights of its own. Raises E-WEIGHTS and E-DEPENDENCY."""
    timm = _timm()
    _known(timm, name)
    model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return model


def execution_order(model: nn.Module, size: tuple[int, int] | None = None) -> dict[str, int] | None:
    """When each tensor of the state dict is first used by a forward pass; None where the model cannot be traced.

    A tensor that belongs to no layer counts as used when the module it belongs to is entered. `size` is the height
    and width of the image, the model's own where it is None.
    """
    import copy

    import torch

    traced = copy.deepcopy(model).to("meta").eval()
    entered: dict[str, int] = {}

    def enter(name: str, *_: object) -> None:
        entered.setdefault(name, len(entered))

    for name, module in traced.named_modules():
        module.register_forward_pre_hook(partial(enter, name))
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, *usual = config.get("input_size") or (3, 224, 224)
    try:
        with torch.no_grad():
            traced(torch.zeros(1, channels, *(size or usual), device="meta"))
    except Exception:  # any model of another library: then it has no order
        return None
    return {k: entered[owner] for k in traced.state_dict() if (owner := k.rpartition(".")[0]) in entered}


def _from_timm(name: str, needs_values: bool) -> Stored:
    import torch

    timm = _timm()
    _known(timm, name)
    values = True
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as e:  # no network, no cache, no published weights
        if needs_values:
            reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise error(
                "E-WEIGHTS",
                f"timm's weights of `{name}` are not at hand: {reason}",
                help=f"fetch the safetensors file, and give it with --model {name}",
            ) from e
        values = False
        model = timm.create_model(name, pretrained=False)
    state = {k: t if values else torch.empty_like(t, device="meta") for k, t in model.state_dict().items()}
    return Stored(TIMM + name, state, {}, values, name, _license(timm, name), execution_order(model))


def _license(timm: Any, name: str) -> str:
    config = timm.models.get_pretrained_cfg(name)
    return str(getattr(config, "license", None) or "")


def _known(timm: Any, name: str) -> None:
    names = timm.list_models()
    if name.partition(".")[0] not in names:
        raise error("E-WEIGHTS", f"timm has no model `{name}`", help=did_you_mean(name, names))


def _timm() -> Any:
    try:
        import timm
    except Exception as e:  # an installation of it that fails for a reason of its own, too
        raise _absent("timm", e) from e
    return timm


def _safetensors() -> Any:
    try:
        import safetensors
        import torch  # noqa: F401 (what its tensors are)
    except ImportError as e:
        raise _absent("safetensors", e) from e
    return safetensors


def _absent(package: str, e: Exception) -> ArchError:
    if not isinstance(e, ImportError):
        return error("E-DEPENDENCY", f"published weights need {package}, which cannot be imported: {e}")
    help = 'pip install "archdsl[weights]"'
    return error("E-DEPENDENCY", f"published weights need {package}, which is not installed", help=help)
