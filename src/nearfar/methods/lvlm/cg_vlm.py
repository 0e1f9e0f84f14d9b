"""CG-VLM (arXiv 2311.17945): an adapter that lets a language model read pictures learns by captions and by contrast of
picture tokens and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.temperature import Temperature
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.lvlm.patch_token_contrast import bag_keys, joined_groups
from nearfar.models.vlm.mean_cosines import mean_direction, picture_direction
from nearfar.models.vlm.patch_word_space import check_model, ignored_tokens, table_mean, word_rows


class CGVLM(EmbeddingMethod):
    """The first stage of training a vision-language model: the projector alone learns, by two losses,

        L = L_gen + lambda L_con
        L_gen = - mean over tokens of log P(t_l | picture, prompt, t_<l)
        L_con = 1/2 [ CE_j( s(i, j) / tau ) + CE_i( s(i, j) / tau ) ]
        s(i, j) = the mean over picture i's (pooled) tokens and caption j's words of their cosine

    where a word is its row of the language model's table of input embeddings. Tower, language model and table are
    frozen, so that a caption's side of s is a constant. All tokens of a picture go to the language model, pooled ones
    to the contrast.

    The contrast is over the whole batch of all processes: `training.chunk` keeps it whole where memory is short, and
    accumulating gradients of small batches is refused, since a batch of one has none. Captions of the same words, in
    whatever order, are no negatives of each other, nor are pictures of one `group`.

    Args:
        model: a `nearfar.models.VisionLanguageModel`, with a language model that knows the captions' language. Its
            projector is trained, and nothing else.
        contrast: lambda; 0 is LLaVA's first stage (arXiv 2304.08485), captions alone.
        generation: the weight of L_gen; 0 leaves the language model out, and is fast.
        pool: a picture's tokens are averaged to `pool` by `pool` cells before the contrast; 1: their mean; None: each
            by itself.
        temperature: tau (the paper does not say: 0.07).
        learn_temperature: whether tau is trained, on a log scale.
        symmetric: both directions, or from pictures to captions alone.
        center: subtract the mean row of the table from words and picture tokens. The rows of many language models share
            a large one, and all captions look alike then: `caption_spread` is small.
        ignore: words that do not count in the contrast, such as "a" and "the", each one token. Special tokens and the
            prompt never count.
        exclude_duplicates: False takes captions of the same words, and pictures of one group, for negatives.

    The batch has `image` `[B, 3, S, S]` float32 and `text`, tokens `[B, L]` int64. Logs `token_loss`, which is L_gen;
    `contrast`; `similarity`, the mean s of a picture and its caption, and `gap`, by how much it is above that of all
    pairs; `caption_spread`, the root mean square distance of the captions' vectors from their mean: how far apart
    captions are for the contrast.

    Raises:
        UserError: a model without picture tokens, settings out of their range, an ignored word of several tokens.

    Example:
        >>> import torch
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red car", "a red cat"], 300))
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "text": model.tokenize(["a red car", "a red cat"])}
        >>> sorted(CGVLM(model)(batch))
        ['caption_spread', 'contrast', 'gap', 'loss', 'similarity', 'token_loss']
    """

    reads = ("group",)
    views = "none"

    def __init__(
        self,
        model: Any,
        *,
        contrast: float = 1.0,
        generation: float = 1.0,
        pool: int | None = 1,
        temperature: float = 0.07,
        learn_temperature: bool = False,
        symmetric: bool = True,
        center: bool = False,
        ignore: tuple[str, ...] = (),
        exclude_duplicates: bool = True,
    ) -> None:
        super().__init__()
        check_model(model)
        for name, weight in (("contrast", contrast), ("generation", generation)):
            if not 0 <= weight < float("inf"):
                raise UserError(f"{name}={weight}: the weight of a loss is a number from 0 on")
        if not (contrast or generation):
            raise UserError("contrast=0 and generation=0 leave no loss: give one of them a weight")
        if pool is not None and not 1 <= pool**2 <= model.picture_length:
            raise UserError(f"pool={pool}: a picture has {model.picture_length} tokens; 1 takes their mean, None all")
        self.model = model.freeze("image", "lm")
        self.model.unfreeze("projector")
        self.contrast, self.generation = contrast, generation
        self.pool, self.symmetric, self.center = pool, symmetric, center
        self.temperature = Temperature(temperature, learnable=learn_temperature)
        self.ignored = ignored_tokens(model.tokenizer, ignore)
        self.exclude_duplicates = exclude_duplicates

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        pictures = self.model.picture_tokens(batch["image"])  # H = f(V), [B, P, W]
        embeddings = {}
        if self.generation:
            likelihood, mask = self.model.likelihoods(pictures, batch["text"])
            count = mask.sum(1, keepdim=True)
            embeddings = {"surprise": -likelihood.sum(1, keepdim=True), "count": count.to(likelihood.dtype)}
        if self.contrast:
            rows, words = word_rows(self.model, batch["text"], self.ignored)
            if self.center:
                origin = table_mean(self.model)
                pictures, rows = pictures - origin, rows - origin
            embeddings["picture"] = picture_direction(pictures, pool=self.pool)
            embeddings["text"] = mean_direction(rows, words)
            embeddings["bag"] = bag_keys(batch["text"]["input_ids"].to(words.device), words)
        return embeddings

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        terms = []
        if self.generation:
            token_loss = embeddings["surprise"].sum() / embeddings["count"].sum().clamp(min=1)
            terms.append(self.generation * token_loss)
            out["token_loss"] = token_loss.detach()
        if self.contrast:
            picture, text, scale = embeddings["picture"], embeddings["text"], self.temperature.scale()
            group = self._duplicates(embeddings["bag"], batch.get("group")) if self.exclude_duplicates else None
            contrast = ops.info_nce(picture, text, scale, symmetric=self.symmetric, group=group)
            terms.append(self.contrast * contrast)
            out |= {"contrast": contrast.detach(), **spread(picture.detach(), text)}
            if self.temperature.value.requires_grad:
                out["temperature"] = self.temperature().detach()
        return {"loss": torch.stack(terms).sum(), **out}

    @staticmethod
    def _duplicates(bag: Tensor, group: Tensor | None) -> Tensor:
        return joined_groups(bag) if group is None else joined_groups(bag, group.to(bag.device))


def spread(picture: Tensor, text: Tensor) -> dict[str, Tensor]:
    """How the scores of a batch lie, without a table of them: `similarity`, `gap` and `caption_spread`, each a scalar.

    Args:
        picture, text: `[N, D]`, floating point, without gradient; their products are the scores.
    """
    own, all_pairs = (picture * text).sum(1).mean(), (picture.mean(0) * text.mean(0)).sum()
    away = (text - text.mean(0)).square().sum(1).mean().sqrt()
    return {"similarity": own, "gap": own - all_pairs, "caption_spread": away}
