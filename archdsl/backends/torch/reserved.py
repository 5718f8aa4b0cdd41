"""Turns a graph's names into a refusal where Python or torch.nn.Module has a meaning for one of them already.

Weight paths are attribute paths of the emitted module and keys of its state dict, so no name can be replaced.
"""

from __future__ import annotations

import builtins
import functools
import keyword
import re

from archdsl.backends.torch.plan import Unsupported
from archdsl.ir.graph import Graph
from archdsl.resources import template_dir

MODULE = frozenset(
    [
        "T_destination",
        "_apply",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_buffers",
        "_call_impl",
        "_compiled_call_impl",
        "_forward_hooks",
        "_forward_hooks_always_called",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
        "_get_backward_hooks",
        "_get_backward_pre_hooks",
        "_get_name",
        "_is_full_backward_hook",
        "_load_from_state_dict",
        "_load_state_dict_post_hooks",
        "_load_state_dict_pre_hooks",
        "_maybe_warn_non_full_backward_hook",
        "_modules",
        "_named_members",
        "_non_persistent_buffers_set",
        "_parameters",
        "_register_load_state_dict_pre_hook",
        "_register_state_dict_hook",
        "_replicate_for_data_parallel",
        "_save_to_state_dict",
        "_slow_forward",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
        "_version",
        "_wrapped_call_impl",
        "add_module",
        "apply",
        "bfloat16",
        "buffers",
        "call_super_init",
        "children",
        "compile",
        "cpu",
        "cuda",
        "double",
        "dump_patches",
        "eval",
        "extra_repr",
        "float",
        "forward",
        "get_buffer",
        "get_extra_state",
        "get_parameter",
        "get_submodule",
        "half",
        "ipu",
        "load_state_dict",
        "modules",
        "mtia",
        "named_buffers",
        "named_children",
        "named_modules",
        "named_parameters",
        "parameters",
        "register_backward_hook",
        "register_buffer",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook",
        "register_module",
        "register_parameter",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "requires_grad_",
        "set_extra_state",
        "set_submodule",
        "share_memory",
        "state_dict",
        "to",
        "to_empty",
        "train",
        "training",
        "type",
        "xpu",
        "zero_grad",
    ]
)
"""Attributes of every module."""
MODEL = frozenset(
    [
        "blocks_are_features",
        "classifier",
        "default_cfg",
        "drop_path_rate",
        "drop_rate",
        "feature_info",
        "first_conv",
        "forward_features",
        "forward_head",
        "forward_intermediates",
        "get_classifier",
        "grad_checkpointing",
        "group_matcher",
        "head_hidden_size",
        "in_chans",
        "init_non_persistent_buffers",
        "init_weights",
        "input_size",
        "name",
        "no_weight_decay",
        "num_classes",
        "num_features",
        "output_fmt",
        "pool_size",
        "prefix_tokens",
        "pretrained_cfg",
        "prune_intermediate_layers",
        "require",
        "reset_classifier",
        "run",
        "set_distilled_training",
        "set_grad_checkpointing",
        "stage_list",
        "tables",
        "take_indices",
    ]
)
"""Attributes of the whole model besides those."""
HEAD = frozenset(
    [
        "auxiliary",
        "distilled_training",
        "drop_rate",
        "features",
        "global_pool",
        "grad_checkpointing",
        "logits",
        "num_classes",
        "pools",
        "prune",
        "reset",
        "set_pool",
    ]
)
"""Attributes of the head besides those of every module."""


def check_names(graph: Graph) -> None:
    """Raises Unsupported where a segment of a weight path, or the arch's name, cannot be used."""
    name, span = graph.name, graph.regions[0].span if graph.regions else None
    if keyword.iskeyword(name) or hasattr(builtins, name) or not name.strip("_"):
        raise Unsupported(f"`{name}` is a word of Python", span, "give the arch another name")
    if name in module_names():
        raise Unsupported(f"`{name}` is something that every emitted module uses", span, "give the arch another name")
    owners = [(n.module, n.span) for n in graph.nodes() if n.module]
    owners += [(r.module, r.span) for r in graph.regions if r.module]
    heads = {r.module for r in graph.regions if r.kind == "head"}
    for path, span in owners:
        segments = path.split(".")
        for at, segment in enumerate(segments):
            reason = _taken(segment, whole=at == 0, head=".".join(segments[:at]) in heads)
            if reason:
                raise Unsupported(f"`{segment}` in the weight path `{path}` {reason}", span, _HELP)


@functools.cache
def module_names() -> frozenset[str]:
    """What model.py imports from torch, and may import from layers.py and backbone.py."""
    found = {"Any", "F", "Sequence", "Tensor", "annotations", "checkpoint", "nn", "torch"}
    for path in (template_dir() / "torch").glob("*.py.j2"):
        found |= set(re.findall(r"^(?:class|def) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return frozenset(found)


def class_name(name: str) -> str:
    """The class of an arch: its name in capitals, and another one than that of the function that makes it."""
    found = "".join(p[:1].upper() + p[1:] for p in name.split("_") if p)
    return f"{found}Model" if found == name or found in module_names() or keyword.iskeyword(found) else found


_HELP = "give the call a label of another name, as in conv@proj[...]"


def _taken(segment: str, whole: bool, head: bool) -> str:
    if keyword.iskeyword(segment) or segment.startswith("__"):
        return "is a word of Python"
    if segment in MODULE or segment == "self":
        return "is something that every torch.nn.Module has already"
    if whole and segment in MODEL:
        return "is something that the model has already"
    if head and segment in HEAD:
        return "is something that the head has already"
    return ""
