"""Rows of texts with pictures in them: where marks are put, and what is to be written."""

import pytest
import torch

from nearfar.data import train_tokenizer
from nearfar.models.vlm.interleaved.document_rows import document_rows, open_rows
from nearfar.models.vlm.interleaved.mark_tokens import Marks, marks_of, with_marks

V, E, BEGIN, END = 90, 91, 1, 2
NO = -100


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a red car"], 300)


def rows_of(tokenizer, *texts, prompt=(), **settings):
    width = max(map(len, texts)) + 2
    ids = [[BEGIN, *text, END] + [0] * (width - len(text) - 2) for text in texts]
    mask = [[1] * (len(text) + 2) + [0] * (width - len(text) - 2) for text in texts]
    tokens = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    return document_rows(tokenizer, Marks(V, E), tokens, [list(prompt)] * len(texts), **settings)


@pytest.mark.parametrize(
    ("text", "row", "targets"),
    [
        ([7, 8], [BEGIN, V, 7, 8, E], [NO, NO, 7, 8, E]),
        ([], [BEGIN, V, E], [NO, NO, E]),
        ([V, 7, 8], [BEGIN, V, 7, 8, E], [NO, NO, 7, 8, E]),
        ([V, 7, V, 8, 8], [BEGIN, V, 7, E, V, 8, 8, E], [NO, NO, 7, E, NO, 8, 8, E]),
        ([7, V, 8], [BEGIN, 7, V, 8, E], [NO, NO, NO, 8, E]),
        ([V, 7, E, 6, V, 8], [BEGIN, V, 7, E, 6, V, 8, E], [NO, NO, 7, E, NO, NO, 8, E]),
        ([V, V, 8], [BEGIN, V, V, 8, E], [NO, NO, NO, 8, E]),
        ([V, 7, V], [BEGIN, V, 7, E, V, E], [NO, NO, 7, E, NO, E]),
        ([V, 7, E], [BEGIN, V, 7, E], [NO, NO, 7, E]),
        ([7, E], [BEGIN, V, 7, E], [NO, NO, 7, E]),
    ],
)
def test_each_chunk_has_its_end_and_words_behind_a_picture_are_written(tokenizer, text, row, targets):
    words = rows_of(tokenizer, text)
    assert words.ids.tolist() == [row]
    assert words.targets.tolist() == [targets]


def test_a_prompt_stands_before_captions_and_is_not_written(tokenizer):
    words = rows_of(tokenizer, [7, 8], [V, 7, 8], prompt=[5, 6])
    assert words.ids.tolist() == [[BEGIN, V, 5, 6, 7, 8, E], [BEGIN, V, 7, 8, E, 0, 0]]
    assert words.targets.tolist() == [[NO, NO, NO, NO, 7, 8, E], [NO, NO, 7, 8, E, NO, NO]]
    assert words.mask.tolist() == [[1] * 7, [1] * 5 + [0] * 2]


def test_a_caption_without_a_picture_is_written_whole(tokenizer):
    words = rows_of(tokenizer, [7, 8], prompt=[5], pictured=False)
    assert words.ids.tolist() == [[BEGIN, 5, 7, 8, E]]
    assert words.targets.tolist() == [[NO, NO, 7, 8, E]]


def test_what_is_gone_on_from_is_open_and_padded_on_the_left(tokenizer):
    words = open_rows(tokenizer, Marks(V, E), [[V, 7, V, 8], [V]])
    assert words.ids.tolist() == [[BEGIN, V, 7, E, V, 8], [0, 0, 0, 0, BEGIN, V]]
    assert words.mask.tolist() == [[1] * 6, [0] * 4 + [1] * 2]
    assert (words.targets == NO).all()


def test_a_tokenizer_learns_the_marks_and_its_copy_is_another(tokenizer):
    own = with_marks(tokenizer, 200)
    picture, end = marks_of(own)
    ids = own("a red <visual> car<|endofchunk|>", add_special_tokens=False)["input_ids"]
    assert ids.count(picture) == ids.count(end) == 1
    assert ids[:4] == own("a red", add_special_tokens=False)["input_ids"][:4]
    assert own.decode(ids, skip_special_tokens=True).split() == ["a", "red", "car"]
    assert (len(own), len(tokenizer), own.model_max_length) == (len(tokenizer) + 2, len(tokenizer), 200)
    again = with_marks(own, 10)
    assert (len(again), marks_of(again), again.model_max_length) == (len(own), (picture, end), 200)
