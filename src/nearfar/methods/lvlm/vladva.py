"""VladVA (arXiv 2412.04378): a vision-language model learns to embed by short captions, and still writes long ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nearfar.data.texts.caption_lengths_field import CaptionLengths
from nearfar.errors import UserError
from nearfar.losses import InfoNCE
from nearfar.losses.temperature import RELEASED_BY_CLIP, Temperature
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.temperature_start import start_temperature


class VladVA(EmbeddingMethod):
    """Contrast of pictures with short captions, and next-token prediction of long ones, in one batch:

        L   = L_c + L_ar
        L_c = 1/b sum_k [ - log softmax_j( s(v_k, t_j) )_k - log softmax_j( s(v_j, t_k) )_k ]     s = cos / tau
        L_ar = - mean over tokens of log p( u_i | picture, image prompt, u_<i )

    v and t are the states of the summary tokens of picture and short caption, u a long caption. One pass over
    [picture, image prompt, long caption] serves both losses: the summary token does not attend to the caption, and the
    caption's first token is written from it. Long captions are no part of the contrast: they are so specific that it
    is solved at once, and teaches nothing.

    Both directions are summed, not averaged. With several processes L_c is that of the batch of all, with gradient, and
    L_ar the mean over the tokens of all. It is computed in chunks where `training.chunk` says so.

    Args:
        model: a `nearfar.models.LVLMEmbedder`. Prompts and adapters are trained, as it has them.
        caption_weight: of L_ar (paper: 1); 0 is the contrast alone.
        temperature: initial tau, learned on a log scale and kept within [0.01, 1] (CLIP's; the paper does not say).
            None: the model's own, if it was trained before, else 0.07.
        learn_temperature: whether it is trained.
        short: captions of fewer tokens are short (paper: 30), all others long.
        longest: tokens that a long caption is cut to (paper: 500), or the model's `max_length` where that is less.
        exclude_duplicates: leave samples of one `group` out of each other's negatives.

    The batch has `image` `[B, 3, S, S]` float32, `text`, tokens `[B, L]` int64 of short captions, and `long_text`,
    tokens of long ones. A sample with `has_text` or `has_long_text` 0 has no part in the loss of that kind, and a loss
    of which no sample has a part is 0. Without these keys all have one. Logs `contrast`, `token_loss` and
    `temperature`.

    Raises:
        UserError: a model that does not embed and write at once, a negative weight, or lengths that leave no caption.

    Example:
        >>> import torch
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import lvlm_embedder, vision_language_model
        >>> base = vision_language_model("tiny", tokenizer=train_tokenizer(["a red car", "a red cat"], 300))
        >>> model = lvlm_embedder(base, image_prompt="a picture of", text_prompt="in short:", rank=2)
        >>> texts = model.tokenize(["a red car", "a red cat"])
        >>> sorted(VladVA(model)({"image": torch.rand(2, 3, 64, 64), "text": texts, "long_text": texts}))
        ['contrast', 'loss', 'temperature', 'token_loss']
    """

    views = "none"
    reads = ("group", "has_text")

    def __init__(
        self,
        model: Any,
        *,
        caption_weight: float = 1.0,
        temperature: float | None = None,
        learn_temperature: bool = True,
        short: int = 30,
        longest: int = 500,
        exclude_duplicates: bool = False,
    ) -> None:
        super().__init__()
        if not hasattr(model, "encode_and_score"):
            raise UserError(
                f"vladva trains a model that embeds and writes, and this is a {type(model).__name__}: make one of a "
                "vision-language model with nearfar.models.lvlm_embedder (in a recipe, model.make: lvlm_embedder)"
            )
        if not caption_weight >= 0:
            raise UserError(f"caption_weight is {caption_weight}: a term's weight is from 0 on")
        self.model, self.caption_weight = model, caption_weight
        self.caption_lengths = CaptionLengths(short, longest)
        start = start_temperature(model, temperature, 0.07, bounds=RELEASED_BY_CLIP)
        tau = Temperature(start, learnable=learn_temperature, bounds=RELEASED_BY_CLIP)
        self.loss = InfoNCE(tau, directions="sum")
        self.exclude_duplicates = exclude_duplicates

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`image` and `text` `[B, W]`; with long captions `surprise` `[B]`, the sum over each one's tokens of minus
        their log-likelihood, and their number `tokens` `[B]`, both float32 or wider."""
        text = self.model.encode_text(batch["text"])
        if not self.caption_weight or "long_text" not in batch:
            return {"image": self.model.encode_image(batch["image"]), "text": text}
        image, (likelihood, mask) = self.model.encode_and_score(batch["image"], batch["long_text"])
        if "has_long_text" in batch:
            mask = mask & batch["has_long_text"].to(mask.device).bool()[:, None]
        surprise = -likelihood.masked_fill(~mask, 0).sum(1)
        return {"image": image, "text": text, "surprise": surprise, "tokens": mask.sum(1).to(surprise.dtype)}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        contrast = self._contrast(
            embeddings["image"],
            embeddings["text"],
            batch.get("group") if self.exclude_duplicates else None,
            batch.get("has_text"),
        )
        figures = {"contrast": contrast.detach(), "temperature": self.loss.temperature().detach()}
        if "surprise" not in embeddings:
            return {"loss": contrast, **figures}
        token_loss = embeddings["surprise"].sum() / embeddings["tokens"].sum().clamp(min=1)
        return {"loss": contrast + self.caption_weight * token_loss, "token_loss": token_loss.detach(), **figures}

    def _contrast(self, image: Tensor, text: Tensor, group: Tensor | None, has_text: Tensor | None) -> Tensor:
        """L_c of the samples that have a short caption; 0, with a gradient of 0, where none has."""
        if has_text is not None:
            there = has_text.to(image.device).bool()
            image, text, group = image[there], text[there], None if group is None else group[there]
        if not len(image):
            return image.sum() + text.sum()
        return self.loss(image, text, group=group)
