"""A picture's tokens before the words of a causal language model: an image tower, a projector, a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError, at_least
from nearfar.models.dual.projection import projection
from nearfar.models.hub import push_to_hub
from nearfar.models.mixed_inputs import encode
from nearfar.models.towers.pixels import Pixels, PreparesPictures
from nearfar.models.towers.tokens import Tokens, check_words, tokenize, with_padding
from nearfar.models.towers.tower import ImageTower
from nearfar.models.vlm import word_sequences
from nearfar.models.vlm.candidate_answers import answer
from nearfar.models.vlm.patch_word_heatmap import locate
from nearfar.models.vlm.saved_language_model import SavedLanguageModel
from nearfar.models.vlm.token_likelihoods import token_log_likelihoods
from nearfar.models.vlm.word_sequences import WordSequences
from nearfar.modes import evaluating

Read = Literal["cells", "summary", "embedding"]
Prompt = str | Sequence[str] | Mapping[str, Tensor] | None


class CaptionLikelihoods(NamedTuple):
    """The log-likelihood of each token of captions, `[B, T]` float32 or wider, 0 where `mask` `[B, T]` bool says that
    there is none: after the end, and in the prompt."""

    log_likelihood: Tensor
    mask: Tensor


class VisionLanguageModel(PreparesPictures, SavedLanguageModel):
    """A causal language model that reads a picture and then words. `nearfar.models.vision_language_model` makes one.

        [ picture token 1 ... P ]  begin  prompt  caption  end

    The picture's tokens are what the projector makes of the image tower's cells, of its summary, or of its embedding by
    a dual encoder, whose place the vector of a text may take (`nearfar.methods.CLOSE`). Neither they nor the prompt are
    targets. It writes captions, and says how likely they are. Of pictures alone it is an encoder, too: `encode_image`
    is the mean of a picture's tokens, as the language model reads them.

    Args:
        image: the tower.
        lm: a causal language model of transformers.
        tokenizer: the language model's.
        pixels: how pictures are prepared for the tower.
        projector: "linear", "linear-no-bias" or "mlp" (two layers with GELU), from the tower's width to the language
            model's.
        read: "cells" of the tower's grid, row by row; its "summary", one vector; or its "embedding", the summary
            through `head`, the image projection of a dual encoder, at unit length.
        pool: average the grid to `pool` by `pool` cells first; None takes all.
        tokens: so many are made of a summary, or an embedding.
        space: of `read="embedding"`: the `image_projection` and `embed_dim` of the dual encoder.
        prompt: stands before each caption, in training and in writing.
        max_length: tokens that a caption is cut to, with those that begin and end it.

    Attributes:
        image_size, mean, std: what `preprocess` makes of pictures.
        picture_length: the number of a picture's tokens.
        embed_dim: width of the language model, and of `encode_image`.

    Raises:
        UserError: a setting out of its range, a tokenizer that does not fit, or too few positions.
    """

    answer = answer
    encode = encode
    locate = locate
    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("image", "pixels", "language", "vlm", "frozen")
    """What its saved config must have."""
    PART = "vlm"

    FREEZABLE: ClassVar[tuple[str, ...]] = ("image", "head", "projector", "lm")

    def __init__(
        self,
        image: ImageTower,
        lm: Any,
        *,
        tokenizer: Any,
        pixels: Pixels,
        projector: str = "mlp",
        read: Read = "cells",
        pool: int | None = None,
        tokens: int = 1,
        space: Mapping[str, Any] | None = None,
        prompt: str = "",
        max_length: int = 64,
    ) -> None:
        super().__init__()
        if read not in ("cells", "summary", "embedding"):
            raise UserError(f"read={read!r}: choose 'cells', 'summary' or 'embedding'")
        if pool is not None and read != "cells":
            raise UserError(f"an image's {read} is one vector: leave pool out, or read 'cells'")
        if tokens != 1 and read == "cells":
            raise UserError("each cell is one token: leave tokens out, or read the 'summary'")
        if (space is None) == (read == "embedding"):
            raise UserError(
                "read='embedding' and space, the image projection of a dual encoder, go together: give "
                "nearfar.models.vision_language_model that encoder as its image"
            )
        if projector == "none":
            raise UserError("projector='none': the language model needs one, 'linear' or 'mlp'")
        at_least(1, pool=1 if pool is None else pool, tokens=tokens)
        at_least(3, max_length=max_length)
        check_words(with_padding(tokenizer))
        word_sequences.ends_of(tokenizer)
        vocabulary = lm.get_input_embeddings().num_embeddings
        if len(tokenizer) > vocabulary:
            raise UserError(
                f"the tokenizer has {len(tokenizer)} tokens and the language model {vocabulary}: take its own tokenizer"
            )
        if image.patch_size is not None:
            raise UserError("an image tower of pictures of any shape gives no fixed number of cells: take another")
        if read == "cells":
            image.pool_by("mean")  # nothing reads another summary
        self.image, self.lm, self.tokenizer, self.pixels = image, lm, tokenizer, pixels
        self.space = space
        self.head: nn.Module = nn.Identity()
        if space is not None:
            self.head = projection(space["image_projection"], image.width, space["embed_dim"], side="image")
        width = image.width if space is None else space["embed_dim"]
        self.projector = projection(projector, width, tokens * self.embed_dim, side="image")
        self.made_of: dict[str, Any] = {"projector": projector, "read": read, "pool": pool}
        self.made_of |= {"tokens": tokens} if tokens != 1 else {}
        self.made_of |= {"space": dict(space)} if space is not None else {}
        self.prompt, self.max_length = prompt, max_length
        self.frozen: tuple[str, ...] = ()
        self._check_length(len(word_sequences.prompts_of(tokenizer, prompt, 1)[0]) + max_length)

    @property
    def embed_dim(self) -> int:
        return int(self.lm.get_input_embeddings().embedding_dim)

    @property
    def picture_length(self) -> int:
        if self.made_of["read"] != "cells":
            return self.made_of.get("tokens", 1)
        pool = self.made_of["pool"]
        return self.image.patches if pool is None else pool**2

    @property
    def device(self) -> torch.device:
        return self.lm.get_input_embeddings().weight.device

    def picture_features(self, pixels: Tensor) -> Tensor:
        """What the projector reads of pixels `[B, 3, S, S]` float32, in the weights' dtype: a grid's cells `[B, P, C]`,
        or `[B, C]` where a summary or an embedding is read. Of a frozen tower they are always the same: made once, they
        are trained on in the place of pixels.

        Raises:
            UserError: pixels of another shape than the tower takes, or a tower without a grid where it is pooled.

        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red fox"], 300)).eval()
        >>> pixels = torch.rand(2, 3, 64, 64)
        >>> features = model.picture_features(pixels)
        >>> torch.equal(model.picture_tokens(features), model.picture_tokens(pixels))
        True
        """
        pixels = pixels.to(self.device)
        self.image.check_pixels(pixels)
        pool = self.made_of["pool"]
        if pool is not None:
            return F.adaptive_avg_pool2d(self.image.encode_image_map(pixels), pool).flatten(2).mT
        tokens = self.image(pixels)
        if self.made_of["read"] == "cells":
            return tokens[:, 1:]
        vector = self.head(tokens[:, 0])
        if self.space is not None:
            vector = F.normalize(vector.to(torch.promote_types(vector.dtype, torch.float32)), dim=-1).to(vector.dtype)
        return vector

    def picture_tokens(self, pixels: Tensor) -> Tensor:
        """The tokens `[B, P, W]` of pixels `[B, 3, S, S]` float32, as the language model reads them, in the weights'
        dtype. `picture_features` may stand in the place of pixels, and where embeddings are read vectors `[B, C]` of
        unit length.

        Raises:
            UserError: pixels of another shape than the tower takes, features of another than it makes, or a tower
                without a grid where it is pooled.
        """
        of_cells = self.made_of["read"] == "cells"
        if pixels.ndim == (3 if of_cells else 2):
            features = self._checked_features(pixels).to(self.device, self.lm.get_input_embeddings().weight.dtype)
        else:
            features = self.picture_features(pixels)
        tokens = self.projector(features)
        return tokens if of_cells else tokens.unflatten(-1, (-1, self.embed_dim))

    def _checked_features(self, features: Tensor) -> Tensor:
        width = self.image.width if self.space is None else self.space["embed_dim"]
        shape = [self.picture_length, width] if self.made_of["read"] == "cells" else [width]
        if list(features.shape[1:]) != shape:
            size, expected = self.image.image_size, ", ".join(map(str, ("B", *shape)))
            raise UserError(
                f"pixels are [B, 3, {size}, {size}] here (model.preprocess makes them), features [{expected}] "
                f"(model.picture_features makes them); these are {list(features.shape)}"
            )
        return features

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """The mean `[B, W]` of the tokens of pixels `[B, 3, S, S]` float32, in the weights' dtype; of unit length with
        `normalize=True`."""
        embedding = self.picture_tokens(pixels).mean(1)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long of captions, cut at `max_length`, padded on the right to the
        longest."""
        return tokenize(self.tokenizer, texts, self.max_length)

    def sequences(self, tokens: Mapping[str, Tensor], prompt: Prompt = None) -> WordSequences:
        """Begin, prompt, caption and end of each row, on the model's device, of captions' tokens `[B, L]` int64.

        Args:
            tokens: as `tokenize` or a loader makes them, with or without tokens of begin and end.
            prompt: one for all, or one for each, as texts or as tokens `[B, L]` int64; None: the model's own.
        """
        captions = word_sequences.words_of(self.tokenizer, tokens)
        prompts = word_sequences.prompts_of(self.tokenizer, self.prompt if prompt is None else prompt, len(captions))
        words = word_sequences.with_captions(self.tokenizer, prompts, captions)
        self._check_length(words.ids.shape[1])
        return WordSequences(*(each.to(self.device) for each in words))

    def logits(self, pixels: Tensor | None, words: WordSequences) -> Tensor:
        """Logits `[B, L - 1, V]` of each token of `words` after the first, in the weights' dtype, given all before it:
        row by row those of `words.ids[:, 1:]`.

        Args:
            pixels: `[B, 3, S, S]` float32, or the `picture_tokens` `[B, P, W]` made of them; None: no picture, the
                words alone.
            words: as `sequences` makes them.
        """
        length = words.ids.shape[1]
        inputs, mask = self._inputs(pixels, words)
        kept = {"logits_to_keep": length} if "logits_to_keep" in signature(self.lm.forward).parameters else {}
        out = self.lm(inputs_embeds=inputs, attention_mask=mask, use_cache=False, **kept)
        return out.logits[:, -length:][:, :-1]

    def likelihoods(
        self, pixels: Tensor | None, tokens: Mapping[str, Tensor], prompt: Prompt = None
    ) -> CaptionLikelihoods:
        """The log-likelihood of each token of captions, and of their ends, given the pictures; with a gradient.

        Args:
            pixels: `[B, 3, S, S]` float32, or the `picture_tokens` `[B, P, W]` made of them; None: no picture.
            tokens: the captions', `[B, L]` int64.
            prompt: one for all, or one for each, as texts or as tokens `[B, L]` int64; None: the model's own.

        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red fox"], 300)).eval()
        >>> scores = model.likelihoods(torch.rand(2, 3, 64, 64), model.tokenize(["a red fox", "a fox"]))
        >>> scores.log_likelihood.shape == scores.mask.shape, bool((scores.log_likelihood <= 0).all())
        (True, True)
        """
        words = self.sequences(tokens, prompt)
        targets = words.targets[:, 1:]
        return CaptionLikelihoods(token_log_likelihoods(self.logits(pixels, words), targets), targets >= 0)

    def caption(
        self,
        pixels: Tensor,
        prompt: str | Sequence[str] | None = None,
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """What the model writes of each picture, in evaluation mode: the likeliest token at each place, to the end.

        Args:
            pixels: `[B, 3, S, S]` float32, as `preprocess` makes them.
            prompt: what to go on from, one for all, or one for each; None: the model's own.
            max_tokens: so many at most; by default `max_length`.
            seed: of drawn tokens; None: from PyTorch's own state.
            options: of `generate` in transformers: `do_sample=True` with `temperature`, `top_p` or `top_k` draws
                tokens, `num_beams` searches.

        Raises:
            UserError: no room for so many tokens, or another number of prompts than pictures.

        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red fox"], 300))
        >>> len(model.caption(torch.rand(2, 3, 64, 64), max_tokens=4))
        2
        """
        most = self.max_length if max_tokens is None else max_tokens
        at_least(1, max_tokens=most)
        if not len(pixels):
            return []
        with evaluating(self), torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            inputs, mask = self.beginning(pixels, prompt)
            self._check_length(inputs.shape[1] - self.picture_length + most)
            ids = self.lm.generate(
                inputs_embeds=inputs,
                attention_mask=mask,
                max_new_tokens=most,
                **{"do_sample": False, **options},
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=word_sequences.ends_of(self.tokenizer)[1],
            )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def beginning(self, pixels: Tensor | None, prompt: str | Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """What writing goes on from: embeddings `[B, P + L, W]` of pictures and prompts, in the weights' dtype, and
        their mask `[B, P + L]` int64. Shorter prompts are padded on the left, behind the picture.

        Args:
            pixels: `[B, 3, S, S]` float32; None: no picture, prompts alone, and P is 0.
            prompt: one for all pictures, or one for each; None: the model's own.

        Raises:
            UserError: another number of prompts than pictures.
        """
        prompt = self.prompt if prompt is None else prompt
        alone = 1 if isinstance(prompt, str) else len(prompt)
        prompts = word_sequences.prompts_of(self.tokenizer, prompt, alone if pixels is None else len(pixels))
        words = word_sequences.to_continue(self.tokenizer, prompts)
        return self._inputs(pixels, WordSequences(*(each.to(self.device) for each in words)))

    def forward(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> CaptionLikelihoods:
        """As `likelihoods` with the model's own prompt."""
        return self.likelihoods(pixels, tokens)

    def _inputs(self, pixels: Tensor | None, words: WordSequences) -> tuple[Tensor, Tensor]:
        """Embeddings `[B, P + L, W]` of pictures and words, and their mask. Padding on the left of the words stands
        behind the picture: it is not attended to, and `generate` counts positions without it."""
        embedded = self.lm.get_input_embeddings()(words.ids)
        if pixels is None:
            return embedded, words.mask
        pictures = (pixels if pixels.ndim == 3 else self.picture_tokens(pixels)).to(embedded.dtype)
        count = pictures.shape[1]
        inputs = torch.cat([pictures, embedded], dim=1)
        mask = torch.cat([words.mask.new_ones(len(pictures), count), words.mask], dim=1)
        return inputs, mask

    def _check_length(self, words: int) -> None:
        positions = getattr(self.lm.config, "max_position_embeddings", None)
        if positions is not None and self.picture_length + words > positions:
            raise UserError(
                f"{self.picture_length} tokens of a picture and {words} of words are more than the {positions} "
                "positions of the language model: average the picture's (pool=4), lower max_length or cut the prompt"
            )
