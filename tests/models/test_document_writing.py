"""What is written behind texts with pictures: with a cache as without, padded or not, behind examples, by beams."""

import pytest
import torch

from models.interleaved_work import PIXELS, made, trained
from nearfar.errors import UserError
from nearfar.models import InterleavedModel


@pytest.fixture(scope="module")
def model():
    return trained(made())


@pytest.fixture(scope="module")
def pixels():
    return PIXELS.clone()


def by_hand(model, media, row, count):
    """The likeliest tokens behind a row of ids, each by a pass over all before it."""
    ids, logits = list(row), []
    marks = model.mark_tokens.marks
    for _ in range(count):
        with model.reading(media, torch.tensor([ids])) as lm:
            last = lm(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        last[marks.picture] = -torch.inf
        logits.append(last)
        ids.append(int(last.argmax()))
        if ids[-1] == marks.end:
            break
    return ids[len(row) :], torch.stack(logits)


@torch.no_grad()
def test_with_a_cache_the_logits_are_those_without(model, pixels):
    words = model.tokenizer("<visual>a red<visual>two", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[model.tokenizer.cls_token_id, *words]])
    _, logits = by_hand(model, pixels[:1], ids[0].tolist(), 5)
    picture, end = model.mark_tokens.marks
    for cached in (True, False):
        with model.reading(pixels[:1], ids) as lm:
            out = lm.generate(
                ids, max_new_tokens=5, do_sample=False, use_cache=cached, suppress_tokens=[picture],
                eos_token_id=end, pad_token_id=0, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        steps = torch.stack(out.logits)[:, 0]
        kept = [n for n in range(steps.shape[1]) if n != picture]
        torch.testing.assert_close(steps[:, kept], logits[: len(steps), kept], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_each_row_is_written_as_if_it_were_alone(model, pixels):
    texts = ["<visual>a red car<visual>two", "fish <visual>a", "<visual>"]
    together = model.complete(pixels, texts, max_tokens=6)
    assert together == [model.complete(pixels[n : n + 1], [text], max_tokens=6)[0] for n, text in enumerate(texts)]
    marks = model.mark_tokens.marks
    for n, text in enumerate(texts):
        row = [model.tokenizer.cls_token_id, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]
        row = row if n else [*row[: row.index(marks.picture, 2)], marks.end, *row[row.index(marks.picture, 2) :]]
        ids, _ = by_hand(model, pixels[n : n + 1], row, 6)
        assert model.tokenizer.decode(ids, skip_special_tokens=True).strip() == together[n]
    assert together != model.complete(-pixels, texts, max_tokens=6)


@torch.no_grad()
def test_a_caption_is_what_stands_behind_its_picture_and_the_prompt(model, pixels):
    written = model.caption(pixels[:, 0], "a red", max_tokens=5)
    assert written == model.complete(pixels[:, :1], ["<visual>a red"] * 3, max_tokens=5)
    assert written == [model.caption(each[None], "a red", max_tokens=5)[0] for each in pixels[:, 0]]
    each_own = model.caption(pixels[:, 0], ["a red", "", "two"], max_tokens=5)
    assert each_own[0] == written[0]
    assert each_own[1] == model.caption(pixels[1:2, 0], "", max_tokens=5)[0]


def test_examples_stand_before_each_picture(model, pixels, monkeypatch):
    calls, reading = [], InterleavedModel.reading_media

    def kept(self, media, ids):
        calls.append((media, ids))
        return reading(self, media, ids)

    monkeypatch.setattr(InterleavedModel, "reading_media", kept)
    behind = model.caption(pixels[:, 0], "a", shots=(pixels[:2, 1], ["fish", "a tree"]), max_tokens=5)
    media = torch.stack([torch.stack([*pixels[:2, 1], each]) for each in pixels[:, 0]])
    document = "<visual>a fish<|endofchunk|><visual>a a tree<|endofchunk|><visual>a"
    assert behind == model.complete(media, [document] * 3, max_tokens=5)
    assert torch.equal(calls[0][1], calls[1][1])
    torch.testing.assert_close(calls[0][0], calls[1][0])
    assert not torch.allclose(calls[0][0][:, 0], calls[0][0][:, 2])


@torch.no_grad()
def test_beams_and_draws(model, pixels):
    one = model.caption(pixels[:, 0], num_beams=1, max_tokens=4)
    assert one == model.caption(pixels[:, 0], max_tokens=4)
    beams = model.caption(pixels[:, 0], num_beams=3, max_tokens=4)
    assert beams == [model.caption(each[None], num_beams=3, max_tokens=4)[0] for each in pixels[:, 0]]
    drawn = [model.caption(pixels[:, 0], do_sample=True, seed=seed, max_tokens=4) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all("<visual>" not in text for text in one + beams)


def test_what_cannot_be_written_is_named(model, pixels):
    assert model.caption(pixels[:0, 0]) == model.complete(pixels[:0], []) == []
    for call, words in (
        (lambda: model.complete(pixels, ["<visual>"]), "3 rows of pictures and 1 texts"),
        (lambda: model.complete(pixels, "<visual>"), "give a list"),
        (lambda: model.complete(pixels[:1, :1], ["<visual>a<visual>"]), "2 marks <visual>, and there are 1 pictures"),
        (lambda: model.caption(pixels[:, 0], shots=(pixels[:2, 0], ["fish"])), "2 pictures and 1 texts"),
        (lambda: model.caption(pixels[:, 0], ["a"]), "1 prompts for 3 pictures"),
        (lambda: model.caption(pixels[:, 0], max_tokens=0), "max_tokens"),
        (lambda: model.caption(pixels[:, 0], max_tokens=200), "more than the 96 positions"),
    ):
        with pytest.raises(UserError, match=words):
            call()


def test_no_mark_is_written_for_a_picture_that_is_not_there(model, pixels):
    """However likely it is."""
    expected = model.complete(pixels[:1], ["<visual>a"], max_tokens=6)

    def likely(module, arguments, out):
        out.logits[..., model.mark_tokens.marks.picture] = 1e4
        return out

    handle = model.lm.register_forward_hook(likely)
    try:
        assert model.complete(pixels[:1], ["<visual>a"], max_tokens=6) == expected
    finally:
        handle.remove()
    assert expected != [""]
