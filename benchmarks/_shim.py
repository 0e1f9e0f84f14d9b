"""Lets a torchvision whose compiled operators do not load (beside a CPU build of torch) be imported all the same.

An installation whose operators load is left alone.
"""

from __future__ import annotations

import sys

import torch

_library: torch.library.Library | None = None  # the declarations live as long as this reference


def import_torchvision() -> None:
    """Import torchvision; if its operators are missing, declare the two that its modules name, and import again."""
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
