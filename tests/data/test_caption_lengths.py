"""Short and long captions apart: the bounds, the draws, and records that have one kind only."""

import pytest

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.data.texts.caption_lengths_field import CaptionLengths
from nearfar.errors import UserError

TOKENIZER = train_tokenizer(["car dog tree"] * 9, 300, max_length=600)


def words(count, word="car"):
    return " ".join([word] * count)


def loaded(records, lengths=None, epoch=0, **settings):
    settings = {"shuffle": False, "max_length": 600, "caption": "random"} | settings
    loader = Loader(
        Records(records),
        batch_size=len(records),
        tokenizer=TOKENIZER,
        caption_lengths=lengths or CaptionLengths(),
        **settings,
    )
    loader.set_epoch(epoch)
    return next(iter(loader))


def counts(batch, key):
    """The tokens of each row, without begin and end."""
    return (batch[key]["attention_mask"].sum(1) - 2).tolist()


def test_29_tokens_are_short_30_long_and_501_are_cut_to_500():
    batch = loaded([{"text": words(29)}, {"text": words(30)}, {"text": [words(501), words(3)]}])
    assert batch["has_text"].tolist() == [1, 0, 1]
    assert batch["has_long_text"].tolist() == [0, 1, 1]
    assert counts(batch, "text") == [29, 0, 3]
    assert counts(batch, "long_text") == [0, 30, 500]
    assert batch["long_text"]["input_ids"][2, 501] == TOKENIZER.sep_token_id


def test_the_model_s_own_length_may_be_less():
    batch = loaded([{"text": words(90)}], max_length=64)
    assert counts(batch, "long_text") == [62]


def test_one_of_each_kind_is_drawn_and_the_first_taken_in_order():
    record = {"text": [words(6), "dog", words(7), "tree", words(8)]}
    lengths = CaptionLengths(short=5, longest=50)
    drawn = [loaded([record], lengths, epoch) for epoch in range(30)]
    short = {TOKENIZER.decode(each["text"]["input_ids"][0], skip_special_tokens=True).strip() for each in drawn}
    assert short == {"dog", "tree"}
    assert {count for each in drawn for count in counts(each, "long_text")} == {6, 7, 8}
    first = loaded([record], lengths, caption="first")
    assert TOKENIZER.decode(first["text"]["input_ids"][0], skip_special_tokens=True).strip() == "dog"
    assert counts(first, "long_text") == [6]
    alone = loaded([record, {"text": "dog"}], lengths, 3)
    assert counts(alone, "long_text")[0] == counts(drawn[3], "long_text")[0]


def test_a_tokenizer_that_puts_nothing_around_a_text():
    from copy import deepcopy

    from tokenizers.processors import ByteLevel

    bare = deepcopy(TOKENIZER)
    bare.backend_tokenizer.post_processor = ByteLevel()
    records = [{"text": words(3)}, {"text": [words(3), words(9)]}]
    source, lengths = Records(records), CaptionLengths(short=5, longest=8)
    batch = next(iter(Loader(source, batch_size=2, shuffle=False, tokenizer=bare, caption_lengths=lengths)))
    assert batch["long_text"]["attention_mask"].sum(1).tolist() == [0, 8]
    assert batch["text"]["attention_mask"].sum(1).tolist() == [3, 3]
    empty = next(iter(Loader(Records(records[:1]), batch_size=1, tokenizer=bare, caption_lengths=lengths)))
    assert empty["has_long_text"].tolist() == [0]


def test_a_record_without_a_caption_is_left_out():
    records = [{"text": []}, *[{"text": "dog"}] * 9]
    loader = Loader(
        Records(records), batch_size=10, shuffle=False, tokenizer=TOKENIZER, caption_lengths=CaptionLengths()
    )
    assert len(next(iter(loader))["has_text"]) == 9
    assert "no caption" in loader.skipped.reasons(1)


@pytest.mark.parametrize(("short", "longest"), [(0, 5), (6, 5), (30, 0)])
def test_lengths_that_leave_nothing_are_named(short, longest):
    with pytest.raises(UserError, match=f"short={short} and longest={longest}"):
        CaptionLengths(short, longest)
