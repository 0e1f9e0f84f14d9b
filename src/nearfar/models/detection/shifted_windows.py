"""A vision transformer with attention in windows, read twice: as it is, and shifted by half a window (DITO, arXiv
2310.00161).

    F(x, s):  z = conv(x);  z = roll(z, (-s, +s));  z = z + positions;  z = layers(z);  roll(z, (+s, -s))
    feature = norm( (F(x, 0) + F(x, s)) / 2 )

The roll is unmasked: what leaves at one border comes in at the other.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError

GlobalLayers = Literal["quarters", "last", "all"]
GLOBAL_LAYERS = ("quarters", "last", "all")
Positions = Literal["after", "before"]


class TransformerParts(NamedTuple):
    """What is read of a vision transformer."""

    patches: nn.Module
    positions: Tensor
    before: list[nn.Module]
    layers: list[nn.Module]
    norm: nn.Module


def transformer_parts(vit: Any) -> TransformerParts:
    """The parts of a vision transformer of transformers (ViT and its like) or of timm.

    Raises:
        UserError: another kind of network.
    """
    if hasattr(vit, "blocks") and hasattr(vit, "patch_embed") and getattr(vit, "pos_embed", None) is not None:
        before = [getattr(vit, name, None) for name in ("pos_drop", "norm_pre")]
        return TransformerParts(
            vit.patch_embed.proj,
            vit.pos_embed,
            [part for part in before if isinstance(part, nn.Module)],
            list(vit.blocks),
            vit.norm,
        )
    embeddings: Any = getattr(vit, "embeddings", None)
    layers = getattr(vit, "layers", None) or getattr(getattr(vit, "encoder", None), "layer", None)
    positions = getattr(embeddings, "position_embeddings", None)
    if not isinstance(positions, Tensor) or not layers or not hasattr(vit, "layernorm"):
        raise UserError(
            f"a {type(vit).__name__} is no vision transformer that is known here: take a ViT of transformers or of "
            "timm, with position embeddings and equal layers"
        )
    patches = embeddings.patch_embeddings
    return TransformerParts(patches.projection, positions, [embeddings.dropout], list(layers), vit.layernorm)


class ShiftedWindowEncoder(nn.Module):
    """The map `[B, C, H, W]` of a vision transformer's patches, of pixels `[B, 3, S, T]`, in the weights' dtype. Its
    class token and its pooling are not used.

    Args:
        vit: of transformers or of timm; its weights are used as they are, and may be trained.
        window: tokens a side of a window (paper: 16); None: all layers see the whole map.
        shift: tokens that the second pass is shifted by; None: half a window, 0: no second pass.
        global_layers: which layers see the whole map: the last of each quarter ("quarters", paper), only the "last"
            (the paper's frozen copy), or "all".
        positions: whether position embeddings are added "after" the roll (released code), so that content and places
            are shifted against each other, or "before", which moves both.

    Raises:
        UserError: a setting out of its range, another kind of network; in a pass, a map that windows do not divide.

    >>> import torch
    >>> from nearfar.models import image_encoder
    >>> vit = image_encoder(image={"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 4,
    ...     "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}, image_size=64).image.backbone
    >>> ShiftedWindowEncoder(vit, window=4)(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 32, 8, 8])
    """

    def __init__(
        self,
        vit: nn.Module,
        *,
        window: int | None = 16,
        shift: int | None = None,
        global_layers: GlobalLayers = "quarters",
        positions: Positions = "after",
    ) -> None:
        super().__init__()
        if window is not None and window < 1:
            raise UserError(f"window is {window}: tokens a side, a whole number from 1 on, or None for no windows")
        if global_layers not in GLOBAL_LAYERS:
            raise UserError(f"global_layers={global_layers!r}: choose {', '.join(GLOBAL_LAYERS)}")
        if positions not in ("after", "before"):
            raise UserError(f"positions={positions!r}: choose after or before (the roll)")
        self.vit, self.window, self.positions = vit, window, positions
        self.shift = (window or 0) // 2 if shift is None else shift
        self.global_at = _global_at(len(transformer_parts(vit).layers), global_layers)

    def forward(self, pixels: Tensor) -> Tensor:
        parts = transformer_parts(self.vit)
        grid = parts.patches(pixels.to(parts.positions.dtype))
        height, width = grid.shape[2:]
        if self.window and (height % self.window or width % self.window):
            raise UserError(
                f"a map of {height} x {width} tokens is not divided by windows of {self.window} x {self.window}: "
                "change the size of the pictures or the window"
            )
        places = resized_positions(parts.positions, height, width)
        summed = self._pass(parts, grid, places, 0)
        if self.shift:
            summed = (summed + self._pass(parts, grid, places, self.shift)) / 2
        return parts.norm(summed.movedim(1, -1)).movedim(-1, 1)

    def _pass(self, parts: TransformerParts, grid: Tensor, places: Tensor, shift: int) -> Tensor:
        """F(x, s), from cells `[B, C, H, W]` to the same shape."""
        moved = rolled(grid, shift) + places if self.positions == "after" else rolled(grid + places, shift)
        height, width = grid.shape[2:]
        tokens = moved.movedim(1, -1).flatten(1, 2)
        for module in parts.before:
            tokens = module(tokens)
        for number, layer in enumerate(parts.layers):
            if self.window is None or number in self.global_at:
                tokens = _only(layer(tokens))
            else:
                windows = split_windows(tokens.unflatten(1, (height, width)), self.window)
                tokens = merge_windows(_only(layer(windows)), self.window, height, width).flatten(1, 2)
        return rolled(tokens.unflatten(1, (height, width)).movedim(-1, 1), -shift)


def rolled(grid: Tensor, shift: int) -> Tensor:
    """A map `[B, C, H, W]`, any dtype, rolled up by `shift` rows and to the right by as many columns; `-shift` takes it
    back.

    >>> import torch
    >>> rolled(torch.arange(16).view(1, 1, 4, 4), 1)[0, 0].tolist()
    [[7, 4, 5, 6], [11, 8, 9, 10], [15, 12, 13, 14], [3, 0, 1, 2]]
    """
    return grid.roll((-shift, shift), dims=(2, 3)) if shift else grid


def split_windows(tokens: Tensor, window: int) -> Tensor:
    """Tokens `[B, H, W, C]` of any dtype as windows of their own `[B * H/w * W/w, w * w, C]`, row by row."""
    cut = tokens.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return cut.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def merge_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """The tokens `[B, H, W, C]`, any dtype, that `split_windows` cut."""
    cut = windows.unflatten(1, (window, window)).unflatten(0, (-1, height // window, width // window))
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def resized_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Position embeddings `[1, C, height, width]` of those of a square grid `[1, P + S * S, C]`, floating point,
    without the P of class and register tokens; bilinear where the grid is another."""
    side = isqrt(positions.shape[1])
    grid = positions[:, positions.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))
    if (side, side) == (height, width):
        return grid
    return F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)


def _global_at(layers: int, which: GlobalLayers) -> set[int]:
    """Numbers of the layers that see the whole map; of fewer than four layers the quarters are all of them."""
    if which == "all":
        return set(range(layers))
    if which == "last":
        return {layers - 1}
    return {max(0, (quarter * layers) // 4 - 1) for quarter in (1, 2, 3, 4)}


def _only(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
