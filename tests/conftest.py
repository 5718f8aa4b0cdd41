"""Turns a torch without a matching torchvision into one that timm imports beside, before any test does."""

from __future__ import annotations

import importlib.util

import pytest

_SCHEMAS: pytest.StashKey[object] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    from tests.oracle.twin import declare_torchvision_ops

    torch.set_num_threads(1)  # small tensors on shared cores: threads spend their time waiting for each other
    config.stash[_SCHEMAS] = declare_torchvision_ops()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew instead of comparing")
