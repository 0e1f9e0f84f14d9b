"""Texts as labels of texts: words without marks, the names of classes, columns; drawn anew each epoch, numbered alike
wherever they are equal."""

import pytest
import torch

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.data.texts.label_texts_field import KEYS, LabelTexts, label_key, words_of
from nearfar.errors import UserError

RECORDS = [
    {"text": "A red car, a RED bus!", "label": 1, "tags": ["road traffic", "red"]},
    {"text": "two dogs", "label": 0, "tags": "animal"},
    {"text": "...", "label": -1},
]
TOKENIZER = train_tokenizer(["a red car and a red bus", "two dogs", "road traffic animal", "zoo street"] * 3, 400)


def batch(of="words", count=4, epoch=0, records=RECORDS, **settings):
    source = Records(records, classes=["zoo", "street"])
    loader = Loader(
        source,
        batch_size=len(records),
        shuffle=False,
        tokenizer=TOKENIZER,
        label_texts=LabelTexts(of, count),
        **settings,
    )
    loader.set_epoch(epoch)
    return next(iter(loader))


def read(batch):
    """The labels of each sample, without blanks around them."""
    texts = TOKENIZER.batch_decode(batch["label_text"]["input_ids"], skip_special_tokens=True)
    count = len(texts) // len(batch["label_key"])
    return [[text.strip() for text in texts[i : i + count]] for i in range(0, len(texts), count)]


def test_words_of_the_text_each_once():
    made = batch()
    first, second, third = read(made)
    assert sorted(first) == ["a", "bus", "car", "red"]
    assert sorted(second) == ["", "", "dogs", "two"]
    assert third == [""] * 4
    assert made["label_key"].shape == (3, KEYS)
    assert (made["label_key"] > 0).sum(1).tolist() == [4, 2, 0]
    assert second[2:] == ["", ""], "what is empty comes last, as the zeros of the keys do"


def test_the_keys_are_those_of_the_drawn_labels_and_then_of_the_others():
    made = batch(count=2)
    for texts, keys in zip(read(made), made["label_key"], strict=True):
        assert keys[:2].tolist() == [label_key(text) if text else 0 for text in texts]
    assert set(made["label_key"][0, :4].tolist()) == set(map(label_key, ["a", "red", "car", "bus"]))


def test_a_label_has_one_key_in_any_case_and_spacing():
    assert label_key("Road  Traffic") == label_key("road traffic") != label_key("roadtraffic")
    assert all(0 < label_key(str(number)) < 2**63 for number in range(1000))


def test_other_epochs_draw_other_words():
    drawn = {tuple(sorted(read(batch(count=2, epoch=epoch))[0])) for epoch in range(12)}
    assert len(drawn) > 1
    assert read(batch(count=2, epoch=3)) == read(batch(count=2, epoch=3))


def test_names_of_classes_and_columns():
    assert read(batch("classes", 1)) == [["street"], ["zoo"], [""]]
    records = [record | {"tags": record.get("tags", [])} for record in RECORDS]
    assert [sorted(texts) for texts in read(batch("tags", 2, records=records))] == [
        ["red", "road traffic"],
        ["", "animal"],
        ["", ""],
    ]


def test_a_word_has_the_tokens_that_it_has_within_a_text():
    ids = TOKENIZER("the red car", add_special_tokens=False)["input_ids"]
    word = batch("tags", 1, records=[{"text": "x", "tags": "car"}])["label_text"]["input_ids"][0]
    assert word[1:-1].tolist() == ids[-len(word) + 2 :]


@pytest.mark.parametrize(
    ("of", "count", "words"),
    [("words", 0, "0 labels of each text: choose 1 to 64"), ("classes", 2, "needs data with named classes"),
     ("topic", 2, "topic")],
)  # fmt: skip
def test_what_cannot_be_is_named(of, count, words):
    with pytest.raises(UserError, match=words):
        next(
            iter(Loader(Records([{"text": "a"}]), batch_size=1, tokenizer=TOKENIZER, label_texts=LabelTexts(of, count)))
        )


def test_words_of_other_scripts():
    assert words_of("l'été, naïve - 東京 №5_a") == ["l'été", "naïve", "東京", "5", "a"]
    assert words_of("") == []
    assert torch.equal(batch()["label_key"], batch()["label_key"])
