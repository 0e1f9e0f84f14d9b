"""Tests beside peers. They run in the comparison environment and are skipped where the peers are not installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


if find_spec("torchvision"):
    sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
    from _shim import import_torchvision

    import_torchvision()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("compare")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
