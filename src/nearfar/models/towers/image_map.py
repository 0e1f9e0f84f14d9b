"""The grid of an image tower: its cells as a map, and what its pooling makes of one cell alone.

A convolutional backbone gives a map as it is; a transformer gives its patches row by row, after its class token.
Pooling is a mean, a class token, or a norm or an attention of the backbone's own on top of these. What it makes of a
picture whose cells are all the same is a function of one cell: MaskCLIP (arXiv 2112.01071) reads CLIP's map that way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.errors import UserError

Pooling = Callable[[Tensor], Tensor]
"""From cells `[N, C]` to their summaries `[N, C]`, each by itself."""


def as_map(backbone: nn.Module, features: Tensor, prefix: int, pixels: Tensor) -> Tensor:
    """The map `[B, C, H, W]`, in their dtype, of the features that a backbone made of pixels `[B, 3, S, S]`: a map as
    it is, or the tokens of `features` `[B, prefix + H * W, C]`, floating point, without the first `prefix` ones, row
    by row.

    Raises:
        UserError: tokens that are no grid of the picture's parts, or pictures of several shapes at once.
    """
    if features.ndim == 4:
        return features
    cells = features[:, prefix:]
    rows, columns = _packed_sides(pixels) if pixels.ndim == 3 else _sides(backbone, cells.shape[1], pixels)
    return cells[:, : rows * columns].transpose(1, 2).unflatten(2, (rows, columns))


def _packed_sides(pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of pictures that come as patches (`nearfar.models.towers.naflex`)."""
    shapes = {(int(rows), int(columns)) for rows, columns in pixels[..., -2:].float().amax(dim=1).round().tolist()}
    if len(shapes) > 1:
        raise UserError(
            f"these pictures are of {len(shapes)} shapes in patches ({', '.join(map(str, sorted(shapes)))}): pass "
            "those of one shape at a time, as a map has one height and width"
        )
    return shapes.pop()


def _sides(backbone: Any, cells: int, pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of a transformer's tokens: the picture in patches, or in patches merged two by two."""
    height, width = pixels.shape[2:]
    step = _patch_step(backbone)
    while step and step <= max(height, width):
        for rows, columns in ((height // step, width // step), (-(-height // step), -(-width // step))):
            if rows * columns == cells:
                return rows, columns
        step *= 2
    raise UserError(
        f"{type(backbone).__name__} makes {cells} tokens of a picture of {height} x {width} pixels, which are no grid "
        "of its parts: a map needs an image tower that keeps one"
    )


def _patch_step(backbone: Any) -> int:
    """From one patch to the next, in pixels; 0 where a backbone states none."""
    config = getattr(backbone, "config", None)
    embedding = getattr(backbone, "patch_embed", None)
    step: Any = getattr(config, "patch_stride", None) or getattr(config, "patch_size", None)
    step = step or getattr(embedding, "patch_size", None) or 0
    return int(step[0] if isinstance(step, (list, tuple)) else step)


def summaries(backbone: Any, pooled: Tensor | None, features: Tensor, prefix: int, grid: Tensor) -> Tensor:
    """What a backbone's own pooling, which made `pooled` `[B, C]` of `features` `[B, prefix + H * W, C]`, makes of each
    cell of `grid` `[B, C, H, W]`, floating point, alone: `[B, C, H, W]` in its dtype.

    Raises:
        UserError: a pooling of which that cannot be said.
    """
    of_cells = _timm(backbone, features, prefix) or _measured(backbone, pooled, features, prefix, grid)
    size = (len(grid), *grid.shape[2:])
    try:
        made = of_cells(grid.movedim(1, -1).flatten(0, 2)) if of_cells else None
    except (RuntimeError, AssertionError, ValueError):  # an attention over a grid of fixed size
        made = None
    if made is None or made.shape[-1] != grid.shape[1]:
        raise UserError(
            f"{type(backbone).__name__} pools its whole grid at once, so its cells have no place in the shared space: "
            "model.image.encode_image_map gives the map before pooling and projection"
        )
    return made.unflatten(0, size).movedim(-1, 1)


def _timm(backbone: Any, features: Tensor, prefix: int) -> Pooling | None:
    """timm's head pools any number of cells: it is handed pictures of one."""
    if not hasattr(backbone, "forward_head"):
        return None
    if features.ndim == 3:
        return lambda cells: backbone.forward_head(_picture_of_one(cells, prefix), pre_logits=True)
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return lambda cells: backbone.forward_head(cells[:, None, None], pre_logits=True)
    return lambda cells: backbone.forward_head(cells[:, :, None, None], pre_logits=True)


def _measured(backbone: Any, pooled: Tensor | None, features: Tensor, prefix: int, grid: Tensor) -> Pooling | None:
    """The pooling, of those that transformers' models have, that makes `pooled` of this very batch. Tried out: their
    parts have the same names and other meanings."""
    if pooled is None:
        return None
    tolerance = 1e-4 if pooled.dtype in (torch.float32, torch.float64) else 2e-2
    with torch.no_grad():
        for pooling, made in _ways(backbone, features, prefix, grid):
            if made.shape == pooled.shape and torch.allclose(made, pooled, rtol=tolerance, atol=tolerance):
                return pooling
    return None


def _ways(backbone: Any, features: Tensor, prefix: int, grid: Tensor) -> Iterator[tuple[Pooling, Tensor]]:
    """Poolings, each with what it makes of the whole picture."""
    mean = grid.mean(dim=(2, 3))
    starts = [mean, features[:, 0]] if prefix else [mean]
    yield from (((lambda cells: cells), start) for start in starts)
    for norm in _parts(backbone, "post_layernorm", "layernorm"):  # CLIP's on the class token, ConvNeXt's on the mean
        yield from ((norm, norm(start)) for start in starts)
    if features.ndim == 3:
        tokens = features[:, : prefix + grid.shape[2] * grid.shape[3]]
        for part in _parts(backbone, "head", "pooler"):  # SigLIP's attention; ViT's layer on the class token
            yield (lambda cells, part=part: part(_picture_of_one(cells, prefix))), part(tokens)  # type: ignore[misc]


def _picture_of_one(cells: Tensor, prefix: int) -> Tensor:
    """`[N, prefix + 1, C]`: each cell as the class token, and as the only patch."""
    return cells[:, None].expand(-1, prefix + 1, -1)


def _parts(backbone: Any, *names: str) -> list[nn.Module]:
    return [part for name in names if isinstance(part := getattr(backbone, name, None), nn.Module)]
