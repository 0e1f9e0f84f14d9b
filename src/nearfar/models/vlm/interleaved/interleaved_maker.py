"""Interleaved models by name: an image tower, a language model, and the blocks by which the one sees the other."""

from __future__ import annotations

from typing import Any

from nearfar.errors import at_least
from nearfar.models.towers import backbones
from nearfar.models.vlm.interleaved.gated_block import Attend
from nearfar.models.vlm.interleaved.interleaved_model import InterleavedModel
from nearfar.models.vlm.interleaved.media_reading import decoder_layers
from nearfar.models.vlm.vlm_maker import open_tower, open_words


def interleaved_model(
    image: backbones.Source = "tiny-vit",
    language: Any = "tiny",
    *,
    tokenizer: Any = None,
    unimodal_layers: int | None = None,
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
    image_size: int | None = None,
    pretrained: bool = True,
    seed: int = 0,
) -> InterleavedModel:
    """A language model that reads pictures anywhere in a text, and embeds pictures and texts; tower and language model
    frozen, all else fresh. It writes as the language model does until it is trained (`nearfar.methods.COSMO`).

    Args:
        image: the tower, as for `vision_language_model`: a trained one, such as the folder of a CLIP. It is copied.
        language: a `LanguageModel`, which is copied, or what `nearfar.models.language.language_model` opens; `previous`
            in stages.
        tokenizer: for a language model from scratch. A recipe learns one from the captions.
        unimodal_layers: layers that read words alone, below the first block (COSMO: 12 of 24). None: half of them. 0
            with `interval=1`, `compress=1`: Flamingo (arXiv 2204.14198), without a text embedding that is worth much.
        interval: a block stands before every so many-th layer from there on.
        compress: by which the inner widths of the blocks are divided; 1: not.
        latents: tokens that a picture is for the language model.
        depth: layers of the resampler, which makes them.
        heads, head_width: of its attention, of the blocks' before `compress`, and of the text's query.
        embed_dim: width of the embeddings.
        attend: "latest", a token sees the last picture before it; "all", every one before it (COSMO for OBELICS).
        text_layers: layers after which a text's embedding is read; None: `unimodal_layers`. Released COSMO: one less.
        attend_padding: as released COSMO, a text's embedding takes padding, too.
        prompt: stands between a picture and its caption, such as "Output:".
        max_length: tokens that a text is cut to (COSMO: 32 of captions, 128 of documents).
        image_size: side of the pictures, where the tower's own is not to be taken.
        pretrained: whether a tower given by name or folder comes with its weights.
        seed: of a fresh language model's weights; all else is drawn by PyTorch's own state.

    Raises:
        UserError: no such tower or language model, a missing tokenizer, or a setting out of its range.

    >>> from nearfar.data import train_tokenizer
    >>> model = interleaved_model("tiny-vit", "tiny", tokenizer=train_tokenizer(["a red fox"], 300))
    >>> model.frozen, list(model.blocks), model.embed_dim
    (('image', 'lm'), ['1'], 512)
    """
    at_least(1, image_size=1 if image_size is None else image_size)
    tower, pixels = open_tower(image, image_size, pretrained)
    words = open_words(language, tokenizer, seed)
    model = InterleavedModel(
        tower,
        words.lm,
        tokenizer=words.tokenizer,
        pixels=pixels,
        unimodal_layers=len(decoder_layers(words.lm)) // 2 if unimodal_layers is None else unimodal_layers,
        interval=interval,
        compress=compress,
        latents=latents,
        depth=depth,
        heads=heads,
        head_width=head_width,
        embed_dim=embed_dim,
        attend=attend,
        text_layers=text_layers,
        attend_padding=attend_padding,
        prompt=prompt,
        max_length=max_length,
    )
    return model.freeze("image", "lm")
