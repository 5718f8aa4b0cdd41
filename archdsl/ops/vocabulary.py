"""Collects op classes into a vocabulary: the names a spec may use, and the class behind each."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from archdsl.ops.base import Op, op_name

SHARED = frozenset({"base", "vocabulary"})
"""Modules of the package that declare no op, beside those whose name begins with an underscore."""
NOT_CALLED = frozenset(
    {
        "bn_factors",
        "complete",
        "constant",
        "conv_first",
        "conv_norm",
        "corner",
        "dwconv_norm",
        "extern",
        "fused_mbconv",
        "fused_mlp",
        "held_bn",
        "held_conv",
        "held_drop_path",
        "held_gn",
        "held_linear",
        "held_ln",
        "input",
        "linear_residual",
        "local_mix_in_place",
        "local_scores_in_place",
        "map_attention",
        "mbconv",
        "merged_linear",
        "norm_linear",
        "onednn_conv",
        "onednn_linear",
        "packed_conv",
        "packed_linear",
        "patch_merge",
        "pool_head",
        "pool_mixer",
        "regroup",
        "rel_pos_axes",
        "scale_residual",
        "scaled_conv",
        "scaled_linear",
        "window_attention",
        "zero_padding",
    }
)
"""Ops that a statement of the language stands for, or that a pass makes: their `callable` is False."""


class DuplicateOp(Exception):
    """Two files declare an op of the same name."""


@dataclass(frozen=True)
class Vocabulary(Mapping[str, type[Op]]):
    """Ops by name. `of` collects a package, `with_file` and `with_entry_points` add a user's.

    An entry is the op's class, or the name of the module that declares it, imported when the op is first asked for.
    """

    entries: Mapping[str, type[Op] | str]

    def __getitem__(self, name: str) -> type[Op]:
        entry = self.entries[name]
        return _declared(entry, name) if isinstance(entry, str) else entry

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def callables(self) -> list[str]:
        """The names a spec may call."""
        return [n for n, e in self.entries.items() if (n not in NOT_CALLED if isinstance(e, str) else e.callable)]

    @staticmethod
    def of(package: str = "archdsl.ops") -> Vocabulary:
        """Every op of a package whose modules are named as the one op each declares, in alphabetical order."""
        import pkgutil

        root = importlib.import_module(package)
        modules = sorted(m.name for m in pkgutil.iter_modules(root.__path__))
        return Vocabulary({n: f"{package}.{n}" for n in modules if not n.startswith("_") and n not in SHARED})

    def with_file(self, path: str | Path) -> Vocabulary:
        """This vocabulary and the ops of one Python file, which is executed (`--ops my_ops.py`)."""
        import importlib.util

        name = f"archdsl_ops_{Path(path).stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return self._with(module)

    def with_entry_points(self) -> Vocabulary:
        """This vocabulary and the modules installed packages name under the entry point `archdsl.ops`."""
        from importlib.metadata import entry_points

        modules = [point.load() for point in entry_points(group="archdsl.ops")]
        return self._with(*modules) if modules else self

    def _with(self, *modules: ModuleType) -> Vocabulary:
        known = dict(self.entries)
        for module in modules:
            for name, cls in _ops(module):
                if name in known and (other := Vocabulary(known)[name]) is not cls:
                    raise DuplicateOp(f"op `{name}` is declared in {_file(other)} and in {_file(cls)}")
                known[name] = cls
        return Vocabulary(dict(sorted(known.items())))


@functools.cache
def _declared(module: str, name: str) -> type[Op]:
    """The op that a module is named after."""
    return dict(_ops(importlib.import_module(module)))[name]


def _ops(module: ModuleType) -> Iterator[tuple[str, type[Op]]]:
    """The ops declared in a module, with their names."""
    for cls in vars(module).values():
        declared_here = isinstance(cls, type) and issubclass(cls, Op) and cls.__module__ == module.__name__
        if declared_here and not vars(cls).get("abstract", False):
            yield op_name(cls), cls


def _file(cls: type[Op]) -> str:
    return str(getattr(sys.modules.get(cls.__module__), "__file__", cls.__module__))
