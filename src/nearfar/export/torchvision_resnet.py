"""The weights of an image tower that is a ResNet, under the names that torchvision has for them; timm has the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from nearfar import files
from nearfar.errors import UserError
from nearfar.models.card import card

RESNETS: dict[str, tuple[str, list[int]]] = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
}
"""torchvision's ResNets (arXiv 1512.03385): kind of block, and blocks of each stage."""

STEM = 64
"""Channels after the first convolution, and of the first stage's narrow convolutions, in all of them."""


ABOUT = "The weights of its image tower, without a classifier; it pools by the mean of the last map."
USE = """    network = torchvision.models.{resnet}()
    network.fc = torch.nn.Identity()
    network.load_state_dict(safetensors.torch.load_file("{resnet}.safetensors"))

`preprocess.json` says how pictures are prepared."""


def torchvision_state(model: Any) -> tuple[str, dict[str, Tensor]]:
    """The name of torchvision's ResNet that a model's image tower is, and its weights by torchvision's names, without
    those of a classifier: `fc` is to be `torch.nn.Identity()`. The network then gives what `encode_image` of an
    `ImageEncoder` does: the mean of the last map.

    Args:
        model: an `ImageEncoder`, or a dual encoder, whose image tower is a ResNet of transformers (`resnet18` and
            `resnet50` of the presets among them) or of timm.

    Raises:
        UserError: another tower, or a ResNet of other depths or widths than torchvision's.

    >>> from nearfar.models import image_encoder
    >>> name, state = torchvision_state(image_encoder("resnet18"))
    >>> name, len(state), tuple(state["layer4.1.conv2.weight"].shape)
    ('resnet18', 120, (512, 512, 3, 3))
    """
    tower = getattr(model, "image", None)
    backbone: Any = getattr(tower, "backbone", None)
    spec = getattr(tower, "spec", {})
    if spec.get("library") == "timm" and spec["name"].partition(".")[0] in RESNETS:
        return spec["name"].partition(".")[0], dict(backbone.state_dict())
    config: Any = getattr(backbone, "config", None)
    if getattr(config, "model_type", None) != "resnet":
        raise UserError(
            f"the image tower of a {type(model).__name__} is a {type(backbone).__name__}, and no ResNet: torchvision "
            "has no names for its weights"
        )
    weights = backbone.state_dict()
    return _name(config), {theirs: weights[ours] for theirs, ours in _names(list(config.depths), config.layer_type)}


def _name(config: Any) -> str:
    """Of torchvision's ResNet with this configuration of transformers."""
    wide = STEM * (4 if config.layer_type == "bottleneck" else 1)
    ours = (config.layer_type, list(config.depths))
    is_theirs = (
        list(config.hidden_sizes) == [wide, 2 * wide, 4 * wide, 8 * wide]
        and config.embedding_size == STEM
        and config.hidden_act == "relu"
        and not config.downsample_in_first_stage
        and not config.downsample_in_bottleneck
    )
    for name, known in RESNETS.items():
        if is_theirs and known == ours:
            return name
    raise UserError(
        f"a ResNet of {config.layer_type} blocks {list(config.depths)}, {list(config.hidden_sizes)} channels wide, is "
        f"none of torchvision's ({', '.join(RESNETS)}): train one of these (model.preset: resnet18)"
    )


def _names(depths: list[int], kind: str) -> Iterator[tuple[str, str]]:
    """torchvision's name and that of transformers, of each weight."""
    yield from _convolution("conv1", "bn1", "embedder.embedder")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            theirs, ours = f"layer{stage + 1}.{block}", f"encoder.stages.{stage}.layers.{block}"
            for place in range(3 if kind == "bottleneck" else 2):
                yield from _convolution(f"{theirs}.conv{place + 1}", f"{theirs}.bn{place + 1}", f"{ours}.layer.{place}")
            if block == 0 and (stage > 0 or kind == "bottleneck"):
                yield from _convolution(f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}.shortcut")


def _convolution(convolution: str, norm: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{convolution}.weight", f"{ours}.convolution.weight"
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{norm}.{name}", f"{ours}.normalization.{name}"


def export_torchvision(model: Any, out: str | Path, *, name: str = "a model", measured: str = "") -> str:
    """Write `NAME.safetensors` of `torchvision_state` and `preprocess.json`, the size, mean and standard deviation of
    pictures, with a card to `out`, all or nothing.

    Args:
        model: see `torchvision_state`.
        out: the folder; what is there is replaced.
        name: what to call the model in the card.
        measured: what the model's own card says of its data and figures (`nearfar.models.card.measured`).

    Returns:
        The name of torchvision's ResNet.

    Raises:
        UserError: as `torchvision_state`.
    """
    from safetensors.torch import save

    resnet, state = torchvision_state(model)
    pixels = model.pixels
    constants = {
        "image_size": pixels.size,
        "resize": pixels.resize or pixels.size,
        "fit": pixels.fit,
        "resample": pixels.resample,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
    }
    with files.new_folder(Path(out)) as scratch:
        weights = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        files.write(scratch / f"{resnet}.safetensors", save(weights))
        files.write(scratch / "preprocess.json", json.dumps(constants, indent=2) + "\n")
        page = card(
            model,
            title=f"{name}, as torchvision's {resnet}",
            about=ABOUT,
            figures=measured,
            use=USE.format(resnet=resnet),
        )
        files.write(scratch / "README.md", page)
    return resnet
