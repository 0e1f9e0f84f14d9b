"""A vision-language model that embeds: pictures and texts in one space, by what it would say of each in one word
(VladVA, arXiv 2412.04378)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError, at_least
from nearfar.models import model_folder
from nearfar.models.dual import lora
from nearfar.models.towers.pixels import Pixels
from nearfar.models.towers.tower import ImageTower
from nearfar.models.vlm import word_sequences
from nearfar.models.vlm.soft_prompt import SoftPrompt
from nearfar.models.vlm.token_likelihoods import token_log_likelihoods
from nearfar.models.vlm.vision_language_model import CaptionLikelihoods, VisionLanguageModel
from nearfar.models.vlm.word_sequences import IGNORED, WordSequences

IMAGE_PROMPT = "summary of the image above in one word:"
TEXT_PROMPT = "summary of the text above in one word:"


class EmbeddedAndScored(NamedTuple):
    """Pictures' embeddings `[B, W]`, in the weights' dtype, and the log-likelihoods of their captions."""

    embedding: Tensor
    likelihoods: CaptionLikelihoods


class LVLMEmbedder(VisionLanguageModel):
    """A dual encoder of one language model. `nearfar.models.lvlm_embedder` makes one of a `VisionLanguageModel`.

        [ picture token 1 ... P ]  begin  image prompt  |  caption  end
        begin  text  text prompt  |

    An embedding is the state of the language model, after its final norm, at the last token of the prompt: the summary
    token, `|`. The prompts are vectors of their own (`SoftPrompt`), that of pictures with the begin token, and stand
    behind what they sum up, so that they attend to all of it. A caption is written from the summary token on, and no
    embedding of a picture depends on one.

    Args:
        image, lm, tokenizer, pixels, projector, read, pool, max_length: as for `VisionLanguageModel`.
        prompt: of pictures. Captions are written behind it, too. A prompt that is passed for a caption and begins with
            it begins with its vectors; any other is read as its tokens.
        text_prompt: of texts.
        base_prompt: the prompt of the model that this one was made of.
        adapters: `rank`, `alpha`, `dropout` and `targets` of LoRA beside the linear layers of the language model, but
            for its output layer; its weights are frozen. None: no adapters.
        temperature: by which cosines were divided in training; None where it was not trained.

    Attributes:
        image_prompt, text_prompt: the `SoftPrompt` of each side.
        temperature: see above. A method starts from it and gives back what it learned.

    Raises:
        UserError: no text prompt, or what `VisionLanguageModel` refuses.
    """

    NEEDED: ClassVar[tuple[str, ...]] = (*VisionLanguageModel.NEEDED, "embedder")

    FREEZABLE: ClassVar[tuple[str, ...]] = (*VisionLanguageModel.FREEZABLE, "image_prompt", "text_prompt")

    def __init__(
        self,
        image: ImageTower,
        lm: Any,
        *,
        tokenizer: Any,
        pixels: Pixels,
        text_prompt: str = TEXT_PROMPT,
        base_prompt: str = "",
        adapters: Mapping[str, Any] | None = None,
        temperature: float | None = None,
        prompt: str = IMAGE_PROMPT,
        **reading: Any,
    ) -> None:
        super().__init__(image, lm, tokenizer=tokenizer, pixels=pixels, prompt=prompt, **reading)
        begin, _ = word_sequences.ends_of(tokenizer)
        of_images, of_texts = (word_sequences.prompts_of(tokenizer, each, 1)[0] for each in (prompt, text_prompt))
        if not of_texts:
            raise UserError("text_prompt is empty: it must hold a word, whose state is the embedding of a text")
        words = lm.get_input_embeddings()
        self.image_prompt = SoftPrompt([begin, *of_images], words)
        self.text_prompt = SoftPrompt(of_texts, words)
        self._check_length(len(of_texts) + self.max_length - self.picture_length)
        self.embedder: dict[str, Any] = {
            "text_prompt": text_prompt,
            "base_prompt": base_prompt,
            "adapters": None if adapters is None else dict(adapters),
        }
        self.temperature = temperature
        self._as_written = False
        if adapters is not None:
            self.lm.requires_grad_(False)
            lora.add(self.lm.base_model, **adapters)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """The summary token's state `[B, W]` of pixels `[B, 3, S, S]` float32, in the weights' dtype; of unit length
        with `normalize=True`."""
        if not len(pixels):
            return self._none()
        states = self._states(*self.beginning(pixels))
        return F.normalize(states[:, -1], dim=-1) if normalize else states[:, -1]

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """The summary token's state `[B, W]` of a dict of tokens `[B, L]` int64, in the weights' dtype; of unit length
        with `normalize=True`. Padding, on either side, changes nothing."""
        begin, _ = word_sequences.ends_of(self.tokenizer)
        texts = word_sequences.words_of(self.tokenizer, tokens)
        if not texts:
            return self._none()
        rows = [[begin, *text, *self.text_prompt.ids] for text in texts]
        ids, mask = word_sequences.padded(rows, self.tokenizer.pad_token_id, left=False)
        ids, mask = ids.to(self.device), mask.to(self.device)
        last = mask.sum(1) - 1
        embedded = self.lm.get_input_embeddings()(ids)
        if not self._as_written:
            embedded = self.text_prompt.placed(embedded, last + 1 - self.text_prompt.count)
        states = self._states(embedded, mask)
        summary = states[torch.arange(len(states), device=states.device), last]
        return F.normalize(summary, dim=-1) if normalize else summary

    def encode_and_score(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> EmbeddedAndScored:
        """What `encode_image` and `likelihoods` give, in one pass of the language model.

        Args:
            pixels: `[B, 3, S, S]` float32.
            tokens: the captions', `[B, L]` int64.

        Returns:
            Embeddings `[B, W]`, and the log-likelihood of each token of the captions and of their ends, `[B, T]`.
        """
        words = self.sequences(tokens)
        inputs, mask = self._inputs(pixels, words)
        # From the summary token on, which the caption's first token is written from.
        first = self.image_prompt.count
        length = words.ids.shape[1] - first + 1
        kept = {"logits_to_keep": length} if "logits_to_keep" in signature(self.lm.forward).parameters else {}
        states: list[Tensor] = []
        hook = self.lm.base_model.register_forward_hook(lambda module, inputs, out: states.append(out[0]))
        try:
            out = self.lm(inputs_embeds=inputs, attention_mask=mask, use_cache=False, **kept)
        finally:
            hook.remove()
        targets = words.targets[:, first:]
        scored = token_log_likelihoods(out.logits[:, -length:][:, :-1], targets)
        return EmbeddedAndScored(states[0][:, -length], CaptionLikelihoods(scored, targets >= 0))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within this context adapters are off and prompts are the tokens that were written by hand: what the model
        that this one was made of makes of the same tokens. It writes as that one with `prompt=` that one's."""
        before, self._as_written = self._as_written, True
        try:
            with lora.disabled(self.lm):
                yield
        finally:
            self._as_written = before

    def base_model(self) -> VisionLanguageModel:
        """The model that this one was made of, without prompts and adapters: a copy, bit for bit, unless its parts were
        trained themselves."""
        own = deepcopy(self)
        lora.remove(own.lm)
        base = VisionLanguageModel(
            own.image,
            own.lm,
            tokenizer=own.tokenizer,
            pixels=own.pixels,
            **own.made_of,
            prompt=own.embedder["base_prompt"],
            max_length=own.max_length,
        )
        base.projector = own.projector
        return base.requires_grad_(True).train(self.training)

    def config(self) -> dict[str, Any]:
        """As that of a `VisionLanguageModel`, with prompts and adapters."""
        return {**super().config(), "embedder": self.embedder, "temperature": self.temperature}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights, adapters in place and frozen parts frozen."""
        fields = dict(config)
        own = fields.pop("embedder")
        return super().from_config({**fields, **own}, tokenizer)

    def _inputs(self, pixels: Tensor | None, words: WordSequences) -> tuple[Tensor, Tensor]:
        """As for any vision-language model, with the learnt vectors where a prompt begins with that of pictures."""
        inputs, mask = super()._inputs(pixels, words)
        prompt, length = self.image_prompt, words.ids.shape[1]
        if self._as_written or length < prompt.count:
            return inputs, mask
        first, is_target = words.mask.argmax(1), words.targets != IGNORED
        ahead = torch.where(is_target.any(1), is_target.int().argmax(1) - first, words.mask.sum(1))
        places = first[:, None] + torch.arange(prompt.count, device=first.device)
        ids = words.ids.gather(1, places.clamp(max=length - 1))
        is_own = (ahead >= prompt.count) & (ids == ids.new_tensor(prompt.ids)).all(1)
        if is_own.all():
            return prompt.placed(inputs, first + inputs.shape[1] - length), mask
        soft = prompt.placed(inputs, (first + inputs.shape[1] - length).clamp(max=inputs.shape[1] - prompt.count))
        return torch.where(is_own[:, None, None], soft, inputs), mask

    def _states(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """States `[B, L, W]` after the final norm."""
        return self.lm.base_model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).last_hidden_state

    def _none(self) -> Tensor:
        """Embeddings of nothing."""
        return self.text_prompt.vectors.new_zeros(0, self.embed_dim)


def lvlm_embedder(
    vlm: Any,
    *,
    image_prompt: str = IMAGE_PROMPT,
    text_prompt: str = TEXT_PROMPT,
    soft: bool = True,
    rank: int = 16,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
    max_length: int | None = None,
) -> LVLMEmbedder:
    """An embedder of pictures and texts around a vision-language model, whose image tower, projector and language
    model are frozen. Untrained, it embeds as that model does with the prompts as they are written.

    Args:
        vlm: a `VisionLanguageModel`, which is copied, or the folder of one that nearfar saved; `previous` in stages.
        image_prompt: stands behind each picture, and before a caption. It may be empty: then the token that begins a
            text is the summary.
        text_prompt: stands behind each text.
        soft: whether the prompts are trained (paper), or stay as written.
        rank: of LoRA beside the linear layers of the language model, but for its output layer (paper: 16). 0: none.
        alpha: what it is scaled by, over its rank (paper: 16).
        dropout: of what it reads.
        targets: the layers, by how their names end, where it is not to be all.
        max_length: tokens that a text is cut to, by default as the model has it.

    Raises:
        UserError: a model of another kind, an empty text prompt, or a setting out of its range.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import vision_language_model
    >>> base = vision_language_model("tiny-vit", tokenizer=train_tokenizer(["a red fox"], 300), pool=2)
    >>> model = lvlm_embedder(base, image_prompt="a picture of", text_prompt="in short:").eval()
    >>> model.encode_text(model.tokenize(["a red fox", "a fox"])).shape
    torch.Size([2, 128])
    """
    at_least(0, rank=rank)
    base = model_folder.read(vlm) if isinstance(vlm, (str, Path)) else vlm
    if type(base) is not VisionLanguageModel:
        raise UserError(
            f"vlm is a {type(base).__name__}: make an embedder of a nearfar.models.vision_language_model, or of the "
            "folder of one"
        )
    own = deepcopy(base)
    settings = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": targets and list(targets)}
    model = LVLMEmbedder(
        own.image,
        own.lm,
        tokenizer=own.tokenizer,
        pixels=own.pixels,
        **own.made_of,
        prompt=image_prompt,
        text_prompt=text_prompt,
        base_prompt=own.prompt,
        adapters=settings if rank else None,
        max_length=own.max_length if max_length is None else max_length,
    )
    model.projector = own.projector
    model.freeze("image", "projector", *(() if rank else ("lm",)), *(() if soft else ("image_prompt", "text_prompt")))
    return model.train(base.training)
