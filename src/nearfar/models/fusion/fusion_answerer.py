"""A fusion model that answers questions about pictures, with a decoder on the fused states (ALBEF, arXiv
2107.07651)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.models.fusion.answer_decoder import AnswerDecoder, rank_answers
from nearfar.models.fusion.fusion_encoder import CrossAttention, FusionEncoder
from nearfar.models.fusion.fusion_model import FusionModel
from nearfar.models.towers.tower import ImageTower
from nearfar.modes import evaluating


class FusionAnswerer(FusionModel):
    """A `FusionModel` with an `AnswerDecoder`, as ALBEF has it for visual question answering. The text tower reads the
    question. `FusionAnswerer.of(trained)` goes on from a trained model.

    Attributes:
        decoder: writes the answer, or ranks candidates by how likely it would write them.
    """

    def __init__(
        self, image: ImageTower, text: FusionEncoder, *, decoder_layers: int | None = None, **settings: Any
    ) -> None:
        super().__init__(image, text, **settings)
        layers = len(text.cross) if decoder_layers is None else decoder_layers
        if layers < 1:
            raise UserError(f"decoder_layers={layers}: a decoder has at least 1")
        like = next(each for each in text.cross.modules() if isinstance(each, CrossAttention))
        self.decoder = AnswerDecoder(
            text.width,
            text.vocabulary,
            layers=layers,
            heads=like.heads,
            longest=text.longest,
            dropout=like.dropout,
        )

    @classmethod
    def of(cls, model: FusionModel, *, decoder_layers: int | None = None) -> Self:
        """An answerer with a copy of a model's weights, adapters and frozen parts. The decoder starts from the last
        fusion layers (see `AnswerDecoder.start_from`) and by default has as many."""
        made = cls._grown(model, decoder_layers=decoder_layers)
        # Adapters are folded in for the decoder, which has none.
        plain = deepcopy(model).merge_lora() if model.adapters else model
        made.decoder.start_from(plain.text, plain.language)
        return made

    def fused_questions(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """Fused states `[B, L, W]` of `pixels` `[B, 3, H, W]`, floating point, and the `tokens` `[B, L]` of their
        questions, row by row."""
        return self.text.fuse(self.text_tokens(tokens), tokens.get("attention_mask"), self.image_tokens(pixels))

    def answer_logits(self, states: Tensor, mask: Tensor, answers: Mapping[str, Tensor]) -> Tensor:
        """Logits `[A, L, V]` of each next token of answers `[A, L]`, from the fused states `[A, N, W]` of the question
        of each, with its `mask` `[A, N]`, int64."""
        return self.decoder(states, mask, answers["input_ids"], answers["attention_mask"])

    def rank_answers(
        self,
        pictures: Any,
        questions: Sequence[str],
        candidates: Sequence[str],
        *,
        k: int = 128,
        exact: bool = False,
        batch_size: int = 64,
    ) -> tuple[Tensor, Tensor]:
        """The likeliest candidates for each of Q questions, best first.

        Args:
            pictures: one a question: PIL pictures, or pixels `[Q, 3, H, W]`.
            questions: Q texts.
            candidates: C different answers to choose from (ALBEF: the 3,128 commonest of training).
            k: candidates a question whose whole likelihood is taken, those whose first token is likeliest.
            exact: count the first token twice, as the released code does.
            batch_size: questions at a time; (question, candidate) pairs go through the decoder four times as many.

        Returns:
            Numbers of the candidates `[Q, k]` int64 and their probabilities `[Q, k]` float32 among the k, on the CPU.

        Raises:
            UserError: not one picture a question, or no candidates.
        """
        if isinstance(questions, str) or isinstance(candidates, str) or len(pictures) != len(questions):
            raise UserError(
                f"{len(pictures)} pictures, {len(questions)} questions: give lists, with one picture a question"
            )
        if not len(candidates):
            raise UserError(
                "no candidate answers: give those to choose from, such as the commonest of the training data"
            )
        options = _on(self.device, self.tokenize(candidates))
        batches = []
        with evaluating(self):
            for start in range(0, len(questions), batch_size):
                part = slice(start, start + batch_size)
                pixels = pictures[part] if isinstance(pictures, Tensor) else self.preprocess(pictures[part])
                tokens = _on(self.device, self.tokenize(questions[part]))
                states = self.fused_questions(pixels, tokens)
                ranked = rank_answers(
                    self.decoder,
                    states,
                    tokens["attention_mask"],
                    options["input_ids"],
                    options["attention_mask"],
                    k=k,
                    exact=exact,
                    batch_size=4 * batch_size,
                )
                batches.append([each.cpu() for each in ranked])
        if not batches:
            return torch.zeros(0, min(k, len(candidates)), dtype=torch.long), torch.zeros(0, min(k, len(candidates)))
        index, probability = zip(*batches, strict=True)
        return torch.cat(index), torch.cat(probability)

    def answer(
        self, pictures: Any, questions: Sequence[str], candidates: Sequence[str], **settings: Any
    ) -> list[tuple[str, float]]:
        """The likeliest candidate for each question, with its probability among those that were ranked to the end.
        Arguments and errors are those of `rank_answers`."""
        index, probability = self.rank_answers(pictures, questions, candidates, **settings)
        return [(candidates[i], p) for i, p in zip(index[:, 0].tolist(), probability[:, 0].tolist(), strict=True)]

    def config(self) -> dict[str, Any]:
        return {**super().config(), "decoder_layers": len(self.decoder.bert.encoder.layer)}


def _on(device: torch.device, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in tokens.items()}
