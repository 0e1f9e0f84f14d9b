"""Image encoders by name, to train from scratch."""

from __future__ import annotations

from typing import Any

from nearfar import lookup
from nearfar.models.presets import PRESETS


def _resnet(embedding: int, widths: list[int], depths: list[int], *, kind: str = "basic") -> dict[str, Any]:
    return {
        "model_type": "resnet",
        "embedding_size": embedding,
        "hidden_sizes": widths,
        "depths": depths,
        "layer_type": kind,
    }


IMAGE_PRESETS: dict[str, dict[str, Any]] = {
    # Batch norm, as the methods of this field were made with.
    "tiny-resnet": {"image": _resnet(32, [32, 64, 128, 256], [1, 1, 1, 1]), "image_size": 64},
    "micro-resnet": {"image": _resnet(32, [32, 64, 128], [1, 1, 1]), "image_size": 32},
    "resnet18": {"image": _resnet(64, [64, 128, 256, 512], [2, 2, 2, 2]), "image_size": 224},
    "resnet50": {
        "image": _resnet(64, [256, 512, 1024, 2048], [3, 4, 6, 3], kind="bottleneck"),
        "image_size": 224,
    },
} | {
    # Layer norm throughout: the image sides of the dual encoders' presets.
    name: {"image": preset["image"], "image_size": preset["image_size"]}
    for name, preset in PRESETS.items()
    if isinstance(preset["image"], dict) and name != "tiny-fusion"
}
"""`tiny-resnet` (64 pixels) and `micro-resnet` (32) train on a CPU; `resnet18` and `resnet50` are the field's own;
`tiny`, `small`, `tiny-vit` and `small-vit` are the image towers of `nearfar.models.PRESETS`."""


def image_preset(name: str | None) -> dict[str, Any]:
    """The arguments of `image_encoder` that a preset stands for; none without a name.

    Raises:
        UserError: no such preset.

    >>> image_preset("micro-resnet")["image_size"]
    32
    """
    return {} if name is None else lookup.find("preset", name, IMAGE_PRESETS)
