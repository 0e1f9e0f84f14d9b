"""How well a language model that sees no picture predicts each token of a caption (PRIOR, arXiv 2505.08971)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from os import PathLike
from typing import Any, Self

import torch
from torch import Tensor, nn

from nearfar.errors import UserError
from nearfar.methods.lvlm.token_weights import prior_token_weights
from nearfar.models.language.model import LanguageModel, language_model
from nearfar.models.tokenizer_files import tokenizer_sum
from nearfar.models.vlm.token_likelihoods import token_log_likelihoods
from nearfar.models.vlm.word_sequences import WordSequences, ends_of, with_captions, words_of


class ReferenceScorer(nn.Module):
    """Frozen language models that say how likely each token of a caption is without its picture.

    Their input is begin, caption, end, without picture and prompt. Of several, cross-fitted, each caption has the one
    that was not trained on it: number `index % K` of K, see `in_fold`.

    A reference has a likelihood for a caption's first token if its own texts begin with a token, and for the end if
    they end with one, as those of a learnt tokenizer do. Where they do not, as SmolLM2's, it was never trained on these
    two places: their likelihood is 0 there, and so their surprise 1 in `prior_token_weights`.

    Args:
        references: language models, or what `nearfar.models.language.language_model` opens, one or several; copied.
        tokenizer: of the model whose captions are scored. The references must have the very same.

    Raises:
        UserError: no reference, something else than a language model, or one with another tokenizer.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models.language import language_model
    >>> tokenizer = train_tokenizer(["a red car", "a red cat"], 300)
    >>> scorer = ReferenceScorer(language_model("tiny", tokenizer=tokenizer), tokenizer)
    >>> score, mask = scorer.score(dict(tokenizer(["a red car", "a"], padding=True, return_tensors="pt")))
    >>> mask.sum(1).tolist()[1], bool((score <= 0).all())
    (2, True)
    """

    def __init__(self, references: Any, tokenizer: Any) -> None:
        super().__init__()
        several = references if isinstance(references, (list, tuple)) else [references]
        if not several:
            raise UserError("reference: name a language model, or several that were cross-fitted")
        self.tokenizer = tokenizer
        self.references = nn.ModuleList(_opened(each, tokenizer) for each in several)
        begin, end = ends_of(tokenizer)
        ids = list(tokenizer("a")["input_ids"])
        self.begins, self.ends = ids[:1] == [begin], ids[-1:] == [end]
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def score(self, tokens: Mapping[str, Tensor], index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The log-likelihood of each token of captions, and of their ends, `[B, T]` float32 or wider, and which of them
        there are, `[B, T]` bool; row by row in the captions' order, from the first place on.

        Args:
            tokens: as a tokenizer makes them, `[B, L]` int64.
            index: the samples' ids, `[B]` int64; needed where there are several references.

        Raises:
            UserError: several references and no ids.
        """
        device = next(self.references.parameters()).device
        captions = words_of(self.tokenizer, tokens)
        made = with_captions(self.tokenizer, [[]] * len(captions), captions)
        words = WordSequences(*(each.to(device) for each in made))
        if len(self.references) == 1:
            score = self._scored(self.references[0], words)
        elif index is None:
            raise UserError("several references score captions by the ids of their records: batches need 'index'")
        else:
            fold = index.to(device) % len(self.references)
            score = words.ids.new_zeros(words.ids[:, 1:].shape, dtype=torch.float32)
            for number, reference in enumerate(self.references):
                rows = (fold == number).nonzero().flatten()
                if len(rows):
                    own = self._scored(reference, WordSequences(*(each[rows] for each in words)))
                    score = score.to(own.dtype).index_copy(0, rows, own)
        mask = words.targets[:, 1:] >= 0
        if not self.begins:
            score[:, 0] = -torch.inf
        if not self.ends:
            score = score.masked_fill(mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1), -torch.inf)
        return score, mask

    def weights(self, tokens: Mapping[str, Tensor], *, alpha: float = 1.0, index: Tensor | None = None) -> Tensor:
        """PRIOR's weights of the captions' tokens `[B, L]` int64 and their ends: `[B, T]` float32 or wider, see
        `prior_token_weights`. `index` `[B]` int64 is needed where there are several references."""
        return prior_token_weights(*self.score(tokens, index), alpha=alpha)

    def highlighted(self, texts: Sequence[str], *, alpha: float = 1.0) -> list[list[tuple[str, float]]]:
        """Of each text its tokens, each with its weight: what the loss dwells on. The first reference scores them.

        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models.language import language_model
        >>> tokenizer = train_tokenizer(["a red car"] * 9, 300)
        >>> scorer = ReferenceScorer(language_model("tiny", tokenizer=tokenizer), tokenizer)
        >>> [tokens] = scorer.highlighted(["a red car"])
        >>> [token for token, _ in tokens]
        ['a', 'red', 'car', '[SEP]']
        """
        tokens = self.tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
        index = torch.zeros(len(texts), dtype=torch.long)
        weights, mask = self.weights(tokens, alpha=alpha, index=index), self.score(tokens, index)[1]
        end = ends_of(self.tokenizer)[1]
        rows = []
        for own, row, real in zip(words_of(self.tokenizer, tokens), weights.cpu(), mask.cpu(), strict=True):
            names = [self.tokenizer.decode([token]).strip() for token in [*own, end]]
            rows.append(list(zip(names, row[real].tolist(), strict=True)))
        return rows

    def _scored(self, reference: Any, words: WordSequences) -> Tensor:
        logits = reference.lm(input_ids=words.ids, attention_mask=words.mask, use_cache=False).logits
        return token_log_likelihoods(logits[:, :-1], words.targets[:, 1:])


def in_fold(source: Any, fold: int, folds: int) -> Any:
    """The records of a source that the reference number `fold` of `folds` is trained on: all but those that it scores.

    A caption that several records have is trained on with one of them and scored with another: leave out copies first.

    Args:
        source: whose records are numbered by `index`, or by their places.
        fold: from 0.
        folds: from 2.

    Raises:
        UserError: a number out of its range.

    >>> from nearfar.data import Records
    >>> [record["text"] for record in in_fold(Records([{"text": str(i)} for i in range(6)]), 1, 3)]
    ['0', '2', '3', '5']
    """
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(f"fold={fold} of {folds}: take 2 folds or more, numbered from 0")
    rows = [row for row, own in enumerate(source.ids()) if own % folds != fold]
    return source.select(rows, name=f"{source.name} without fold {fold} of {folds}")


def cross_fitted(source: Any, train: Callable[[Any], LanguageModel], *, folds: int = 2) -> list[LanguageModel]:
    """References of which each was trained on all folds but the one that it scores, so that none has learnt by heart
    what it is to be surprised by.

    Args:
        source: the captions' records.
        train: makes a language model of records.
        folds: how many references.

    Raises:
        UserError: fewer than 2 folds.
    """
    return [train(in_fold(source, fold, folds)) for fold in range(folds)]


def _opened(reference: Any, tokenizer: Any) -> LanguageModel:
    """A copy of a language model with this tokenizer."""
    if isinstance(reference, (str, PathLike)):
        reference = language_model(reference)
    if not isinstance(reference, LanguageModel):
        raise UserError(f"the reference is a {type(reference).__name__}, and no language model: train one on captions")
    if tokenizer_sum(reference.tokenizer) != tokenizer_sum(tokenizer):
        raise UserError(
            "the reference has another tokenizer than the model, and so other tokens: train it on the "
            "same captions with the same vocab_size, or from the same language model"
        )
    return deepcopy(reference)
