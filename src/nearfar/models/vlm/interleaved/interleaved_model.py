"""A language model whose upper layers attend to pictures, and whose lower layers embed texts (COSMO, arXiv
2401.00849)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError, at_least
from nearfar.models.hub import push_to_hub
from nearfar.models.mixed_inputs import encode
from nearfar.models.towers.pixels import Pixels, PreparesPictures
from nearfar.models.towers.tokens import Tokens, check_words, tokenize, with_padding
from nearfar.models.towers.tower import ImageTower
from nearfar.models.vlm import word_sequences
from nearfar.models.vlm.candidate_answers import answer
from nearfar.models.vlm.interleaved import document_writing, media_reading
from nearfar.models.vlm.interleaved.document_rows import document_rows
from nearfar.models.vlm.interleaved.gated_block import Attend, GatedCrossAttention, media_times
from nearfar.models.vlm.interleaved.mark_tokens import MarkTokens, marks_of, with_marks
from nearfar.models.vlm.interleaved.perceiver import PerceiverResampler, TextPooler
from nearfar.models.vlm.saved_language_model import SavedLanguageModel
from nearfar.models.vlm.token_likelihoods import token_log_likelihoods
from nearfar.models.vlm.vision_language_model import CaptionLikelihoods, Prompt
from nearfar.models.vlm.word_sequences import WordSequences


class EmbeddedDocuments(NamedTuple):
    """Of B texts with pictures the embeddings of both sides, `[R, D]` each for the R rows that were embedded, and the
    log-likelihoods of all B."""

    image: Tensor
    text: Tensor
    likelihoods: CaptionLikelihoods


class InterleavedModel(PreparesPictures, SavedLanguageModel):
    """A causal language model in two parts. `nearfar.models.interleaved_model` makes one.

        begin  <visual> words <|endofchunk|>  <visual> words <|endofchunk|> ...

    The first layers read words alone. Before some of the later ones stand gated cross-attention blocks, by which a
    token attends to the picture whose mark, `<visual>`, stands last before it. All gates are 0 at first: then it writes
    as the language model does, to the bit. A picture is a number of tokens that a perceiver resampler makes of the
    image tower's cells, and before them one vector for contrast. A text's vector is what a learnt query takes of the
    states below the first block, so that no picture is in it.

    Tower and language model are frozen, the rows of the two marks are learnt. The language model is in `lm` as it was;
    blocks act on it within `reading` alone.

    Args:
        image: the tower.
        lm: a causal language model of transformers.
        tokenizer: the language model's; the model has a copy with the two marks.
        pixels: how pictures are prepared for the tower.
        unimodal_layers: layers before the first block (COSMO: 12 of 24); 0 and `interval=1`, `compress=1` is Flamingo.
        interval: a block stands before every so many-th layer from there on (COSMO: 2).
        compress: by which a block's inner widths are divided (COSMO: 2).
        latents: tokens of a picture (COSMO: 64).
        depth: layers of the resampler (COSMO: 6).
        heads, head_width: of all attention here, before it is compressed (COSMO: 8 of 64).
        embed_dim: D, width of `encode_image` and `encode_text` (COSMO: 512).
        attend: "latest", a token sees the last picture before it (COSMO); "all", every one before it.
        text_layers: layers after which a text's vector is read, `unimodal_layers` at most and by default. Released
            COSMO reads it one layer earlier.
        attend_padding: a text's vector takes padding too, and depends on what stands beside a text, as in released
            COSMO. False: it does not.
        prompt: stands between the mark and each caption, in training and in writing.
        max_length: tokens that a text is cut to, before marks are put in.
        temperature: by which cosines were divided in training; None where it was not trained.

    Raises:
        UserError: a setting out of its range, a language model without a list of layers, or too few positions.
    """

    answer = answer
    encode = encode
    push_to_hub = push_to_hub
    caption = document_writing.caption
    complete = document_writing.complete

    NEEDED: ClassVar[tuple[str, ...]] = ("image", "pixels", "language", "interleaved", "frozen")
    """What its saved config must have."""
    PART = "interleaved"
    SETTINGS = ("max_length", "temperature")

    FREEZABLE: ClassVar[tuple[str, ...]] = (
        *("image", "resampler", "lm", "mark_tokens", "blocks"),
        *("text_pooler", "image_projection", "text_projection"),
    )

    def __init__(
        self,
        image: ImageTower,
        lm: Any,
        *,
        tokenizer: Any,
        pixels: Pixels,
        unimodal_layers: int,
        interval: int = 2,
        compress: int = 2,
        latents: int = 64,
        depth: int = 6,
        heads: int = 8,
        head_width: int = 64,
        embed_dim: int = 512,
        attend: Attend = "latest",
        text_layers: int | None = None,
        attend_padding: bool = False,
        prompt: str = "",
        max_length: int = 128,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        at_least(1, interval=interval, latents=latents, depth=depth, embed_dim=embed_dim)
        at_least(3, max_length=max_length)
        text_layers = unimodal_layers if text_layers is None else text_layers
        layers = len(media_reading.decoder_layers(lm))
        if not 0 <= text_layers <= unimodal_layers < layers:
            raise UserError(
                f"unimodal_layers={unimodal_layers} and text_layers={text_layers}: of the {layers} layers of the "
                "language model at least the last is to see pictures, and a text's vector is read below those that do"
            )
        if attend not in ("latest", "all"):
            raise UserError(f"attend={attend!r}: choose 'latest' or 'all'")
        if image.patch_size is not None:
            raise UserError("an image tower of pictures of any shape gives no fixed number of cells: take another")
        check_words(with_padding(tokenizer))
        word_sequences.ends_of(tokenizer)
        self.tokenizer = with_marks(tokenizer, max_length)
        self.made_of: dict[str, Any] = {"unimodal_layers": unimodal_layers, "interval": interval, "compress": compress}
        self.made_of |= {"latents": latents, "depth": depth, "heads": heads, "head_width": head_width}
        self.made_of |= {"embed_dim": embed_dim, "attend": attend, "text_layers": text_layers}
        self.made_of |= {"attend_padding": attend_padding}
        self.prompt, self.max_length, self.temperature, self.pixels = prompt, max_length, temperature, pixels
        self.frozen: tuple[str, ...] = ()

        image.pool_by("mean")  # nothing reads another summary
        width, attention = int(lm.config.hidden_size), {"heads": heads, "head_width": head_width}
        self.image, self.lm = image, lm
        self.resampler = PerceiverResampler(image.width, depth=depth, latents=latents, **attention)
        self.mark_tokens = MarkTokens(marks_of(self.tokenizer), lm)
        self.blocks = nn.ModuleDict(
            {
                str(place): GatedCrossAttention(width, image.width, compress=compress, **attention)
                for place in range(unimodal_layers, layers, interval)
            }
        )
        self.text_pooler = TextPooler(width, **attention)
        self.image_projection = nn.Linear(image.width, embed_dim, bias=False)
        self.text_projection = nn.Linear(width, embed_dim, bias=False)
        self.check_length(self.max_length)

    @property
    def embed_dim(self) -> int:
        return int(self.made_of["embed_dim"])

    @property
    def device(self) -> torch.device:
        return self.lm.get_input_embeddings().weight.device

    def picture_tokens(self, pixels: Tensor) -> Tensor:
        """The vector for contrast and the tokens `[B, 1 + M, V]` of pixels `[B, 3, S, S]` float32, in the weights'
        dtype: they may stand in the place of pixels wherever there is one picture a text.

        Raises:
            UserError: pixels of another shape than the tower takes.
        """
        pixels = pixels.to(self.device)
        self.image.check_pixels(pixels)
        return self.resampler(self.image(pixels)[:, 1:])

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, D]` of pixels `[B, 3, S, S]` float32, or of several pictures each, `[B, T, 3, S, S]`, in the
        weights' dtype; of unit length with `normalize=True`. No text is read."""
        embedding = self._image_vectors(self._media(pixels))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, D]` of tokens `[B, L]` int64, in the weights' dtype; of unit length with `normalize=True`. No
        picture is read, no layer above the first runs that sees one, and padding on either side changes nothing."""
        words = self.sequences(tokens)
        if not len(words.ids):
            return self.text_projection.weight.new_zeros(0, self.embed_dim)
        with self.mark_tokens.known_to(self.lm):
            states = media_reading.lower_states(self.lm, self.made_of["text_layers"], words.ids, words.mask)
        embedding = self._text_vectors(states, words.mask)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_and_score(
        self,
        pixels: Tensor,
        tokens: Mapping[str, Tensor],
        *,
        counts: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> EmbeddedDocuments:
        """What `encode_image`, `encode_text` and `likelihoods` give, in one pass.

        Args:
            pixels: `[B, 3, S, S]` or `[B, T, 3, S, S]` float32.
            tokens: of the texts, `[B, L]` int64.
            counts: how many of a row's T pictures there are, the first of them, `[B]` int64; None: all.
            rows: the places of those that are embedded, `[R]` int64; None: all.
        """
        media, words = self._media(pixels, counts), self.sequences(tokens)
        with media_reading.states_kept(self.lm, self.made_of["text_layers"]) as kept:
            scores = self._likelihoods(media, words)
        states, mask = kept[0], words.mask
        if rows is not None:
            rows = rows.to(self.device)
            media, states, mask = media[rows], states[rows], mask[rows]
            counts = None if counts is None else counts.to(self.device)[rows]
        return EmbeddedDocuments(self._image_vectors(media, counts), self._text_vectors(states, mask), scores)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long of texts, cut at `max_length`, padded on the right to the
        longest. A text may hold `<visual>` where a picture stands, and `<|endofchunk|>` where what is said of it
        ends."""
        return tokenize(self.tokenizer, texts, self.max_length)

    def sequences(self, tokens: Mapping[str, Tensor], prompt: Prompt = None, *, pictured: bool = True) -> WordSequences:
        """Rows of texts with marks, on the model's device: see `document_rows`.

        Args:
            tokens: as `tokenize` or a loader makes them, `[B, L]` int64. A text without marks is a caption.
            prompt: of captions, one for all, or one for each, as texts or as tokens `[B, L]` int64; None: the model's.
            pictured: False: captions alone, without a picture.
        """
        prompts = word_sequences.prompts_of(
            self.tokenizer, self.prompt if prompt is None else prompt, len(tokens["input_ids"])
        )
        words = document_rows(self.tokenizer, self.mark_tokens.marks, tokens, prompts, pictured=pictured)
        self.check_length(words.ids.shape[1])
        return WordSequences(*(each.to(self.device) for each in words))

    @contextmanager
    def reading(self, pixels: Tensor | None, ids: Tensor) -> Iterator[Any]:
        """The language model `lm` as it is with pictures, for as long as the context lasts: `lm(ids)` and
        `lm.generate(ids)` attend to them, with or without a cache, and what is written behind `ids` sees what their
        last token sees.

        Args:
            pixels: `[B, 3, S, S]` or `[B, T, 3, S, S]` float32, or `picture_tokens` `[B, 1 + M, V]`; None: none.
            ids: of B texts, `[B, L]` int64, with a mark for each picture; padded on any side.

        Raises:
            UserError: more marks than pictures.
        """
        with self.reading_media(self._media(pixels, batch=len(ids)), ids) as lm:
            yield lm

    def logits(self, pixels: Tensor | None, words: WordSequences) -> Tensor:
        """Logits `[B, L - 1, V]` of each token of `words` after the first, in the weights' dtype, given all before it.

        Args:
            pixels: as for `reading`.
            words: as `sequences` makes them.
        """
        return self._logits(self._media(pixels, batch=len(words.ids)), words)

    def likelihoods(
        self, pixels: Tensor | None, tokens: Mapping[str, Tensor], prompt: Prompt = None
    ) -> CaptionLikelihoods:
        """The log-likelihood of each token of texts that is said of a picture, and of the ends of chunks; with a
        gradient.

        Args:
            pixels: as for `reading`; None: the texts alone.
            tokens, prompt: as for `sequences`.

        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import interleaved_model
        >>> model = interleaved_model("tiny-vit", "tiny", tokenizer=train_tokenizer(["a red fox"], 300), depth=1)
        >>> scores = model.likelihoods(torch.rand(2, 3, 64, 64), model.tokenize(["a red fox", "a fox"]))
        >>> scores.log_likelihood.shape == scores.mask.shape, bool((scores.log_likelihood <= 0).all())
        (True, True)
        """
        words = self.sequences(tokens, prompt, pictured=pixels is not None)
        return self._likelihoods(self._media(pixels, batch=len(words.ids)), words)

    def forward(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> CaptionLikelihoods:
        """As `likelihoods` with the model's own prompt."""
        return self.likelihoods(pixels, tokens)

    def _media(self, pixels: Tensor | None, counts: Tensor | None = None, *, batch: int = 0) -> Tensor:
        """`[B, T, 1 + M, V]`; pictures of which a row has fewer are 0, and no time is spent on them."""
        if pixels is None:
            return self.image_projection.weight.new_zeros(batch, 0, 1 + self.made_of["latents"], self.image.width)
        if pixels.ndim == 3:
            return pixels.to(self.device)[:, None]
        if pixels.ndim == 4:
            return self.picture_tokens(pixels)[:, None]
        if counts is None:
            return self.picture_tokens(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        there = torch.arange(pixels.shape[1], device=self.device) < counts.to(self.device)[:, None]
        made = self.picture_tokens(pixels.to(self.device)[there])
        return made.new_zeros(*there.shape, *made.shape[1:]).index_put((there,), made)

    @contextmanager
    def reading_media(self, media: Tensor, ids: Tensor) -> Iterator[Any]:
        times = media_times(ids.to(self.device), self.mark_tokens.marks.picture)
        most = int(times[:, -1:].max()) if times.numel() else 0
        if most > media.shape[1]:
            raise UserError(f"a text has {most} marks <visual>, and there are {media.shape[1]} pictures of it")
        blocks: Any = {int(depth): block for depth, block in self.blocks.items()}
        with (
            self.mark_tokens.known_to(self.lm),
            media_reading.with_media(self.lm, blocks, media[:, :, 1:], times, self.made_of["attend"]),
        ):
            yield self.lm

    def _logits(self, media: Tensor, words: WordSequences) -> Tensor:
        with self.reading_media(media, words.ids) as lm:
            return lm(input_ids=words.ids, attention_mask=words.mask, use_cache=False).logits[:, :-1]

    def _likelihoods(self, media: Tensor, words: WordSequences) -> CaptionLikelihoods:
        targets = words.targets[:, 1:]
        return CaptionLikelihoods(token_log_likelihoods(self._logits(media, words), targets), targets >= 0)

    def _image_vectors(self, media: Tensor, counts: Tensor | None = None) -> Tensor:
        """`[B, D]`: the mean over a row's pictures of their vectors for contrast, projected."""
        vectors = media[:, :, 0]
        if counts is None:
            return self.image_projection(vectors.mean(1))
        # Pictures that are not there are 0.
        return self.image_projection(vectors.sum(1) / counts.to(vectors)[:, None].clamp(min=1))

    def _text_vectors(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.text_projection(self.text_pooler(states, None if self.made_of["attend_padding"] else mask))

    def check_length(self, words: int) -> None:
        """Raise a UserError where so many tokens are more than the language model has positions."""
        positions = getattr(self.lm.config, "max_position_embeddings", None)
        if positions is not None and words > positions:
            raise UserError(
                f"{words} tokens are more than the {positions} positions of the language model: lower max_length, or "
                "put fewer pictures with shorter texts into one document"
            )
