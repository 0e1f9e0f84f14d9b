"""Tests beside peers. They run in the comparison environment and are skipped where the peers are not installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def make_torchvision_importable() -> None:
    """torchvision built for CUDA beside torch built for CPU stops at import, for want of two operators' schemas.
    Declare them, only if that is what happened; an installation whose operators load is left alone."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        make_torchvision_importable.library = torch.library.Library("torchvision", "DEF")  # type: ignore[attr-defined]
        for operator in ("nms", "qnms"):
            make_torchvision_importable.library.define(  # type: ignore[attr-defined]
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


if find_spec("torchvision"):
    make_torchvision_importable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("compare")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
