"""Pictures and texts of a vision-language model in one space: a picture's tokens beside the language model's table of
words (CG-VLM, arXiv 2311.17945)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models.towers.tokens import Tokens
from nearfar.models.vlm.mean_cosines import mean_direction, picture_direction


class PatchWordSpace(nn.Module):
    """An encoder of pictures and of texts whose cosine is the mean of the cosines of the picture's tokens and the
    text's words (`nearfar.models.vlm.mean_cosines`): what the method `cg_vlm` trains. It retrieves: protocols,
    indexes and `nearfar.embedding` take it as they take any model of two towers.

    The score of a pair is a product of two vectors that are shorter than 1. So that it is a cosine, and a search by
    cosines ranks by it, each vector gets what it lacks of unit length in one of two places of its own:

        picture (u, sqrt(1 - |u|^2), 0)          text (t, 0, sqrt(1 - |t|^2))

    Args:
        model: a `nearfar.models.VisionLanguageModel`; it is not copied.
        pool: the picture's tokens are averaged to `pool` by `pool` cells first; 1: their mean; None: each by itself.
        center: subtract the mean of the table of words from words and picture's tokens, which many language models'
            rows share.
        ignore: words that do not count, such as "a" and "the"; each must be one token.

    Attributes:
        embed_dim: width of the language model, and two more.

    Raises:
        UserError: a model without picture tokens and a language model, or an ignored word of several tokens.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import vision_language_model
    >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red fox"] * 9, 300))
    >>> space = PatchWordSpace(model, ignore=["a"])
    >>> picture = space.encode_image(torch.rand(1, 3, 64, 64))
    >>> text = space.encode_text(space.tokenize(["a red fox"]))
    >>> [round(x.norm().item(), 4) for x in (picture, text)]
    [1.0, 1.0]
    """

    def __init__(self, model: Any, *, pool: int | None = 1, center: bool = False, ignore: Sequence[str] = ()) -> None:
        super().__init__()
        check_model(model)
        self.model, self.pool, self.center = model, pool, center
        self.ignored = ignored_tokens(model.tokenizer, ignore)
        self.pixels, self.tokenizer, self.image_size = model.pixels, model.tokenizer, model.image_size
        self.embed_dim = model.embed_dim + 2

    def preprocess(self, pictures: Sequence[Any]) -> Tensor:
        """Pixels `[B, 3, S, S]` float32 of PIL pictures."""
        return self.model.preprocess(pictures)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokens `[B, L]` int64 of texts."""
        return self.model.tokenize(texts)

    def picture_vector(self, pixels: Tensor) -> Tensor:
        """The mean direction `[B, W]`, float32 or wider, of the tokens of pixels `[B, 3, S, S]` float32."""
        tokens = self.model.picture_tokens(pixels)
        return picture_direction(tokens - self.origin() if self.center else tokens, pool=self.pool)

    def text_vector(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The mean direction `[B, W]`, float32 or wider, of the words of texts `[B, L]` int64, without gradient."""
        rows, mask = word_rows(self.model, tokens, self.ignored)
        return mean_direction(rows - self.origin() if self.center else rows, mask)

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        """Unit vectors `[B, W + 2]`, float32 or wider, of pixels `[B, 3, S, S]` float32, whatever `normalize` says."""
        vector = self.picture_vector(pixels)
        return F.pad(torch.cat([vector, _missing(vector)], 1), (0, 1))

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = True) -> Tensor:
        """Unit vectors `[B, W + 2]`, float32 or wider, of texts `[B, L]` int64, whatever `normalize` says."""
        vector = self.text_vector(tokens)
        return torch.cat([F.pad(vector, (0, 1)), _missing(vector)], 1)

    def origin(self) -> Tensor:
        """What `center` subtracts: the mean row `[W]` of the table of words, in its dtype."""
        return table_mean(self.model)


def check_model(model: Any) -> None:
    """Raise a `UserError` for a model that does not put a picture's tokens before words."""
    if not (hasattr(model, "picture_tokens") and hasattr(model, "lm")):
        raise UserError(
            f"a {type(model).__name__} has no picture tokens before words: make a model with "
            "model.make=vision_language_model, or nearfar.models.vision_language_model(...)"
        )


@torch.no_grad()
def word_rows(model: Any, tokens: Mapping[str, Tensor], ignored: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """The rows `[B, L, W]` of the table of input embeddings of texts `[B, L]` int64, in the weights' dtype, without
    gradient, and which of them are words, `[B, L]` bool: no padding, no special token, none of those to be ignored."""
    table = model.lm.get_input_embeddings()
    ids, mask = (tokens[name].to(table.weight.device) for name in ("input_ids", "attention_mask"))
    left_out = ids.new_tensor(sorted({*model.tokenizer.all_special_ids, *ignored}))
    return table(ids), mask.bool() & ~torch.isin(ids, left_out)


@torch.no_grad()
def table_mean(model: Any) -> Tensor:
    """The mean row `[W]` of a model's table of input embeddings, in its dtype, without gradient."""
    return model.lm.get_input_embeddings().weight.mean(0)


def ignored_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The tokens of words, as they stand at the beginning of a text and within one.

    Raises:
        UserError: a word of several tokens, which other words may be made of, too.

    >>> from nearfar.data import train_tokenizer
    >>> tokenizer = train_tokenizer(["a red fox"] * 9, 300)
    >>> [tokenizer.decode(token) for token in ignored_tokens(tokenizer, ["a", "fox"])]
    [' a', ' fox']
    """
    if isinstance(words, str):
        raise UserError(f"ignore={words!r}: a list of words, [{words!r}]")
    ignored: list[int] = []
    for word in words:
        spelled = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (word, f" {word}")]
        single = [ids[0] for ids in spelled if len(ids) == 1]
        if not single:
            raise UserError(f"ignore: {word!r} is {len(spelled[0])} tokens here, which other words share: leave it out")
        ignored += single
    return sorted(set(ignored))


def word_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text as they stand within a caption, after a blank, where that is another token.

    >>> from nearfar.data import train_tokenizer
    >>> tokenizer = train_tokenizer(["a red fox"] * 9, 300)
    >>> [tokenizer.decode(token) for token in word_tokens(tokenizer, ["red fox"])[0]]
    [' red', ' fox']
    """
    rows = []
    for text in texts:
        plain, within = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (text, f" {text}"))
        rows.append(within if len(within) <= len(plain) else plain)
    return rows


def _missing(vector: Tensor) -> Tensor:
    """What is missing to unit length, `[B, 1]`."""
    return (1 - vector.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
