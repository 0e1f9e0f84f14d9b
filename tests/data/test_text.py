"""Tokenizers: learnt ones can write everything, give the same each time, and survive being saved."""

import subprocess
import sys

import pytest
import torch

from nearfar.data.fields.text import SPECIAL, clean_caption, cleaning, load_tokenizer, tokenize, train_tokenizer
from nearfar.errors import UserError

CORPUS = [f"a {colour} {thing}" for colour in ("red", "green", "blue") for thing in ("car", "cat", "bicycle")] * 5


def test_special_tokens_come_first_and_a_text_begins_with_cls():
    tokenizer = train_tokenizer(CORPUS, 400)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == [0, 1, 2, 3, 4]
    assert tokenizer.pad_token_id == 0
    tokens = tokenize(tokenizer, ["a red car", "bicycle"])
    assert tokens["input_ids"].dtype == torch.long
    assert tokens["input_ids"][:, 0].tolist() == [1, 1]
    last = tokens["attention_mask"].sum(1) - 1
    assert tokens["input_ids"].gather(1, last[:, None])[:, 0].tolist() == [2, 2]


@pytest.mark.parametrize("text", ["🦕 sauropod", "naïve café", "日本語", "\x00\ufffd", "ﬁne", "a\tb\nc"])
def test_everything_can_be_written_without_unknown(text):
    tokenizer = train_tokenizer(CORPUS, 300)
    ids = tokenizer(text)["input_ids"]
    assert 4 not in ids
    if text == "🦕 sauropod":
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_case_is_folded_unless_asked_otherwise():
    folded, plain = train_tokenizer(CORPUS, 300), train_tokenizer(CORPUS, 300, lowercase=False)
    assert folded("A Red Car")["input_ids"] == folded("a red car")["input_ids"]
    assert plain("A Red Car")["input_ids"] != plain("a red car")["input_ids"]


def test_words_of_the_corpus_become_single_tokens():
    tokenizer = train_tokenizer(CORPUS, 400)
    assert len(tokenizer("a red bicycle")["input_ids"]) == 5
    assert len(tokenizer) <= 400


def test_the_same_corpus_gives_the_same_vocabulary_in_another_process():
    corpus = [f"{a}{b} {b}{a}" for a in "abcdefgh" for b in "abcdefgh"] * 3  # full of ties
    code = (
        "from nearfar.data.fields.text import train_tokenizer\n"
        f"print(train_tokenizer({corpus!r}, 350).backend_tokenizer.to_str())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == train_tokenizer(corpus, 350).backend_tokenizer.to_str()


def test_saved_and_loaded(tmp_path):
    tokenizer = train_tokenizer(CORPUS, 300, max_length=6)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    texts = ["a red car and a great many other things", "x"]
    assert torch.equal(tokenize(again, texts)["input_ids"], tokenize(tokenizer, texts)["input_ids"])
    assert tokenize(again, texts)["input_ids"].shape == (2, 6)


def test_lengths():
    tokenizer = train_tokenizer(CORPUS, 300)
    assert tokenize(tokenizer, ["a red car"] * 2, 4)["input_ids"].shape == (2, 4)
    assert tokenize(tokenizer, ["a red car"], pad_to=16)["input_ids"].shape == (1, 16)
    assert tokenize(tokenizer, ["a red car " * 50], pad_to=16)["attention_mask"].sum() == 16
    assert tokenize(tokenizer, [""])["input_ids"].tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="at least one text"):
        tokenize(tokenizer, [])
    with pytest.raises(ValueError, match="261"):
        train_tokenizer(CORPUS, 100)


def test_a_tokenizer_without_padding_token():
    tokenizer = train_tokenizer(CORPUS, 300)
    tokenizer.pad_token = None
    tokenizer.eos_token = "[SEP]"
    assert tokenize(tokenizer, ["a", "a red car"])["attention_mask"].sum(1).tolist() == [3, 5]


def test_no_such_tokenizer(tmp_path):
    with pytest.raises(UserError, match="no tokenizer at"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("A dog, (running)!", "a dog running"),
        ("well-known <PERSON> w/ cat", "well known person w cat"),
        ("  many   spaces\n", "many spaces"),
        ("", ""),
        ("a;b:c~d#e*f?g\"h'i", "abcdefghi"),
    ],
)
def test_caption_cleaner(raw, clean):
    assert clean_caption(raw) == clean


def test_caption_cleaner_cuts():
    assert clean_caption("w " * 40) == " ".join("w" * 30)
    assert clean_caption("w " * 40, max_words=None) == " ".join("w" * 40)


@pytest.mark.parametrize("text", ["A <PERSON>'s well-known cat/dog, (really)!", "two  cats\n", "", "- / -"])
def test_a_cleaning_tokenizer_reads_a_text_as_the_cleaner_leaves_it(text, tmp_path):
    plain = train_tokenizer(["a person's well known cat", "a dog really"] * 9, 320)
    tokenizer = cleaning(plain)
    expected = plain(clean_caption(text, max_words=None))["input_ids"]
    assert tokenizer(text)["input_ids"] == expected
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)(text)["input_ids"] == expected
    assert plain("well-known")["input_ids"] != tokenizer("well-known")["input_ids"], "the first stays as it was"


def test_a_tokenizer_in_python_cannot_clean():
    with pytest.raises(UserError, match="captions cannot be cleaned by a object"):
        cleaning(object())
