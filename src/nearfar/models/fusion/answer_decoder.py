"""Answering questions about pictures, as ALBEF does (arXiv 2107.07651): a decoder writes the answer from the fused
states of question and picture, or ranks a list of candidates by how likely it would write them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models.fusion.heads import MaskedLanguageHead
from nearfar.modes import evaluating

if TYPE_CHECKING:
    from nearfar.models.fusion.fusion_encoder import FusionEncoder


class AnswerDecoder(nn.Module):
    """A causal BERT whose every layer attends to the fused states.

    Args:
        width: of the fused states, and of the decoder.
        vocabulary: words of the tokenizer.
        layers: 6 in ALBEF.
        heads: of attention; by default one for each 64 of the width, at least 1.
        longest: tokens an answer may have.
        dropout: in every layer, attention included.

    Attributes:
        bert: the layers, with word embeddings of their own.
        language: from states to words, through those embeddings.

    >>> decoder = AnswerDecoder(16, 30, layers=1, heads=2, longest=8)
    >>> decoder(torch.randn(2, 5, 16), torch.ones(2, 5), torch.ones(2, 4, dtype=torch.long)).shape
    torch.Size([2, 4, 30])
    """

    def __init__(
        self,
        width: int,
        vocabulary: int,
        *,
        layers: int = 6,
        heads: int | None = None,
        longest: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads or max(1, width // 64),
            intermediate_size=4 * width,
            max_position_embeddings=longest,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            is_decoder=True,
            add_cross_attention=True,
            pad_token_id=None,  # padding is masked, and the tokenizer may have another token at 0
        )
        self.bert: Any = BertModel(config, add_pooling_layer=False)
        self.language = MaskedLanguageHead(width, vocabulary, eps=config.layer_norm_eps)

    def forward(self, states: Tensor, mask: Tensor, ids: Tensor, ids_mask: Tensor | None = None) -> Tensor:
        """Logits `[A, L, V]`, at each place of the next token, for answers `[A, L]` and their questions' fused states
        `[A, N, W]` with `mask` `[A, N]`, row by row."""
        output = self.bert(
            input_ids=ids,
            attention_mask=ids_mask,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        return self.language(output.last_hidden_state, self.bert.get_input_embeddings().weight)

    @torch.no_grad()
    def start_from(self, text: FusionEncoder, language: MaskedLanguageHead) -> list[str]:
        """Take the last layers of a trained fusion encoder and its masked language head, as the released code does:
        attention, cross-attention, feed-forward parts, embeddings and head, wherever a weight has its like there (BERT
        and similar models). Returns the names of those that have none and stay fresh."""
        weights = {f"language.{name}": value for name, value in language.state_dict().items()}
        weights |= {f"bert.{name}": value for name, value in text.backbone.state_dict().items() if "embeddings" in name}
        layers = getattr(getattr(text.backbone, "encoder", None), "layer", [])
        for mine, (layer, cross) in enumerate(_last(layers, text.cross, len(self.bert.encoder.layer))):
            name = f"bert.encoder.layer.{mine}."
            weights |= {name + part: value for part, value in layer.state_dict().items()}
            for part, theirs in _CROSS.items():
                weights |= {
                    f"{name}crossattention.{part}.{k}": v for k, v in getattr(cross, theirs).state_dict().items()
                }
        own = self.state_dict()
        taken = {name: weights[name] for name in own if name in weights and weights[name].shape == own[name].shape}
        self.load_state_dict({**own, **taken})
        return [name for name in own if name not in taken]


_CROSS = {
    "self.query": "query",
    "self.key": "key",
    "self.value": "value",
    "output.dense": "out",
    "output.LayerNorm": "norm",
}
"""The parts of BERT's cross-attention, and what they are called in ours."""


def _last(layers: Iterable[Any], cross: Iterable[Any], count: int) -> list[tuple[Any, Any]]:
    """The last `count` fusion layers with their cross-attention; all of them where there are fewer."""
    return list(zip([*layers][::-1], [*cross][::-1], strict=False))[:count][::-1]


def answer_loss(
    logits: Tensor,
    ids: Tensor,
    ids_mask: Tensor,
    *,
    weights: Tensor,
    questions: int,
    teacher_logits: Tensor | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """The weighted negative log-likelihood of answers, a sum over answers divided by the number of questions.

    Args:
        logits: `[A, L, V]`, floating point, of an `AnswerDecoder`.
        ids: `[A, L]` int64: class token, answer, separator, padding; `ids_mask` `[A, L]` is 1 where there is a token.
        weights: `[A]`: each answer's share among those its question got (ALBEF: annotators' frequency).
        questions: how many questions the answers belong to.
        teacher_logits: a momentum teacher's `[A, L, V]`, for distillation with share `alpha`. The released code takes
            this softmax over places instead of words, and never passes alpha: there, distillation is off.

    Returns:
        A scalar; an answer counts with the sum over its tokens.

    Raises:
        ValueError: alpha above 0 without `teacher_logits`.
    """
    losses = token_losses(logits, ids, ids_mask)
    if alpha:
        if teacher_logits is None:
            raise ValueError("alpha > 0 needs teacher_logits")
        soft = -(teacher_logits.detach().softmax(-1) * logits.log_softmax(-1)).sum(-1)[:, :-1] * ids_mask[:, 1:]
        losses = (1 - alpha) * losses + alpha * soft
    return (weights * losses.sum(1)).sum() / questions


def token_losses(logits: Tensor, ids: Tensor, ids_mask: Tensor) -> Tensor:
    """`[A, L - 1]` float32: minus the log-likelihood of each token after the first; 0 at padding. Of `logits` `[A, L,
    V]`, `ids` and `ids_mask` `[A, L]` int64."""
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return nll * ids_mask[:, 1:]


def rank_answers(
    decoder: AnswerDecoder,
    states: Tensor,
    mask: Tensor,
    ids: Tensor,
    ids_mask: Tensor,
    *,
    k: int = 128,
    exact: bool = False,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """The likeliest of C candidate answers for each of Q questions.

    The k candidates whose first token is likeliest are kept, then ordered by the log-likelihood of the whole answer.

    Args:
        states, mask: fused states `[Q, N, W]` of the questions, floating point, and `[Q, N]`.
        ids, ids_mask: the candidates, `[C, L]` int64, all beginning with the same token.
        k: candidates a question; more than C means all.
        exact: count the first token twice, as the released code does.
        batch_size: (question, candidate) pairs at a time.

    Returns:
        Rows of the candidates `[Q, k]` int64, best first, and their probabilities `[Q, k]` among the k.

    Raises:
        UserError: candidates that do not begin alike, or hold no token after the first.
    """
    if ids.shape[1] < 2 or bool((ids[:, 0] != ids[0, 0]).any()):
        raise UserError("candidate answers begin with the same token and hold at least one after it")
    questions = len(states)
    with evaluating(decoder):
        start = decoder(states, mask, ids[:1, :1].expand(questions, -1))[:, 0].log_softmax(-1)  # (Q, V)
        first, kept = start[:, ids[:, 1]].topk(min(k, len(ids)), dim=1)
        row = torch.arange(questions, device=ids.device).repeat_interleave(kept.shape[1])
        total = []
        for q, c in zip(row.split(batch_size), kept.flatten().split(batch_size), strict=True):
            logits = decoder(states[q], mask[q], ids[c], ids_mask[c])
            total.append(-token_losses(logits, ids[c], ids_mask[c]).sum(1))
        score = torch.cat(total).view_as(kept)
        if exact:
            score = score + first
    probability, order = score.softmax(1).sort(dim=1, descending=True, stable=True)
    return kept.gather(1, order), probability
