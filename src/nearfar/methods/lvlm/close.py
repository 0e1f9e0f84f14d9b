"""CLOSE (arXiv 2211.09778): a task is learnt from texts alone, and done on pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.data.fields.caption_choice import Caption
from nearfar.data.fields.field import Field
from nearfar.data.fields.text_field import FieldTokenizer
from nearfar.data.sources.source import Source
from nearfar.data.texts.stand_in_field import StandInField, Targets
from nearfar.data.texts.text_adapters import ADAPTERS, FITTED, TextAdapter, scale_for_dim
from nearfar.errors import UserError
from nearfar.methods.base import Batch
from nearfar.methods.lvlm.captioning import Captioning
from nearfar.methods.lvlm.text_vectors import TextVectors, paired_vectors
from nearfar.methods.lvlm.token_weights import Reduction

NOISE = {"same": 0.12, "others": 0.04, "answers": 0.04}
"""The paper's w at 768 dimensions, by what is to be written; for entailment it is 0.08."""


class CLOSE(Captioning):
    """Text vectors stand for pictures in training; pictures take their place afterwards.

        t = norm(mean_j E_t(text_j))         frozen, each text encoded once
        z = norm(a(t) + w e),  e ~ N(0, I)   drawn anew in each step
        L = - mean over tokens of log P(target_i | P(z), question, target_<i)

    E_t and E_v are one frozen image-text model, P a linear layer to tokens of a language model. Afterwards the model
    reads z = norm(E_v(picture)), unchanged.

    Args:
        model: a `nearfar.models.VisionLanguageModel` that reads a picture's embedding (`read="embedding"`). Its image
            side is frozen, and not run in training.
        pair: the image-text model that its image side is of: a model, folder or name; `previous` in stages. Only its
            texts are embedded. It is in no checkpoint.
        targets: what is to be written: "same", the very text that stands for the picture; "others", the other captions
            of its record; "answers" to the record's question, where the texts of its `context` stand for the picture.
            See `nearfar.data.texts.stand_in_field.StandInField`.
        adapter: how text vectors are changed: "noise" (paper), "mean_shift", "covariance", "linear", "fixed_shift", or
            a `TextAdapter`, which is taken as it is.
        noise: w at 768 dimensions; at others it is scaled (`scale_for_dim`). None: the paper's for these targets, 0.12
            for the same text, 0.04 for others and for answers.
        fit_on: pairs of pictures and texts that an adapter by name is fitted by: a source, or what `open_source` takes.
        reduction: "tokens", or "captions" for the mean of each target's own mean.

    The batch has `stand_in` `[B, D]` float32, unit vectors; `targets`, tokens `[B * K, L]` int64, and `target_count`
    `[B]` int64; of questions `question`, a list of B texts. Logs `token_loss`, as `Captioning`. In validation there is
    no noise: the loss is that of texts as they are, and says little of pictures.

    Raises:
        UserError: a model that reads no embeddings, a pair of another width, no such adapter, an adapter that needs
            pairs and has none.

    Example:
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import create, vision_language_model
        >>> tokenizer = train_tokenizer(["a red car", "a red cat"], 300)
        >>> pair = create("tiny", tokenizer=tokenizer)
        >>> model = vision_language_model(pair, "tiny", tokenizer=tokenizer, read="embedding", tokens=4)
        >>> method = CLOSE(model, pair=pair)
        >>> words = model.tokenize(["a red car", "a red cat"])
        >>> batch = {"stand_in": method.texts([["a red car"], ["a red cat"]]), "targets": words}
        >>> sorted(method(batch | {"target_count": torch.tensor([1, 1])}))
        ['loss', 'token_loss']
    """

    pictures = False
    captions = False

    def __init__(
        self,
        model: Any,
        *,
        pair: Any,
        targets: Targets = "same",
        adapter: Any = "noise",
        noise: float | None = None,
        fit_on: Any = None,
        reduction: Reduction = "tokens",
    ) -> None:
        super().__init__(model, reduction=reduction)
        if getattr(model, "space", None) is None:
            raise UserError(
                "CLOSE learns from vectors of texts, and this model reads pictures otherwise: make it with "
                "model.read=embedding and model.image=FOLDER, the image-text model of method.pair"
            )
        if targets not in NOISE:
            raise UserError(f"targets={targets!r}: choose 'same', 'others' or 'answers'")
        self.targets = targets
        self.texts = TextVectors(pair)
        width = model.space["embed_dim"]
        if (own := getattr(self.texts.pair, "embed_dim", width)) != width:
            raise UserError(f"pair embeds texts in {own} numbers, and the model pictures in {width}: name its own pair")
        self.adapter = self._made(adapter, width, noise, fit_on)
        model.freeze("image", "head")

    def _made(self, adapter: Any, width: int, noise: float | None, fit_on: Any) -> TextAdapter:
        if isinstance(adapter, TextAdapter):
            if noise is not None:
                raise UserError("noise goes with an adapter by name: this one has its own")
            return adapter
        if adapter not in ADAPTERS:
            raise UserError(f"adapter={adapter!r}: choose one of {', '.join(ADAPTERS)}, or pass a TextAdapter")
        made = ADAPTERS[adapter](width, scale_for_dim(NOISE[self.targets] if noise is None else noise, width))
        if adapter not in FITTED:
            return made
        if fit_on is None:
            raise UserError(f"adapter={adapter!r} is fitted by pairs: name pictures with captions, fit_on=photos/")
        return made.fit(*paired_vectors(self.texts.pair, fit_on))

    def fields(self, source: Any, training: bool, caption: Caption | None = None) -> list[Field]:
        chosen = ("random" if training else "first") if caption is None else caption
        tokens = FieldTokenizer(self.model.tokenizer, self.model.max_length)
        field = StandInField(self.texts, tokens, targets=self.targets, caption=chosen)
        if isinstance(source, Source):  # a stream's texts are read as they come
            self.texts.read(field.stand_ins(source))
        return [field]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        vectors, counts = self.adapter(batch["stand_in"].to(self.model.device)), batch["target_count"]
        ids = batch["targets"]["input_ids"]
        # The first target_count of each sample's places hold its targets.
        place = torch.arange(len(ids) // len(counts), device=counts.device)
        real = (place < counts[:, None]).flatten()
        owner = torch.arange(len(counts), device=counts.device).repeat_interleave(len(place))[real]
        words = {name: each[real.to(each.device)] for name, each in batch["targets"].items()}
        prompt = [batch["question"][row] for row in owner.tolist()] if "question" in batch else None
        likelihood, mask = self.model.likelihoods(vectors[owner.to(vectors.device)], words, prompt)
        return self.losses(likelihood, mask)
