"""A model that reads pictures and nothing else: an image tower, and the projector that it is trained through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.hub import push_to_hub
from nearfar.models.image.image_presets import image_preset
from nearfar.models.image.projector import MLP, projector_settings
from nearfar.models.mixed_inputs import encode
from nearfar.models.towers import backbones
from nearfar.models.towers.pixels import Pixels, PreparesPictures
from nearfar.models.towers.tower import ImageTower

Output = Literal["features", "projection"]


class ImageEncoder(PreparesPictures, nn.Module):
    """Pictures as vectors: the features `[B, W]` of an image tower, or the projection `[B, D]` of them.
    `nearfar.models.image_encoder` makes one.

    Methods train through `project_image`. What is evaluated and indexed, `encode_image`, is the features unless
    `output` says otherwise: they serve other tasks better than the projection, whose loss has taught it to forget.

    Args:
        image: the tower.
        pixels: how pictures are prepared for it.
        projector: its settings (`nearfar.models.image.projector`); None: the projection is the features.
        output: what `encode_image` returns, "features" or "projection".
        matryoshka: the widths that its embeddings may be cut to, as training arranged them; else empty.

    Attributes:
        image_size, mean, std: what `preprocess` makes of pictures.
        embed_dim: width of what `encode_image` returns.
    """

    encode = encode
    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("image", "pixels")
    """What its saved config must have."""

    def __init__(
        self,
        image: ImageTower,
        *,
        pixels: Pixels,
        projector: str | Mapping[str, Any] | None = None,
        output: Output = "features",
        matryoshka: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if output not in ("features", "projection"):
            raise UserError(f"output={output!r}: choose features or projection")
        self.image, self.pixels, self.output = image, pixels, output
        self.settings = projector_settings(projector)
        self.projector = nn.Identity() if self.settings is None else MLP(image.width, **self.settings)
        self.matryoshka = tuple(matryoshka)

    @property
    def projected_dim(self) -> int:
        """Width of what `project_image` returns."""
        return self.image.width if self.settings is None else self.settings["out"]

    @property
    def embed_dim(self) -> int:
        return self.image.width if self.output == "features" else self.projected_dim

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def image_features(self, pixels: Tensor) -> Tensor:
        """What the tower makes of pixels `[B, 3, H, W]` float32 as a whole: `[B, W]`, before the projector.

        Raises:
            UserError: pixels of another shape than the tower takes.
        """
        self.image.check_pixels(pixels)
        return self.image(pixels.to(self.device))[:, 0]

    def project_image(self, pixels: Tensor) -> Tensor:
        """The projector's output `[B, projected_dim]` of pixels `[B, 3, H, W]` float32: what methods compare in
        training. Raises UserError for pixels of another shape than the tower takes."""
        return self.projector(self.image_features(pixels))

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of pixels `[B, 3, H, W]` float32, as `output` says; of unit length with
        `normalize=True`. Raises UserError for pixels of another shape than the tower takes."""
        embedding = self.image_features(pixels)
        embedding = self.projector(embedding) if self.output == "projection" else embedding
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_image_map(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim, H, W]` of the cells of the tower's grid, of pixels `[B, 3, S, S]` float32; of unit
        length along dimension 1 with `normalize=True`. A projector takes each cell as a sample of its own.

        Raises:
            UserError: pixels of another shape than the tower takes, a tower without a grid, or a pooling that takes
                the whole grid at once.

        >>> model = image_encoder("tiny-resnet")
        >>> model.encode_image_map(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 256, 2, 2])
        """
        self.image.check_pixels(pixels)
        cells = self.image.summary_map(pixels.to(self.device))
        if self.output == "projection":
            rows = cells.movedim(1, -1)
            cells = self.projector(rows.flatten(0, 2)).unflatten(0, rows.shape[:3]).movedim(-1, 1)
        return F.normalize(cells, dim=1) if normalize else cells

    def forward(self, pixels: Tensor) -> Tensor:
        """The embeddings, unit length."""
        return self.encode_image(pixels, normalize=True)

    def resize_images(self, image_size: int) -> Self:
        """Take pictures of another size from here on; see `ImageTower.resize` for position embeddings and errors."""
        self.image.resize(image_size)
        self.pixels = self.pixels.resized(image_size)
        return self

    def config(self) -> dict[str, Any]:
        """Everything but weights, as plain data: what `from_config` builds the model from."""
        tower = {"spec": self.image.spec, "image_size": self.image.image_size, "pooling": self.image.pooling}
        return {
            "image": tower,
            "pixels": {**vars(self.pixels), "mean": list(self.mean), "std": list(self.std)},
            "projector": self.settings,
            "output": self.output,
            **({"matryoshka": list(self.matryoshka)} if self.matryoshka else {}),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: None = None) -> Self:
        """A model of this shape with fresh weights."""
        fields = dict(config)
        image = fields.pop("image")
        return cls(
            ImageTower(backbones.rebuild(image["spec"]), **image), pixels=Pixels(**fields.pop("pixels")), **fields
        )

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors` and the card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())


def image_encoder(
    preset: str | None = None,
    *,
    image: backbones.Source | None = None,
    projector: str | Mapping[str, Any] | None = None,
    output: Output = "features",
    image_size: int | None = None,
    image_pooling: str | None = None,
    pretrained: bool = True,
) -> ImageEncoder:
    """An encoder of pictures by name: what is given goes before the preset.

    Args:
        preset: one of `nearfar.models.image.image_presets.IMAGE_PRESETS`, which start from scratch.
        image: a tower: "efficientnet-lite0" (pretrained, from a package), a transformers name or folder, "timm:NAME",
            a transformers config (or its dict, with `model_type`), or a module.
        projector: "simclr", "moco", "supcon", "byol", "simsiam" or "hydra", the papers' own; or a mapping with any of
            `layers` (2), `hidden` (2048), `out` (128) and `norm` ("none", "hidden", "all", "layer"). None: none.
        output: what `encode_image` returns, "features" or "projection".
        image_size: side of the pictures; by default the preset's, else the tower's own.
        image_pooling: see `ImageTower`; by default what suits the tower.
        pretrained: whether a tower given by name or folder comes with its weights.

    Raises:
        UserError: no such preset, tower, projector or pooling; a size below 1.

    >>> model = image_encoder("tiny-resnet", projector={"hidden": 128, "out": 32})
    >>> pixels = torch.rand(2, 3, 64, 64)
    >>> model.encode_image(pixels).shape, model.project_image(pixels).shape
    (torch.Size([2, 256]), torch.Size([2, 32]))
    """
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise UserError(f"image_size={image_size!r}: a whole number of at least 1, or leave it out")
    defaults = image_preset(preset)
    source = defaults.get("image") if image is None else image
    if source is None:
        raise UserError("an image encoder needs a preset (tiny-resnet, say), or image=...")
    size = image_size or defaults.get("image_size")
    if isinstance(source, Mapping) and size and source.get("model_type") not in ("convnext", "resnet"):
        source = {"image_size": size, **source}
    tower, pixels = backbones.image_tower(source, image_size=size, pooling=image_pooling, pretrained=pretrained)
    made = ImageEncoder(tower, pixels=pixels, projector=projector, output=output)
    return made.eval() if pretrained and isinstance(source, (str, Path)) and projector is None else made
