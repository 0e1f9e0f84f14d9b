"""RITUAL, VCD and M3ID with a vision-language model: what is read, and that cached writing is what is computed anew."""

import pytest
import torch
from PIL import Image

from nearfar.data import train_tokenizer
from nearfar.decoding import ImageConditions, TransformBank, most_certain
from nearfar.decoding.conditions.condition_logits import ConditionRule
from nearfar.decoding.conditions.image_conditions import RULES
from nearfar.decoding.conditions.transform_selectors import entropy
from nearfar.errors import UserError
from nearfar.models import vision_language_model
from nearfar.modes import evaluating

TEXTS = ["a red car", "two small dogs near a tree", "fish"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
VIT |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PROMPTS = ["a red", "", "two small dogs"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = vision_language_model(VIT, "tiny", tokenizer=train_tokenizer(TEXTS * 3, 300), image_size=16, prompt="see:")
    with torch.no_grad():  # fresh weights of this size say nearly the same whatever they read
        for name, weight in made.named_parameters():
            weight.mul_(4 if weight.ndim > 1 and not name.startswith("image") else 1)
    return made.eval()


@pytest.fixture(scope="module")
def pictures():
    draw = torch.Generator().manual_seed(1)
    shades = torch.randint(0, 256, (3, 20, 24, 3), generator=draw, dtype=torch.uint8)
    return [Image.fromarray(each.numpy()) for each in shades]


def recomputed(model, conditions, picture, prompt, most):
    """The likeliest joint token at each place, of one picture, every run read whole each time."""
    pixels = {"own": model.preprocess([picture])}
    rule = conditions.rule
    if rule.takes_positive:
        [(_, changed)] = conditions.transformed(model, [picture], [prompt])
        pixels["positive"] = model.preprocess([changed])
    if rule.takes_negative:
        noisy = rule.contrast == "vcd"
        pixels["negative"] = conditions.noisy(pixels["own"], [prompt]) if noisy else None
    ids = [model.tokenizer.cls_token_id, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    first = len(ids)
    while len(ids) - first < most and ids[-1] != model.tokenizer.sep_token_id:
        words, logits = model.lm.get_input_embeddings()(torch.tensor([ids])), {}
        for role, each in pixels.items():
            inputs = words if each is None else torch.cat([model.picture_tokens(each), words], 1)
            logits[role] = model.lm(inputs_embeds=inputs).logits[0, -1]
        joined = rule(logits["own"], logits.get("positive"), logits.get("negative"), len(ids) - first)
        ids.append(int(joined.argmax()))
    return model.tokenizer.decode(ids[first:], skip_special_tokens=True).strip()


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(RULES))
def test_what_is_written_is_what_is_computed_anew(model, pictures, name):
    # So steep that M3ID counts among nine tokens.
    conditions = ImageConditions.of(name, seed=3, decay=1.0, beta=0.0)
    written = conditions.caption(model, pictures, PROMPTS, max_tokens=9)
    assert written == [
        recomputed(model, conditions, picture, prompt, 9) for picture, prompt in zip(pictures, PROMPTS, strict=True)
    ]
    assert written != model.caption(model.preprocess(pictures), PROMPTS, max_tokens=9)
    # What stands beside a picture changes nothing, nor does its place.
    assert conditions.caption(model, pictures[:0:-1], PROMPTS[:0:-1], max_tokens=9) == written[:0:-1]


def test_the_same_picture_twice_is_what_the_model_writes_by_itself(model, pictures):
    same = ImageConditions(bank=TransformBank({"same": lambda picture, chance, size: picture}))
    plain = model.caption(model.preprocess(pictures), max_tokens=9)
    assert same.caption(model, pictures, max_tokens=9) == plain
    options = {"max_tokens": 9, "do_sample": True, "top_k": 0, "seed": 5}
    assert same.caption(model, pictures, **options) == same.caption(model, pictures, **options)
    alone = ImageConditions(ConditionRule(alpha=0.0, beta=0.0)).caption(model, pictures, **options)
    assert alone == model.caption(model.preprocess(pictures), **options)
    assert ImageConditions.of("ritual", beta=1.0).caption(model, pictures, max_tokens=9) == plain


def test_chance_follows_the_seed_the_picture_and_the_prompt(model, pictures):
    conditions = ImageConditions.of("ritual-vcd", seed=1)
    first, again = (conditions.transformed(model, pictures, "is it?") for _ in range(2))
    other = ImageConditions.of("ritual-vcd", seed=2).transformed(model, pictures, "is it?")
    asking = conditions.transformed(model, pictures, "is it not?")
    bytes_of = [[changed.tobytes() for _, changed in each] for each in (first, again, other, asking)]
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]
    assert bytes_of[0] != bytes_of[3]
    pixels = model.preprocess(pictures)
    noisy = conditions.noisy(pixels, PROMPTS)
    assert torch.equal(noisy[1:], conditions.noisy(pixels[1:], PROMPTS[1:]))
    assert not torch.equal(noisy, ImageConditions.of("vcd", seed=2).noisy(pixels, PROMPTS))
    noise = (noisy - 0.86302 * pixels) / 0.50517
    assert abs(noise.std() - 1) < 0.05
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.15
    state = torch.get_rng_state()
    conditions.caption(model, pictures, max_tokens=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_excluded_changes_are_not_drawn(model, pictures):
    only = ImageConditions.of("ritual", exclude=["horizontal_flip", "vertical_flip", "rotation", "colour_jitter"])
    names = {name for prompt in map(str, range(12)) for name, _ in only.transformed(model, pictures, prompt)}
    assert names == {"gaussian_blur", "random_resized_crop"}


def test_the_model_chooses_the_change_it_is_surest_of(model, pictures):
    chosen = ImageConditions.of("ritual-plus").transformed(model, pictures, PROMPTS)
    for (name, changed), picture, prompt in zip(chosen, pictures, PROMPTS, strict=True):
        choices = TransformBank().all(picture, 16, key=prompt)
        with evaluating(model):
            doubts = {
                each: entropy(model.lm(inputs_embeds=model.beginning(model.preprocess([one]), prompt)[0]).logits[:, -1])
                for each, one in choices.items()
            }
        assert (
            name == min(doubts, key=lambda each: float(doubts[each])) == most_certain(model, picture, prompt, choices)
        )
        assert changed.tobytes() == choices[name].tobytes()


def test_a_selector_of_ones_own_is_handed_everything(model, pictures):
    calls = []

    def last(own, picture, question, transformed):
        calls.append((own is model, picture.size, question))
        return list(transformed)[-1]

    conditions = ImageConditions(selector=last)
    assert {name for name, _ in conditions.transformed(model, pictures)} == {"random_resized_crop"}
    assert calls == [(True, (24, 20), "see:")] * 3
    with pytest.raises(UserError, match="the selector's choice: no transform 'none'"):
        ImageConditions(selector=lambda *everything: "none").transformed(model, pictures)


def test_what_measures_a_model_measures_it_with_conditions(model, pictures):
    conditions = ImageConditions.of("ritual")
    writer = conditions.on(model)
    pixels = writer.preprocess(pictures)
    assert writer.caption(pixels, PROMPTS, max_tokens=5) == conditions.caption(model, pictures, PROMPTS, max_tokens=5)
    assert writer.image_size == 16
    assert not hasattr(writer, "encode_image")


def test_training_mode_and_no_pictures(model, pictures):
    written = ImageConditions.of("ritual").caption(model, pictures, max_tokens=5)
    model.train()
    assert ImageConditions.of("ritual").caption(model, pictures, max_tokens=5) == written
    assert model.training
    model.eval()
    assert ImageConditions.of("vcd").caption(model, []) == []


def test_calls_that_cannot_be_are_named(model, pictures):
    conditions = ImageConditions.of("ritual")
    with pytest.raises(UserError, match="num_beams=2"):
        conditions.caption(model, pictures, num_beams=2)
    with pytest.raises(UserError, match="2 prompts for 3 pictures"):
        conditions.caption(model, pictures, ["a", "b"])
    with pytest.raises(UserError, match="more than the 512 positions"):
        conditions.caption(model, pictures, max_tokens=500)
    with pytest.raises(UserError, match=r"no decoding 'rital'\. Did you mean 'ritual'"):
        ImageConditions.of("rital")
    with pytest.raises(UserError, match="step=1000"):
        ImageConditions(noise_step=1000)
