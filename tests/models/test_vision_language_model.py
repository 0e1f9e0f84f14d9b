"""A picture's tokens before the words of a language model: what it computes, writes, saves and refuses."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import nearfar
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import VisionLanguageModel, create, image_encoder, vision_language_model
from nearfar.models.language import language_model
from nearfar.models.vlm.token_likelihoods import token_log_likelihoods
from nearfar.models.vlm.word_sequences import IGNORED

TEXTS = ["a red car", "two small dogs near a tree", "fish"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
VIT |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def made(**settings):
    torch.manual_seed(0)
    settings = {"tokenizer": train_tokenizer(TEXTS * 3, 300), "image_size": 16} | settings
    model = vision_language_model(VIT, "tiny", **settings).eval()
    with torch.no_grad():  # fresh weights of this size say nearly the same whatever they read
        for name, weight in model.named_parameters():
            weight.mul_(4 if weight.ndim > 1 and not name.startswith("image") else 1)
    return model


@pytest.fixture(scope="module")
def model():
    return made(prompt="see:")


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_its_loss_is_that_of_transformers_with_labels_on_captions_alone(model, pixels):
    exact, words = deepcopy(model).double(), model.sequences(model.tokenize(TEXTS))
    pictures = exact.picture_tokens(pixels.double())
    inputs = torch.cat([pictures, exact.lm.get_input_embeddings()(words.ids)], 1)
    mask = torch.cat([torch.ones(3, 16, dtype=torch.long), words.mask], 1)
    labels = torch.cat([torch.full((3, 16), IGNORED), words.targets], 1)
    theirs = exact.lm(inputs_embeds=inputs, attention_mask=mask, labels=labels)
    loss = nn.functional.cross_entropy(theirs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    score, there = exact.likelihoods(pixels.double(), exact.tokenize(TEXTS))
    assert score.dtype == torch.float64
    torch.testing.assert_close(-score.sum() / there.sum(), loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(theirs.loss.double(), loss, rtol=1e-6, atol=0)  # which is in float32


def test_captions_and_their_ends_are_targets_and_nothing_else(model):
    words = model.sequences(model.tokenize(TEXTS))
    prompt = model.tokenizer("see:", add_special_tokens=False)["input_ids"]
    for text, ids, mask, targets in zip(TEXTS, *(each.tolist() for each in words), strict=True):
        caption = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        row = [model.tokenizer.cls_token_id, *prompt, *caption, model.tokenizer.sep_token_id]
        assert ids[: sum(mask)] == row
        assert [t for t in targets if t != IGNORED] == [*caption, model.tokenizer.sep_token_id]
        assert targets[: 1 + len(prompt)] == [IGNORED] * (1 + len(prompt))
        assert set(targets[sum(mask) :]) <= {IGNORED}


def test_what_stands_beside_a_caption_changes_nothing(model, pixels):
    tokens = model.tokenize(TEXTS)
    score, there = model.likelihoods(pixels, tokens)
    for row, text in enumerate(TEXTS):
        alone, own = model.likelihoods(pixels[row : row + 1], model.tokenize([text]))
        torch.testing.assert_close(score[row][there[row]], alone[own], rtol=1e-4, atol=1e-5)
    padded = {name: nn.functional.pad(each, (0, 3)) for name, each in tokens.items()}
    torch.testing.assert_close(model.likelihoods(pixels, padded).log_likelihood, score)


def test_no_picture_and_another_prompt_are_other_likelihoods(model, pixels):
    tokens = model.tokenize(TEXTS)
    own, alone = model.likelihoods(pixels, tokens), model.likelihoods(None, tokens)
    assert torch.equal(own.mask, alone.mask)
    assert (own.log_likelihood - alone.log_likelihood).abs().max() > 1e-2
    assert (own.log_likelihood - model.likelihoods(pixels.roll(1, 0), tokens).log_likelihood).abs().max() > 1e-3
    words = model.sequences(tokens)
    theirs = model.lm(input_ids=words.ids, attention_mask=words.mask).logits[:, :-1]
    torch.testing.assert_close(model.logits(None, words), theirs, rtol=1e-4, atol=1e-5)
    each = model.likelihoods(pixels, tokens, ["see:", "a red", ""])
    torch.testing.assert_close(each.log_likelihood[0][each.mask[0]], own.log_likelihood[0][own.mask[0]])


def test_log_likelihoods_in_parts_are_those_of_the_whole_and_hold_no_second_array():
    logits = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (3, 5)).index_fill(1, torch.tensor([2]), IGNORED)
    held = []

    def note(tensor):
        held.append(tensor.untyped_storage().data_ptr() if tensor.numel() > 15 else None)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        score = token_log_likelihoods(logits, targets, numbers=8)
    assert {each for each in held if each} <= {logits.untyped_storage().data_ptr()}
    direct = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets >= 0)
    torch.testing.assert_close(score, direct, rtol=1e-13, atol=0)
    ours, theirs = (torch.autograd.grad((each * torch.arange(5.0)).sum(), logits)[0] for each in (score, direct))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    assert token_log_likelihoods(logits.detach().half(), targets).dtype == torch.float32
    assert token_log_likelihoods(torch.zeros(0, 4, 7), torch.zeros(0, 4, dtype=torch.long)).shape == (0, 4)


def recomputed(model, pixels, prompt, most):
    """The likeliest token at each place, every time by the whole sequence anew, of one picture."""
    ids = [model.tokenizer.cls_token_id, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    first, pictures = len(ids), model.picture_tokens(pixels)
    while len(ids) - first < most and ids[-1] != model.tokenizer.sep_token_id:
        words = model.lm.get_input_embeddings()(torch.tensor([ids]))
        ids.append(model.lm(inputs_embeds=torch.cat([pictures, words], 1)).logits[0, -1].argmax().item())
    return model.tokenizer.decode(ids[first:], skip_special_tokens=True).strip()


@torch.no_grad()
@pytest.mark.parametrize("prompt", [None, ["a red", "", "two small dogs"]], ids=["one prompt", "prompts of each"])
def test_what_it_writes_with_a_cache_is_what_it_writes_without(model, pixels, prompt):
    written = model.caption(pixels, prompt, max_tokens=9)
    prompts = prompt or ["see:"] * 3
    assert written == [recomputed(model, pixels[i : i + 1], prompts[i], 9) for i in range(3)]
    assert len(set(written)) > 1
    assert written[1:] == model.caption(pixels[1:], prompt and prompt[1:], max_tokens=9)


def test_what_writing_goes_on_from_is_picture_and_prompt(model, pixels):
    prompts = ["a red", "", "two small dogs"]
    inputs, mask = model.beginning(pixels, prompts)
    lengths = [1 + len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in prompts]
    assert torch.equal(inputs[:, :16], model.picture_tokens(pixels))
    for row, length in enumerate(lengths):
        padding = max(lengths) - length
        assert mask[row].tolist() == [1] * 16 + [0] * padding + [1] * length
        alone, _ = model.beginning(pixels[row : row + 1], prompts[row])
        torch.testing.assert_close(inputs[row, mask[row] > 0], alone[0])
    words, words_mask = model.beginning(None, prompts)
    assert torch.equal(words, inputs[:, 16:])
    assert torch.equal(words_mask, mask[:, 16:])
    assert model.beginning(None)[0].shape[0] == 1
    assert torch.equal(model.beginning(pixels)[0], model.beginning(pixels, ["see:"] * 3)[0])


def test_it_stops_at_the_end_token(pixels):
    model = made()
    with torch.no_grad():
        model.lm.lm_head.weight.zero_()
        model.lm.lm_head = nn.Linear(128, len(model.tokenizer))
        model.lm.lm_head.weight.zero_()
        model.lm.lm_head.bias.copy_(
            nn.functional.one_hot(torch.tensor(model.tokenizer.sep_token_id), len(model.tokenizer))
        )
    assert model.caption(pixels) == ["", "", ""]
    assert model.caption(pixels[:0]) == []


def test_drawn_captions_follow_their_seed_and_leave_the_state_of_chance(model, pixels):
    state = torch.get_rng_state()
    options = {"max_tokens": 8, "do_sample": True, "temperature": 2.0}
    first, again, other = (model.caption(pixels, seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_a_picture_is_read_as_cells_as_averaged_cells_or_as_a_summary(pixels):
    cells, pooled, summary = made(), made(pool=2), made(read="summary")
    assert [each.picture_length for each in (cells, pooled, summary)] == [16, 4, 1]
    tower = cells.image(pixels)[:, 1:]
    torch.testing.assert_close(cells.picture_tokens(pixels), cells.projector(tower))
    corner = tower.view(3, 4, 4, 16)[:, :2, 2:].mean((1, 2))
    torch.testing.assert_close(pooled.picture_tokens(pixels)[:, 1], pooled.projector(corner))
    torch.testing.assert_close(summary.picture_tokens(pixels)[:, 0], summary.projector(summary.image(pixels)[:, 0]))
    torch.testing.assert_close(cells.encode_image(pixels), cells.picture_tokens(pixels).mean(1))
    assert isinstance(made(projector="linear").projector, nn.Linear)


@torch.no_grad()
def test_features_that_were_made_once_stand_in_the_place_of_pixels(pixels):
    for made_of, shape in (({}, (3, 16, 16)), ({"pool": 2}, (3, 4, 16)), ({"read": "summary", "tokens": 2}, (3, 16))):
        model = made(**made_of)
        features = model.picture_features(pixels)
        assert features.shape == shape
        assert torch.equal(model.picture_tokens(features), model.picture_tokens(pixels))
        assert torch.equal(model.encode_image(features), model.encode_image(pixels))
        half = model.picture_tokens(features.half())
        torch.testing.assert_close(half, model.picture_tokens(features.half().float()), rtol=0, atol=0)
        with pytest.raises(UserError, match=r"features \[B, .*16\] .*; these are \[3, .*15\]"):
            model.picture_tokens(features[..., :15])
        if features.ndim == 3:
            with pytest.raises(UserError, match=r"these are \[3, 2, 16\]"):
                model.picture_tokens(features[:, :2])
    with pytest.raises(UserError, match=r"pixels are \[B, 3, 16, 16\] here .* these are \[3, 16, 16, 16, 1\]"):
        made().picture_tokens(torch.zeros(3, 16, 16, 16, 1))
    with pytest.raises(UserError, match=r"pixels are \[B, 3, 16, 16\] here .* these are \[3, 16, 15\]"):
        made().picture_tokens(pixels[0, :, :, :15])


def test_towers_and_language_models_that_are_there_become_parts_of_it(tmp_path):
    words = language_model("tiny", tokenizer=train_tokenizer(TEXTS, 300))
    words.save_pretrained(tmp_path / "words")
    towers = [image_encoder("micro-resnet"), create("tiny", tokenizer=words.tokenizer)]
    towers[0].save_pretrained(tmp_path / "pictures")
    for tower in [*towers, tmp_path / "pictures", "tiny-vit"]:
        model = vision_language_model(tower, tmp_path / "words").eval()
        assert len(model.caption(torch.zeros(1, 3, model.image_size, model.image_size), max_tokens=2)) == 1
    assert vision_language_model(towers[0], words).lm is not words.lm
    assert vision_language_model(towers[0], words, image_size=64).picture_length == 4 * towers[0].image.patches


def test_it_is_saved_with_its_frozen_parts_and_opened(pixels, tmp_path):
    model = made(prompt="see:", pool=2).freeze("image", "lm")
    again = nearfar.load(model.save_pretrained(tmp_path / "model"))
    assert isinstance(again, VisionLanguageModel)
    assert nearfar.load(again) is again
    tokens = model.tokenize(TEXTS)
    assert torch.equal(again.likelihoods(pixels, tokens)[0], model.likelihoods(pixels, tokens)[0])
    assert (again.frozen, again.prompt, again.made_of) == (("image", "lm"), "see:", model.made_of)
    assert again.lm.lm_head.weight is again.lm.get_input_embeddings().weight
    assert "Captions of pictures" in (tmp_path / "model" / "README.md").read_text()
    vectors = again.encode([np.zeros((16, 16, 3), np.uint8)])
    assert vectors.shape == (1, 128)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("vlm", {"read": "all"}, "vlm is"), ("language", {}, "has no 'language.spec'"), ("frozen", ["text"], "'text'"),
     ("language", {"spec": {"library": "os"}}, "language.spec.library"), ("vlm", {"pool": 0}, "vlm is")],
)  # fmt: skip
def test_a_damaged_folder_is_named(model, tmp_path, key, value, words):
    file = model.save_pretrained(tmp_path / "model") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=words):
        nearfar.load(tmp_path / "model")


def test_frozen_parts_get_no_gradient_and_stay_in_evaluation(pixels):
    model = made().freeze("image", "lm").train()
    assert not model.image.training
    assert not model.lm.training
    model.likelihoods(pixels, model.tokenize(TEXTS)).log_likelihood.sum().backward()
    trained = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {"projector"}
    assert model.unfreeze("lm").frozen == ("image",)


def test_a_tokenizer_that_ends_no_text_has_its_end_token_at_both_ends(pixels):
    """As GPT-2's and SmolLM2's."""
    from tokenizers.processors import ByteLevel

    tokenizer = train_tokenizer(TEXTS, 300)
    whole = made(tokenizer=tokenizer)
    bare = deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = ByteLevel()
    model = VisionLanguageModel(whole.image, whole.lm, tokenizer=bare, pixels=whole.pixels)
    model.projector = whole.projector
    assert bare("fish")["input_ids"] == tokenizer("fish")["input_ids"][1:-1]
    ours, theirs = (each.likelihoods(pixels, each.tokenize(TEXTS)) for each in (model, whole))
    assert torch.equal(ours.log_likelihood, theirs.log_likelihood)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"read": "all"}, "read='all'"), ({"read": "summary", "pool": 2}, "leave pool out"),
     ({"pool": 0}, "pool"), ({"projector": "none"}, "projector='none'"), ({"max_length": 2}, "max_length"),
     ({"max_length": 500}, "more than the 512 positions"), ({"tokenizer": None}, "needs a tokenizer"),
     ({"image_size": 0}, "image_size")],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(settings, words):
    with pytest.raises(UserError, match=words):
        made(**settings)


def test_calls_that_cannot_be_are_named(model, pixels):
    with pytest.raises(UserError, match="2 prompts for 3 pictures"):
        model.caption(pixels, ["a", "b"])
    with pytest.raises(UserError, match="more than the 512 positions"):
        model.caption(pixels, max_tokens=500)
    with pytest.raises(UserError, match="no part 'text'"):
        model.freeze("text")
    with pytest.raises(UserError, match="keeps its own tokenizer"):
        vision_language_model("tiny", "smollm2", tokenizer=model.tokenizer)
    larger = train_tokenizer([f"number {i} of {37 * i}" for i in range(200)] * 2, 600)
    with pytest.raises(UserError, match="take its own tokenizer"):
        VisionLanguageModel(model.image, model.lm, tokenizer=larger, pixels=model.pixels)
