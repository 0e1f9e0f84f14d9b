"""Pictures and words of a vision-language model in one space: scores as cosines, maps of words, answers chosen."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.models import create, vision_language_model
from nearfar.models.vlm.mean_cosines import token_patch_similarity
from nearfar.models.vlm.patch_word_heatmap import locate, patch_word_heatmap
from nearfar.models.vlm.patch_word_space import PatchWordSpace, ignored_tokens, table_mean, word_rows, word_tokens

TEXTS = ["a red car", "two small dogs near a tree", "fish", "the red fish"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = vision_language_model(VIT, "tiny", tokenizer=train_tokenizer(TEXTS * 3, 300), image_size=32)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)
    return made.eval()


@pytest.fixture
def pixels():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", [1, 2, None])
@pytest.mark.parametrize("center", [False, True])
def test_cosines_of_the_space_are_the_scores(model, pixels, pool, center):
    space = PatchWordSpace(model, pool=pool, center=center, ignore=["a"])
    image, text = space.encode_image(pixels), space.encode_text(space.tokenize(TEXTS))
    assert image.shape == text.shape == (4, space.embed_dim)
    torch.testing.assert_close(torch.cat([image, text]).norm(dim=1), torch.ones(8))
    rows, mask = word_rows(model, model.tokenize(TEXTS), ignored_tokens(model.tokenizer, ["a"]))
    origin = table_mean(model) if center else 0
    scores = token_patch_similarity(model.picture_tokens(pixels) - origin, rows - origin, token_mask=mask, pool=pool)
    torch.testing.assert_close(image @ text.T, scores, rtol=1e-5, atol=1e-6)


def test_words_are_those_of_the_text_and_no_special_tokens(model):
    tokens = model.tokenize(TEXTS)
    assert word_rows(model, tokens)[1].sum(1).tolist() == [3, 6, 1, 3]
    assert word_rows(model, tokens, ignored_tokens(model.tokenizer, ["a", "the"]))[1].sum(1).tolist() == [2, 5, 1, 2]
    padded = {name: F.pad(each, (0, 3)) for name, each in tokens.items()}
    assert word_rows(model, padded)[1].sum(1).tolist() == [3, 6, 1, 3]
    assert not word_rows(model.train(), tokens)[0].requires_grad
    model.eval()


def test_words_are_spelled_as_within_a_caption():
    class Spells:
        """As GPT-2's: another token after a blank."""

        def __call__(self, text, add_special_tokens=True):
            known = {"red": [5], " red": [6], " a": [7], "a": [8], "zebra": [1, 2], " zebra": [3, 1, 2]}
            return {"input_ids": known[text]}

    assert word_tokens(Spells(), ["red", "zebra"]) == [[6], [1, 2]]
    assert ignored_tokens(Spells(), ["a"]) == [7, 8]
    with pytest.raises(UserError, match="'zebra' is 2 tokens"):
        ignored_tokens(Spells(), ["zebra"])


def test_it_is_measured_and_searched_as_any_encoder(model):
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in TEXTS]
    photos = Records([{"image": p, "text": t} for p, t in zip(pictures, TEXTS, strict=True)], name="photos")
    space = PatchWordSpace(model)
    result = evaluate(space, photos, ["retrieval"])["retrieval"]
    image, text = space.encode_image(space.preprocess(pictures)), space.encode_text(space.tokenize(TEXTS))
    top = ((image @ text.T).argmax(1) == torch.arange(4)).float().mean().item()
    assert result["image_to_text_R@1"] == pytest.approx(top)


def test_a_map_is_the_cosine_of_each_place_and_its_mean_the_score(model, pixels):
    heat = patch_word_heatmap(model, pixels[:2], ["red", "red car"])
    assert heat.shape == (2, 4, 4)
    table, tokens = model.lm.get_input_embeddings().weight, model.picture_tokens(pixels[:2])
    red, car = (word_tokens(model.tokenizer, [word])[0][0] for word in ("red", "car"))
    first = F.cosine_similarity(tokens[0], table[red][None], dim=1)
    torch.testing.assert_close(heat[0].flatten(), first, rtol=1e-5, atol=1e-6)
    second = (F.cosine_similarity(tokens[1], table[red][None]) + F.cosine_similarity(tokens[1], table[car][None])) / 2
    torch.testing.assert_close(heat[1].flatten(), second, rtol=1e-5, atol=1e-6)
    space = PatchWordSpace(model, pool=None)
    score = (space.encode_image(pixels[1:2]) @ space.encode_text(space.tokenize(["red car"])).T)[0, 0]
    torch.testing.assert_close(heat[1].mean(), score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(patch_word_heatmap(model, tokens, ["red", "red car"]), heat)
    torch.testing.assert_close(patch_word_heatmap(model, tokens, ["red", "a red car"], ignore=["a"]), heat)
    moved = patch_word_heatmap(model, tokens, ["red", "red car"], center=True)
    origin = table_mean(model)
    first = F.cosine_similarity(tokens[0] - origin, table[red][None] - origin, dim=1)
    torch.testing.assert_close(moved[0].flatten(), first, rtol=1e-5, atol=1e-6)


def test_maps_lie_over_what_was_cut_out_of_the_picture(model):
    pictures = [Image.new("RGB", (80, 40), "red"), Image.new("RGB", (40, 40), "blue")] * 2
    maps, windows = locate(model, pictures, ["red", "car"] * 2, batch_size=3)
    assert windows[:2].tolist() == [[20, 0, 60, 40], [0, 0, 40, 40]]
    assert maps.amin((1, 2)).tolist() == [0] * 4
    heat = patch_word_heatmap(model, model.preprocess(pictures), ["red", "car"] * 2)
    torch.testing.assert_close(maps, heat - heat.amin((1, 2), keepdim=True))


def test_pointing_is_measured_by_the_protocol_of_grounding(model):
    """A projector that reads the first channel of a place: the word stands where it is large."""
    records = []
    for place in range(4):
        picture = Image.new("RGB", (32, 32), "black")
        picture.paste((255, 255, 255), (8 * place, 0, 8 * place + 8, 8))
        records.append({"image": picture, "text": "red", "box": (8 * place, 0, 8 * place + 8, 8)})
    row = model.lm.get_input_embeddings().weight[word_tokens(model.tokenizer, ["red"])[0][0]].detach()

    class Points(type(model)):
        def picture_tokens(self, pixels):
            bright = F.avg_pool2d(pixels, 8).mean(1).flatten(1)
            return bright[..., None] * row + torch.ones_like(row)

    model.__class__, before = Points, type(model)
    try:
        result = evaluate(model, Records(records, name="marks"), ["grounding"])["grounding"]
    finally:
        model.__class__ = before
    assert result["pointing"] == 1.0


@pytest.mark.parametrize("k", [1, 2, 128])
def test_the_likeliest_candidate_is_chosen(model, pixels, k):
    questions = ["a red car", "two small", "fish", "the"]
    candidates = ["red", "small dogs", "fish near a tree", "car", "two"]
    scores = torch.stack(
        [
            model.likelihoods(pixels, model.tokenize([option] * 4), questions).log_likelihood.sum(1)
            for option in candidates
        ],
        1,
    )
    chosen = model.answer(pixels, questions, candidates, k=k, batch_size=3)
    if k > 2:
        assert [text for text, _ in chosen] == [candidates[i] for i in scores.argmax(1).tolist()]
        torch.testing.assert_close(torch.tensor([p for _, p in chosen]), scores.softmax(1).amax(1), rtol=1e-4, atol=0)
    if k == 1:
        first = [model.tokenizer(each)["input_ids"][1] for each in candidates]
        words = model.sequences(model.tokenize([""] * 4), questions)
        likely = model.logits(pixels, words)[words.targets[:, 1:] >= 0][:, first].argmax(1).tolist()
        assert chosen == [(candidates[i], 1.0) for i in likely]
    assert all(0 < p <= 1 for _, p in chosen)


def test_questions_are_measured_by_the_protocol_of_answers(model):
    picture = Image.new("RGB", (32, 32), "red")
    records = [{"image": picture, "text": "two small", "answers": [each]} for each in ("dogs", "fish", "dogs")]
    result = evaluate(model, Records(records, name="questions"), ["answering"])["answering"]
    [(answer, _)] = model.answer([picture], ["two small"], ["dogs", "fish"])
    assert result["accuracy"] == pytest.approx(2 / 3 if answer == "dogs" else 1 / 3)


def test_a_prompt_may_be_tokens_and_pixels_picture_tokens(model, pixels):
    answers, questions = model.tokenize(["red", "fish near", "car", "two"]), ["a red car", "fish", "", "the red"]
    as_texts = model.likelihoods(pixels, answers, questions)
    as_tokens = model.likelihoods(model.picture_tokens(pixels), answers, model.tokenize(questions))
    torch.testing.assert_close(as_texts.log_likelihood, as_tokens.log_likelihood)
    assert torch.equal(as_texts.mask, as_tokens.mask)
    with pytest.raises(UserError, match="there are 3 prompts for 4 pictures"):
        model.likelihoods(pixels, answers, model.tokenize(questions[:3]))


def test_what_cannot_be_is_named(model, pixels):
    for call, said in (
        (lambda: patch_word_heatmap(model, pixels, ["red"]), "4 pictures, 1 texts"),
        (lambda: patch_word_heatmap(model, pixels[:1], ["a"], ignore=["a"]), "'a' has no word that counts"),
        (lambda: locate(model, [], []), "0 pictures, 0 texts"),
        (lambda: locate(model, [Image.new("RGB", (8, 8))], ["red"], layer=2), "layer=2"),
        (lambda: model.answer(pixels, ["red"], ["a"]), "4 pictures, 1 questions"),
        (lambda: model.answer(pixels, TEXTS, []), "no candidate answers"),
        (lambda: model.answer(pixels, TEXTS, ["a"], k=0), "k is 0"),
        (lambda: PatchWordSpace(create("tiny", tokenizer=model.tokenizer)), "a DualEncoder has no picture tokens"),
    ):
        with pytest.raises(UserError, match=said):
            call()
    summary = vision_language_model(VIT, "tiny", tokenizer=model.tokenizer, image_size=32, read="summary")
    with pytest.raises(UserError, match="reads 1 tokens of a picture, which are no square grid"):
        patch_word_heatmap(summary, pixels, TEXTS)
