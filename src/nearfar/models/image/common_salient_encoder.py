"""Two image encoders side by side: one for what two sets share, one for what only the target set has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.hub import push_to_hub
from nearfar.models.image.image_encoder import ImageEncoder, image_encoder
from nearfar.models.mixed_inputs import encode
from nearfar.models.towers import backbones
from nearfar.models.towers.pixels import Pixels, PreparesPictures

Space = Literal["both", "common", "salient"]
SPACES = ("both", "common", "salient")


class CommonSalientEncoder(PreparesPictures, nn.Module):
    """Pictures in two spaces, as SepCLR (arXiv 2402.11928) trains them. `nearfar.models.common_salient` makes one.

    Args:
        common, salient: the two encoders; both read pictures alike, and share no weight.
        output: what `encode_image` returns: "common", "salient", or "both", one behind the other.

    Attributes:
        image_size, mean, std: what `preprocess` makes of pictures.
        embed_dim: width of what `encode_image` returns.
    """

    encode = encode
    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("common", "salient")
    """What its saved config must have."""

    MODELS_WITHIN: ClassVar[dict[str, type]] = {"common": ImageEncoder, "salient": ImageEncoder}
    """Which of these are models themselves."""

    def __init__(self, common: ImageEncoder, salient: ImageEncoder, *, output: Space = "both") -> None:
        super().__init__()
        if output not in SPACES:
            raise UserError(f"output={output!r}: choose both, common or salient")
        if common.pixels != salient.pixels:
            raise UserError(f"the two encoders read pictures differently: {common.pixels} and {salient.pixels}")
        self.common, self.salient, self.output = common, salient, output

    @property
    def embed_dim(self) -> int:
        return sum(part.embed_dim for part in self._parts())

    @property
    def pixels(self) -> Pixels:
        """How pictures are prepared, for both alike."""
        return self.common.pixels

    @pixels.setter
    def pixels(self, pixels: Pixels) -> None:
        self.common.pixels = self.salient.pixels = pixels

    @property
    def device(self) -> torch.device:
        return self.common.device

    def project(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The heads `[B, C]` and `[B, S]` of pixels `[B, 3, H, W]` float32, that training compares. Raises UserError
        for pixels of another shape than the towers take."""
        return self.common.project_image(pixels), self.salient.project_image(pixels)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of pixels `[B, 3, H, W]` float32, of the spaces that `output` says; of unit
        length with `normalize=True`. Raises UserError for pixels of another shape than the towers take."""
        embedding = torch.cat([part.encode_image(pixels) for part in self._parts()], 1)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def salience(self, pixels: Tensor) -> Tensor:
        """How far `[B]` pictures, pixels `[B, 3, H, W]` float32, are from background: the squared length of the salient
        head, near 0 for what the background set holds. Raises UserError for pixels of another shape."""
        return self.salient.project_image(pixels).square().sum(1)

    def forward(self, pixels: Tensor) -> Tensor:
        """The embeddings, unit length."""
        return self.encode_image(pixels, normalize=True)

    def resize_images(self, image_size: int) -> Self:
        """Take pictures of another size from here on; see `ImageTower.resize` for position embeddings and errors."""
        for part in (self.common, self.salient):
            part.resize_images(image_size)
        return self

    def config(self) -> dict[str, Any]:
        """Everything but weights, as plain data: what `from_config` builds the model from."""
        return {"common": self.common.config(), "salient": self.salient.config(), "output": self.output}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: None = None) -> Self:
        """A model of this shape with fresh weights."""
        parts = (ImageEncoder.from_config(config[name]) for name in cls.NEEDED)
        return cls(*parts, output=config.get("output", "both"))

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors` and the card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())

    def _parts(self) -> list[ImageEncoder]:
        return [getattr(self, name) for name in (("common", "salient") if self.output == "both" else (self.output,))]


def common_salient(
    output: Space = "both",
    *,
    preset: str | None = None,
    image: backbones.Source | None = None,
    projector: str | Mapping[str, Any] | None = None,
    image_size: int | None = None,
    image_pooling: str | None = None,
    pretrained: bool = True,
) -> CommonSalientEncoder:
    """Two encoders of one shape with weights of their own, from scratch or from the same pretrained tower.

    Args:
        output: what `encode_image` returns: "common", "salient", or "both", one behind the other.
        preset, image, projector, image_size, image_pooling, pretrained: as for `nearfar.models.image_encoder`, of both.

    Raises:
        UserError: no such output; whatever `image_encoder` refuses.

    >>> model = common_salient(preset="micro-resnet", projector={"hidden": 64, "out": 16})
    >>> model.encode_image(torch.rand(2, 3, 32, 32)).shape, model.salience(torch.rand(2, 3, 32, 32)).shape
    (torch.Size([2, 256]), torch.Size([2]))
    """
    common, salient = (
        image_encoder(
            preset,
            image=image,
            projector=projector,
            image_size=image_size,
            image_pooling=image_pooling,
            pretrained=pretrained,
        )
        for _ in SPACES[1:]
    )
    return CommonSalientEncoder(common, salient, output=output)
