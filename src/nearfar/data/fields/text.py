"""Captions to tokens: a small vocabulary learnt from the corpus, or any tokenizer of `transformers`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nearfar.errors import UserError
from nearfar.files import why

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
"""The special tokens of a vocabulary learnt here; their ids are their places."""

PUNCTUATION, JOINS = r"[,.'!?\"()*#:;~]", "[-/]"
"""What ALBEF's caption cleaner removes, and what it turns into spaces."""


def load_tokenizer(name: str | os.PathLike[str]) -> Any:
    """The tokenizer of a model, by the name or folder that `transformers` knows it by."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no tokenizer at {os.fspath(name)!r}: {why(error, 'give the name of a model, or its folder')}"
        ) from error


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 4096, *, max_length: int = 64, lowercase: bool = True
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE vocabulary from texts. Every text, emoji too, can be written in it, without `[UNK]`.

    Sequences are `[CLS] text [SEP]`, so the first token is the one that sums up the text. The same texts in the same
    order give the same tokenizer.

    Args:
        texts: the corpus, such as `source.texts()`; a few thousand captions take a second.
        vocab_size: entries in all, 5 special ones and 256 bytes among them; at least 261. A small corpus gives fewer.
        max_length: tokens a text is cut to, special tokens included.
        lowercase: write all in lower case first.

    >>> tokenizer = train_tokenizer(["a red car", "a red cat"] * 10, 300)
    >>> tokenizer.decode(tokenizer("A red cat")["input_ids"])
    '[CLS] a red cat[SEP]'
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    smallest = len(SPECIAL) + 256
    if vocab_size < smallest:
        raise ValueError(f"vocab_size must be at least {smallest} (special tokens and bytes), not {vocab_size}")
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    steps = [normalizers.NFKC(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator((str(text) for text in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        unk_token="[UNK]",
        clean_up_tokenization_spaces=False,
    )


def tokenize(
    tokenizer: Any, texts: Sequence[str], max_length: int | None = None, *, pad_to: int | None = None
) -> dict[str, Tensor]:
    """Token ids and mask of texts.

    Args:
        tokenizer: any tokenizer of `transformers`. One without a padding token pads with its end token.
        texts: N texts; none at all is an error.
        max_length: tokens a text is cut to, by default what the model can take (at most 512).
        pad_to: pad to this length, by default to the longest text here.

    Returns:
        `input_ids` and `attention_mask`, each `[N, L]` long.
    """
    if not len(texts):
        raise ValueError("tokenize needs at least one text")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    most = min(max_length or 512, tokenizer.model_max_length)
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=min(most, pad_to) if pad_to else most,
        padding="max_length" if pad_to else "longest",
        padding_side="right",  # on the left positions would shift from batch to batch
        return_tensors="pt",
        return_attention_mask=True,
    )
    return {key: encoded[key] for key in ("input_ids", "attention_mask")}


def clean_caption(caption: str, max_words: int | None = 30) -> str:
    """ALBEF's caption cleaner (arXiv 2107.07651): lower case, punctuation out, `-` and `/` to spaces, `<person>` to
    `person`, at most `max_words` words.

    >>> clean_caption("A <PERSON>'s well-known cat/dog, (really)!")
    'a persons well known cat dog really'
    """
    text = re.sub(PUNCTUATION, "", caption.lower())
    text = re.sub(JOINS, " ", text).replace("<person>", "person")
    words = text.split()
    return " ".join(words if max_words is None else words[:max_words])


def cleaning(tokenizer: Any) -> Any:
    """A copy of a tokenizer that cleans each text first, as `clean_caption` does. It is saved with the model, so that
    captions of training, evaluation and search are all cleaned. No text is cut to 30 words: cut tokens (`max_length`).

    Raises:
        UserError: the tokenizer is not one of the `tokenizers` package.

    >>> tokenizer = cleaning(train_tokenizer(["a red car"] * 9, 300))
    >>> tokenizer.decode(tokenizer("A red-car, (red)!")["input_ids"])
    '[CLS] a red car red[SEP]'
    """
    from tokenizers import Regex, normalizers
    from transformers import PreTrainedTokenizerFast

    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(
            f"captions cannot be cleaned by a {type(tokenizer).__name__}, which runs in Python: clean them in the data "
            "(nearfar.data.fields.text.clean_caption), or take a tokenizer with a tokenizer.json."
        )
    backend = deepcopy(tokenizer.backend_tokenizer)
    replaced = ((PUNCTUATION, ""), (JOINS, " "), ("<person>", "person"), (r"\s+", " "))
    steps = [normalizers.Lowercase(), *(normalizers.Replace(Regex(old), new) for old, new in replaced)]
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Strip(), *own])
    # A class of one kind of model (BertTokenizer) would make its own normaliser anew when it is read from disk.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **tokenizer.special_tokens_map,
    )
