"""A model of an image tower, a language model and what joins them, as plain data and in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from nearfar.models import model_folder
from nearfar.models.towers import backbones
from nearfar.models.towers.pixels import Pixels
from nearfar.models.towers.tower import ImageTower
from nearfar.modes import Freezable


class SavedLanguageModel(Freezable):
    """What such a model is made of, and its folder. What joins the two is in `made_of`, arguments of its class."""

    PART: ClassVar[str]
    """The name of `made_of` in the config."""
    SETTINGS: ClassVar[tuple[str, ...]] = ("max_length",)
    """Further arguments of the class that are attributes of the same names."""

    image: ImageTower
    lm: Any
    pixels: Pixels
    prompt: str
    made_of: dict[str, Any]

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {
            "image": {"spec": self.image.spec, "image_size": self.image.image_size, "pooling": self.image.pooling},
            "pixels": {**vars(self.pixels), "mean": list(self.pixels.mean), "std": list(self.pixels.std)},
            "language": {"spec": backbones.spec_of(self.lm)},
            self.PART: {**self.made_of, "prompt": self.prompt},
            **{name: getattr(self, name) for name in self.SETTINGS},
            "frozen": list(self.frozen),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights, frozen parts frozen."""
        fields = dict(config)
        image, language, made_of, frozen = (fields.pop(name) for name in ("image", "language", cls.PART, "frozen"))
        made: Any = cls
        model: Self = made(
            ImageTower(backbones.rebuild(image["spec"]), **image),
            backbones.rebuild(language["spec"]),
            tokenizer=tokenizer,
            pixels=Pixels(**fields.pop("pixels")),
            **made_of,
            **fields,
        ).freeze(*frozen)
        return model

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        model: Any = self  # of one of the classes that folders are made of
        return model_folder.write(folder, model, state_dict or self.state_dict())
