"""Texts in the place of pictures: which text stands, which are written, and texts without set phrases."""

import pytest
import torch

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.data.fields.answers import vqa_targets
from nearfar.data.fields.text_field import FieldTokenizer
from nearfar.data.texts.frequent_phrases import drop_probabilities, without_set_phrases
from nearfar.data.texts.stand_in_field import StandInField
from nearfar.errors import UserError
from nearfar.evaluation.measures.answer_match import plain_counts, soft

TEXTS = ["a red car", "one car, red", "the thing that drives"]
TOKENIZER = train_tokenizer([*TEXTS, "what is it", "Red", "blue car"] * 3, 300)


class Lengths:
    """The vector of texts is their number and the length of the first; keeps what it was called with."""

    def __init__(self):
        self.called = []

    def __call__(self, groups):
        self.called += [list(group) for group in groups]
        return torch.tensor([[float(len(group)), float(len(group[0]))] for group in groups])


def batch_of(records, targets, caption="first", epoch=0, **reading):
    embed = Lengths()
    field = StandInField(embed, FieldTokenizer(TOKENIZER), targets=targets, caption=caption)
    reading = {"batch_size": len(records), "shuffle": False, "drop_last": False} | reading
    loader = Loader(Records(records, name="texts"), [field], **reading)
    loader.set_epoch(epoch)
    return next(iter(loader)), embed.called


def written(batch):
    most = len(batch["targets"]["input_ids"]) // len(batch["target_count"])
    texts = TOKENIZER.batch_decode(batch["targets"]["input_ids"], skip_special_tokens=True)
    return [
        [text.strip() for text in texts[row * most : row * most + count]]
        for row, count in enumerate(batch["target_count"].tolist())
    ]


def test_the_same_text_is_written():
    batch, stood = batch_of([{"text": ["A Red Car", "other"]}, {"text": "one car, red"}], "same")
    assert stood == [["A Red Car"], ["one car, red"]], "texts stand as they are"
    assert written(batch) == [["a red car"], ["one car, red"]]
    assert torch.equal(batch["stand_in"], torch.tensor([[1.0, 9.0], [1.0, 12.0]]))
    assert "question" not in batch
    assert "image" not in batch


def test_the_other_captions_of_the_picture_are_written():
    batch, stood = batch_of([{"text": TEXTS}, {"text": TEXTS[:2]}], "others")
    assert stood == [[TEXTS[0]], [TEXTS[0]]]
    assert written(batch) == [TEXTS[1:], TEXTS[1:2]]
    assert batch["target_count"].tolist() == [2, 1]
    chosen = set()
    for epoch in range(12):
        batch, stood = batch_of([{"text": TEXTS}], "others", caption="random", epoch=epoch)
        chosen.add(stood[0][0])
        assert sorted([stood[0][0], *written(batch)[0]]) == sorted(TEXTS)
    assert chosen == set(TEXTS)


def test_a_picture_of_one_caption_has_no_other():
    batch, _ = batch_of([{"text": TEXTS}, {"text": "alone"}], "others", max_skipped=0.6)
    assert len(batch["target_count"]) == 1
    with pytest.raises(UserError, match="one caption alone: there is no other to write"):
        batch_of([{"text": "alone"}, {"text": ["alone"]}], "others")


def test_answers_are_written_of_questions_whose_context_stands():
    records = [
        {"text": "What is it", "context": TEXTS, "answers": {"Red": 5, "blue car": 3, "one": 2}},
        {"text": "what is it", "context": TEXTS[1], "answers": "red"},
    ]
    batch, stood = batch_of(records, "answers")
    assert stood == [TEXTS, [TEXTS[1]]]
    assert written(batch) == [["red", "blue car"], ["red"]]
    assert batch["question"] == ["What is it", "what is it"]
    for without, words in (({"context": ""}, "no context"), ({"answers": None}, "no answer")):
        with pytest.raises(UserError, match=words):
            batch_of([records[1] | without], "answers", max_skipped=0.0)
    with pytest.raises(UserError, match="has no 'context'"):
        batch_of([{"text": "a", "answers": "b"}], "answers")
    with pytest.raises(UserError, match="targets='all'"):
        StandInField(Lengths(), FieldTokenizer(TOKENIZER), targets="all")


def test_which_answers_are_targets():
    assert vqa_targets({"cat": 5, "dog": 3, "cow": 2}) == ["cat", "dog"]
    assert vqa_targets({"cat": 2, "dog": 2, "cow": 1}) == ["cat", "dog"]
    assert vqa_targets(["yes"] * 3 + ["no"] * 7) == ["yes", "no"]
    assert vqa_targets([]) == []
    assert [soft("red", plain_counts(counts)) for counts in ({"red": 2}, {"red": 3}, {"Red": 1, "a red": 1})] == (
        pytest.approx([2 / 3, 1, 2 / 3])
    ), "answers that are plainly the same count together"


def test_set_phrases_leave_their_texts_out_by_how_often_they_occur():
    often = ["this is a cat"] * 400
    texts = [*often, *["that was a dog"] * 49, "this is a cat"[:9]]
    probability = drop_probabilities(texts)
    assert probability[0] == 0.5
    assert set(probability[400:]) == {0.0}
    kept = without_set_phrases(texts, seed=1)
    assert len([text for text in kept if text in often]) in range(150, 250)
    assert kept[-50:] == texts[400:]
    assert kept == without_set_phrases(texts, seed=1) != without_set_phrases(texts, seed=2)


def test_phrases_have_four_to_nine_words_in_any_case_and_add_up():
    five, ten = "One two three four five", "a b c d e f g h i j"
    assert drop_probabilities([five, five.lower(), "one two three"] * 2, common=4, divisor=100) == pytest.approx(
        [0.12, 0.12, 0.0] * 2
    )
    # 7 phrases of four words, 6 of five ... 2 of nine, and none of ten.
    assert drop_probabilities([ten] * 2, common=2, divisor=100)[0] == pytest.approx(2 * (7 + 6 + 5 + 4 + 3 + 2) / 100)
    assert drop_probabilities([ten] * 3, common=1, divisor=2) == [1.0] * 3
    with pytest.raises(UserError, match="divisor"):
        drop_probabilities([ten], divisor=0)
