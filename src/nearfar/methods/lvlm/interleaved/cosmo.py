"""COSMO (arXiv 2401.00849): a language model that sees pictures learns to write of them, and to tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp
from typing import Any

import torch
from torch import Tensor

from nearfar.data.fields.caption_choice import Caption
from nearfar.data.fields.field import Field
from nearfar.data.fields.text_field import FieldTokenizer
from nearfar.data.pictures.image_field import ImageField
from nearfar.data.texts.documents_field import DocumentsField
from nearfar.errors import UserError, at_least
from nearfar.losses import InfoNCE
from nearfar.losses.temperature import Temperature
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.lvlm.patch_token_contrast import bag_keys, joined_groups
from nearfar.methods.parts.temperature_start import start_temperature

RELEASED_TEMPERATURE = exp(-0.2)
"""tau = 0.8187, by which the released code starts: its setting, 0.2, is the logarithm of the scale. Logits lie within
[-1.22, 1.22] then, and 96 pairs that are told apart perfectly still have a loss of 3.37."""


class COSMO(EmbeddingMethod):
    """Next-token prediction of what is said of pictures, and contrast of pictures and captions:

        L     = L_lm + lambda L_con
        L_lm  = - mean over tokens of log P( t_i | the pictures before it, t_<i )
        L_con = 1/2 [ CE( s, diag ) + CE( s^T, diag ) ]        s = <norm(z_t), norm(z_v)> / tau

    z_v is of the resampler alone, z_t of the states below the first block that sees a picture: neither knows of the
    other. Documents of several pictures have no part in L_con, and give no gradient to what only it trains. What the
    model freezes stays as it is: image tower and language model (paper).

    With several processes L_con is that of the batch of all, with gradient, and L_lm the mean over the tokens of all;
    `training.chunk` computes both in chunks, with the same gradient.

    Args:
        model: a `nearfar.models.InterleavedModel`.
        contrast: lambda (paper: 1); 0 is next-token prediction alone, as Flamingo is trained (arXiv 2204.14198).
        temperature: initial tau, learned on a log scale. None: the model's own, if it was trained before, else 0.07.
            The released code starts at `RELEASED_TEMPERATURE`, 0.8187.
        learn_temperature: whether it is trained.
        exclude_duplicates: equal captions, and pictures of one `group`, are no negatives of each other. The released
            code's guard compares numbers of tokens, and hardly ever acts.
        most_pictures: of a document (paper: 3); what comes after them is cut off.

    The batch has `images` `[B, T, 3, S, S]` float32, `image_count` `[B]` int64, `text`, tokens `[B, L]` int64 with a
    mark for each picture, and `paired` `[B]` int64, 0 for documents: see `DocumentsField`. With `image`
    `[B, 3, S, S]` in their place all are pairs, and texts need no marks. Logs `token_loss`, `contrast` and
    `temperature`.

    Raises:
        UserError: a model of another kind, or a setting out of its range.

    Example:
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import interleaved_model
        >>> tokenizer = train_tokenizer(["a red car", "a red cat"], 300)
        >>> model = interleaved_model("tiny-vit", "tiny", tokenizer=tokenizer, depth=1)
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "text": model.tokenize(["a red car", "a red cat"])}
        >>> sorted(COSMO(model)(batch))
        ['contrast', 'loss', 'temperature', 'token_loss']
    """

    views = "none"
    pictures = False
    captions = False
    reads = ("group", "paired")

    def __init__(
        self,
        model: Any,
        *,
        contrast: float = 1.0,
        temperature: float | None = None,
        learn_temperature: bool = True,
        exclude_duplicates: bool = True,
        most_pictures: int = 3,
    ) -> None:
        super().__init__()
        if not hasattr(model, "text_pooler"):
            raise UserError(
                f"cosmo trains a language model that sees pictures in a text, and this is a {type(model).__name__}: "
                "make one with nearfar.models.interleaved_model (in a recipe, model.make: interleaved_model)"
            )
        if not 0 <= contrast < float("inf"):
            raise UserError(f"contrast={contrast}: the weight of a loss is a number from 0 on")
        at_least(1, most_pictures=most_pictures)
        self.model, self.contrast, self.most_pictures = model, contrast, most_pictures
        self.exclude_duplicates = exclude_duplicates
        tau = Temperature(start_temperature(model, temperature, 0.07), learnable=learn_temperature)
        self.loss = InfoNCE(tau) if contrast else None

    def fields(self, source: Any, training: bool, caption: Caption | None = None) -> list[Field]:
        model, chosen = self.model, ("random" if training else "first") if caption is None else caption
        pictures = ImageField(model.image_size, mean=model.mean, std=model.std, views="none")
        tokens = FieldTokenizer(model.tokenizer, model.max_length)
        return [DocumentsField(pictures, tokens, caption=chosen, most=self.most_pictures)]

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`surprise` `[B]`, the sum over each text's targets of minus their log-likelihood, and their number `tokens`
        `[B]`, both float32 or wider; for the contrast `image` and `text` `[B, D]`, 0 where a sample has no part in it,
        and `caption` `[B]` int64, the same for the same text."""
        pixels = batch["images"] if "images" in batch else batch["image"]
        count, device = len(batch["text"]["input_ids"]), self.model.device
        pairs = batch["paired"].nonzero()[:, 0] if "paired" in batch else torch.arange(count)
        rows = (pairs if self.contrast else pairs[:0]).to(device)
        image, text, (likelihood, mask) = self.model.encode_and_score(
            pixels, batch["text"], counts=batch.get("image_count"), rows=rows
        )
        surprise = -likelihood.sum(1)
        written = {"surprise": surprise, "tokens": mask.sum(1).to(surprise.dtype)}
        if not self.contrast:
            return written
        # Without pairs they are 0 and still in the graph: chunks and processes may have some and may have none.
        both = (each.new_zeros(count, each.shape[1]).index_copy(0, rows, each) for each in (image, text))
        image, text = both
        return {"image": image, "text": text, "caption": caption_keys(batch["text"], device), **written}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        # The mean over the tokens of pairs and documents alike.
        token_loss = embeddings["surprise"].sum() / embeddings["tokens"].sum().clamp(min=1)
        if self.loss is None:
            return {"loss": token_loss, "token_loss": token_loss.detach()}
        contrast = self._contrast(embeddings, batch)
        return {
            "loss": token_loss + self.contrast * contrast,
            "token_loss": token_loss.detach(),
            "contrast": contrast.detach(),
            "temperature": self.loss.temperature().detach(),
        }

    def _contrast(self, embeddings: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """L_con of the pairs; 0, with a gradient of 0, where there are none."""
        image, text, caption = (embeddings[name] for name in ("image", "text", "caption"))
        group = batch.get("group")
        keys = [caption.to(image.device), *([] if group is None else [group.to(image.device)])]
        if "paired" in batch:
            there = batch["paired"].to(image.device).bool()
            image, text, keys = image[there], text[there], [key[there] for key in keys]
        if not len(image):
            return image.sum() + text.sum()
        return self.loss(image, text, group=joined_groups(*keys) if self.exclude_duplicates else None)  # type: ignore[misc]


def caption_keys(tokens: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Tensor:
    """A number for each text of tokens `[B, L]` int64, padded on the right: `[B]` int64, on `device`, the same for the
    same text.

    >>> ids = torch.tensor([[5, 7, 0], [5, 7, 9], [7, 5, 0]])
    >>> one, same, other = caption_keys({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 0]] * 3)}).tolist()
    >>> one == same, one == other
    (True, False)
    """
    ids = tokens["input_ids"]
    # With its place each token is a word of its own, so that a bag of them has an order.
    placed = ids * 2**20 + torch.arange(ids.shape[1], device=ids.device)
    return bag_keys(placed, tokens["attention_mask"].bool()).to(device)
