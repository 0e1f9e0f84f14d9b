"""Learning the prompt around class names by labelled pictures: CoOp (arXiv 2109.01134), CoCoOp (arXiv 2203.05557) and
MaPLe (arXiv 2210.03117), by the model's kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.prompts.extrapolation import cosines
from nearfar.methods.teachers.class_bank import ClassBank

TEMPERATURE = 0.01
"""What cosines are divided by where the model says nothing: what released CLIPs learned."""


class PromptTuning(EmbeddingMethod):
    """Cross-entropy of a picture's class, by the cosines of the picture with all class names inside the prompt:

        L = CE( x W^T / tau , y ) ,    W = the names' texts, through the frozen text tower.

    The prompt alone is trained. It classifies by any names afterwards, as the model with a prompt written by hand does:
    trained for long, it knows its own classes better and other ones worse; the method `ogen` is against that.

    Args:
        model: a `nearfar.models.PromptedEncoder`, as `nearfar.models.prompted_encoder` makes it (in a recipe,
            `model.make: prompted_encoder`); its kind says which paper it is.
        classes: the name of each label; by default those of the training data.
        temperature: tau, fixed; by default the model's, else 0.01.

    The batch has `image` `[B, 3, H, W]` float32, or what the frozen image tower made of it, and `label` `[B]` int64.
    Logs `accuracy` by the class names.

    Raises:
        UserError: another model, no class names, or a picture without a label among them.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import create, prompted_encoder
    >>> names = ["a cat", "a dog"]
    >>> model = prompted_encoder(create("tiny", tokenizer=train_tokenizer(names, 300)), context=2)
    >>> batch = {"image": torch.rand(2, 3, 64, 64), "label": torch.tensor([0, 1])}
    >>> sorted(PromptTuning(model, classes=names)(batch))
    ['accuracy', 'loss']
    """

    reads = ("label",)
    captions = False
    user = "prompt_tuning"

    def __init__(self, model: Any, *, classes: Sequence[str] | None = None, temperature: float | None = None) -> None:
        super().__init__()
        if not (hasattr(model, "class_texts") and hasattr(model, "made_of")):
            raise UserError(
                f"{self.user} trains a prompt, and this is a {type(model).__name__}: make a model with one with "
                "nearfar.models.prompted_encoder (in a recipe, model.make: prompted_encoder)"
            )
        if temperature is not None and not temperature > 0:
            raise UserError(f"temperature must be positive, got {temperature}")
        self.model = model
        self.temperature = float(temperature or model.temperature or TEMPERATURE)
        self.names = ClassBank("{}", classes, user=self.user)
        self._tokens: dict[tuple[str, ...], Any] = {}
        if classes is not None:
            self.named()

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        self.names.begin(data)
        self.named()

    def named(self) -> None:
        """Called when the classes have names: the model keeps them, as what it was trained on."""
        self.model.base = self.base
        self.model.layout.check(self.base)

    @property
    def base(self) -> tuple[str, ...]:
        """The names of the classes with pictures."""
        return self.names.texts.names if self.names.texts is not None else ()

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"image": self.model.encode_image(batch["image"])}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        image, label = self._inputs(embeddings, batch)
        return self.classified(image, self.model.class_texts(self.tokens(self.base), image), label)

    def _inputs(self, embeddings: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit embeddings of the pictures `[B, D]` in float32 or wider, and their labels `[B]`."""
        if "label" not in batch:
            raise UserError(
                f"{self.user} needs the class of each picture, and these data have no labels: name the column with "
                "label=NAME, or use class folders"
            )
        if not self.base:
            raise UserError(f"{self.user} knows no class names yet: set classes, or call begin with the data's first")
        image = embeddings["image"]
        image = image.to(torch.promote_types(image.dtype, torch.float32))
        return F.normalize(image, dim=-1), self.names.checked(batch["label"])

    def classified(self, image: Tensor, texts: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The loss of unit embeddings `image` `[B, D]` with labels `[B]` int64, by texts `[C, D]` or `[B, C, D]` in
        floating point, and the accuracy."""
        logits = cosines(image[:, None], texts.to(image))[:, 0] / self.temperature
        accuracy = (logits.detach().argmax(1) == label).to(image).mean()
        return {"loss": F.cross_entropy(logits, label), "accuracy": accuracy}

    def tokens(self, names: tuple[str, ...]) -> Any:
        """The names inside the prompt, made once."""
        if names not in self._tokens:
            self._tokens = {names: self.model.tokenize(names)}
        return self._tokens[names]

    def learned(self) -> dict[str, float]:
        """The temperature that the prompt was trained at, where it is not the model's own."""
        return {} if self.temperature == self.model.temperature else {"temperature": self.temperature}
