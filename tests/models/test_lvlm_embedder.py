"""A vision-language model that embeds: what its summary tokens see, what is trained, and the model below to the bit."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import nearfar
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import LVLMEmbedder, VisionLanguageModel, create, lvlm_embedder, vision_language_model
from nearfar.models.dual import lora
from nearfar.models.vlm.soft_prompt import SoftPrompt

TEXTS = ["a red car", "two small dogs near a tree", "fish"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
VIT |= {"intermediate_size": 32}
PROMPTS = {"image_prompt": "a red tree", "text_prompt": "two dogs near"}


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 3, 300)
    model = vision_language_model(VIT, "tiny", tokenizer=tokenizer, image_size=16, prompt="fish:").eval()
    with torch.no_grad():  # fresh weights of this size say nearly the same whatever they read
        for name, weight in model.named_parameters():
            weight.mul_(4 if weight.ndim > 1 and not name.startswith("image") else 1)
    return model


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def moved(base, **settings):
    """An embedder after training: all that is trained is elsewhere."""
    model, chance = lvlm_embedder(base, **{**PROMPTS, "rank": 2, **settings}), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn(weight.shape, generator=chance))
    return model


def ids_of(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_at_first_it_embeds_as_the_base_model_with_the_prompts_as_words(base, pixels):
    model = lvlm_embedder(base, **PROMPTS)
    begin, embed = model.tokenizer.cls_token_id, base.lm.get_input_embeddings()
    prompt = torch.tensor([[begin, *ids_of(model, PROMPTS["image_prompt"])]]).expand(3, -1)
    inputs = torch.cat([base.picture_tokens(pixels), embed(prompt)], 1)
    states = base.lm(inputs_embeds=inputs, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(model.encode_image(pixels), states[:, -1], rtol=1e-5, atol=1e-5)
    for text, ours in zip(TEXTS, model.encode_text(model.tokenize(TEXTS)), strict=True):
        ids = torch.tensor([[begin, *ids_of(model, text), *ids_of(model, PROMPTS["text_prompt"])]])
        states = base.lm(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(ours, states[0, -1], rtol=1e-5, atol=1e-5)
    own, theirs = (m.likelihoods(pixels, m.tokenize(TEXTS), PROMPTS["image_prompt"]) for m in (model, base))
    torch.testing.assert_close(own.log_likelihood, theirs.log_likelihood, rtol=1e-5, atol=1e-5)


def test_no_embedding_of_a_picture_sees_its_caption_which_is_written_from_it(base, pixels):
    model = moved(base)
    tokens = model.tokenize(TEXTS)
    embedding, (score, mask) = model.encode_and_score(pixels, tokens)
    torch.testing.assert_close(embedding, model.encode_image(pixels), rtol=1e-5, atol=1e-5)
    whole = model.likelihoods(pixels, tokens)
    torch.testing.assert_close(score, whole.log_likelihood[:, model.image_prompt.count - 1 :], rtol=1e-4, atol=1e-5)
    assert torch.equal(mask, whole.mask[:, model.image_prompt.count - 1 :])
    assert mask.sum(1).tolist() == [len(ids_of(model, text)) + 1 for text in TEXTS]
    logits = model.lm.lm_head(embedding)[0].log_softmax(0)
    torch.testing.assert_close(score[0, 0], logits[ids_of(model, TEXTS[0])[0]], rtol=1e-4, atol=1e-5)


def test_padding_and_what_stands_beside_a_text_change_nothing(base):
    model = moved(base)
    tokens = model.tokenize(TEXTS)
    whole = model.encode_text(tokens)
    for padding in ((0, 3), (2, 0)):
        fill = {"input_ids": model.tokenizer.pad_token_id, "attention_mask": 0}
        padded = {name: nn.functional.pad(each, padding, value=fill[name]) for name, each in tokens.items()}
        torch.testing.assert_close(model.encode_text(padded), whole, rtol=1e-5, atol=1e-5)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(model.encode_text(model.tokenize([text]))[0], whole[row], rtol=1e-4, atol=1e-4)


def test_prompts_stand_behind_what_they_sum_up(base, pixels):
    model = moved(base)
    assert (model.encode_image(pixels)[0] - model.encode_image(pixels)[1]).abs().max() > 1e-3
    texts = model.encode_text(model.tokenize(["a red car", "a red dog"]))
    assert (texts[0] - texts[1]).abs().max() > 1e-3
    with torch.no_grad():
        model.text_prompt.vectors[0] += 1
    assert not torch.allclose(model.encode_text(model.tokenize(["a red car"])), texts[:1], atol=1e-3)
    before = model.encode_image(pixels)
    with torch.no_grad():
        model.text_prompt.vectors.zero_()
    assert torch.equal(model.encode_image(pixels), before)


def test_without_prompts_and_adapters_it_is_the_base_model_bit_for_bit(base, pixels):
    model = moved(base)
    tokens, written = base.tokenize(TEXTS), base.caption(pixels, max_tokens=6)
    likelihood = base.likelihoods(pixels, tokens).log_likelihood
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert not torch.equal(model.likelihoods(pixels, tokens, base.prompt).log_likelihood, likelihood)
    with model.disabled():
        assert torch.equal(model.likelihoods(pixels, tokens, base.prompt).log_likelihood, likelihood)
        assert model.caption(pixels, base.prompt, max_tokens=6) == written
        as_words = model.encode_image(pixels)
    torch.testing.assert_close(as_words, lvlm_embedder(base, **PROMPTS).encode_image(pixels))
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == trained
    again = model.base_model()
    assert type(again) is VisionLanguageModel
    assert torch.equal(again.likelihoods(pixels, tokens).log_likelihood, likelihood)
    assert again.caption(pixels, max_tokens=6) == written
    state, own = base.state_dict(), again.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in state.items())
    assert lora.is_adapted(model.lm)
    assert not torch.equal(model.encode_image(pixels), as_words)


def test_a_caption_goes_on_from_the_learnt_prompt_or_from_any_other_words(base, pixels):
    model = moved(base)
    tokens = model.tokenize(TEXTS)
    own, named = (model.likelihoods(pixels, tokens, prompt) for prompt in (None, PROMPTS["image_prompt"]))
    assert torch.equal(own.log_likelihood, named.log_likelihood)
    caption = model.encode_and_score(pixels, model.tokenize(["fish near a car"] * 3)).likelihoods
    further = model.likelihoods(pixels, model.tokenize(["near a car"] * 3), PROMPTS["image_prompt"] + " fish")
    torch.testing.assert_close(caption.log_likelihood[:, 1:], further.log_likelihood[further.mask].view(3, -1))
    mixed = model.likelihoods(pixels, tokens, ["fish", PROMPTS["image_prompt"], "a red"])
    with_hard = model.likelihoods(pixels, tokens, "fish")
    torch.testing.assert_close(mixed.log_likelihood[1][mixed.mask[1]], own.log_likelihood[1][own.mask[1]])
    torch.testing.assert_close(mixed.log_likelihood[0][mixed.mask[0]], with_hard.log_likelihood[0][with_hard.mask[0]])
    alike = model.likelihoods(pixels, model.tokenize(["tree"] * 3), "a red")  # words of the prompt, but no prompt
    with torch.no_grad():
        model.image_prompt.vectors.add_(1)
    other = model.likelihoods(pixels, tokens, ["fish", PROMPTS["image_prompt"], "a red"])
    assert torch.equal(other.log_likelihood[::2], mixed.log_likelihood[::2])
    assert not torch.allclose(other.log_likelihood[1], mixed.log_likelihood[1])
    again = model.likelihoods(pixels, model.tokenize(["tree"] * 3), "a red")
    assert torch.equal(alike.log_likelihood, again.log_likelihood)
    assert len(model.caption(pixels, max_tokens=3)) == 3


def test_prompts_and_adapters_are_trained_and_nothing_else(base):
    model = lvlm_embedder(base, **PROMPTS, rank=16)
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name or name in ("image_prompt.vectors", "text_prompt.vectors") for name in trained)
    config = base.lm.config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    a_layer = 4 * 2 * width + 3 * (width + inner)  # four square layers of attention, three of width and inner width
    assert sum(count for name, count in trained.items() if ".lora_" in name) == 16 * a_layer * layers
    assert not any("lm_head" in name for name in trained)
    settings = ({"rank": 0}, {"soft": False}, {"targets": ["q_proj"]})
    made = [lvlm_embedder(base, **PROMPTS, **each) for each in settings]
    kinds = [{name for name, weight in each.named_parameters() if weight.requires_grad} for each in made]
    assert kinds[0] == {"image_prompt.vectors", "text_prompt.vectors"}
    assert all(".lora_" in name for name in kinds[1])
    assert all("q_proj" in name for name in kinds[2] if ".lora_" in name)
    assert not model.train().image.training


def test_a_prompt_starts_with_a_scale_of_the_embeddings(base):
    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 3

    words = Scaled(9, 4)
    torch.testing.assert_close(SoftPrompt([2, 5], words).vectors, 3 * words.weight[[2, 5]])


def test_it_is_saved_with_prompts_and_adapters_and_opened(base, pixels, tmp_path):
    model = moved(base, max_length=20)
    model.temperature = 0.05
    again = nearfar.load(model.save_pretrained(tmp_path / "model"))
    assert isinstance(again, LVLMEmbedder)
    tokens = model.tokenize(TEXTS)
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    assert (again.temperature, again.max_length, again.frozen) == (0.05, 20, model.frozen)
    assert {n for n, w in again.named_parameters() if w.requires_grad} == {
        n for n, w in model.named_parameters() if w.requires_grad
    }
    assert again.base_model().caption(pixels, max_tokens=5) == base.caption(pixels, max_tokens=5)
    assert "Pictures and texts in one space" in (tmp_path / "model" / "README.md").read_text()
    vectors = again.encode(["a red car", np.zeros((16, 16, 3), np.uint8)], normalize_embeddings=True)
    assert vectors.shape == (2, 128)
    whole = lvlm_embedder(base, **PROMPTS, rank=0).unfreeze("lm", "projector")
    assert nearfar.load(whole.save_pretrained(tmp_path / "whole")).frozen == ("image",)


@pytest.mark.parametrize(
    ("value", "words"),
    [({"text_prompt": 3}, "embedder is"),
     ({"text_prompt": "a", "base_prompt": "", "adapters": {"rank": 0}}, "embedder is"),
     ({"text_prompt": "fish", "base_prompt": "", "adapters": None}, "does not fit"), ({"os": "a"}, "embedder is")],
)  # fmt: skip
def test_a_damaged_folder_is_named(base, tmp_path, value, words):
    file = lvlm_embedder(base, **PROMPTS, rank=1).save_pretrained(tmp_path / "model") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"embedder": value}))
    with pytest.raises(UserError, match=words):
        nearfar.load(tmp_path / "model")


def test_settings_that_cannot_be_are_named(base):
    for settings, words in (
        ({"text_prompt": ""}, "text_prompt is empty"),
        ({"rank": -1}, "rank"),
        ({"targets": ["nowhere"]}, "no layer's name ends in nowhere"),
        ({"max_length": 510}, "more than the 512 positions"),
    ):
        with pytest.raises(UserError, match=words):
            lvlm_embedder(base, **{**PROMPTS, **settings})
    for other in (create("tiny", tokenizer=base.tokenizer), lvlm_embedder(base, **PROMPTS)):
        with pytest.raises(UserError, match=f"vlm is a {type(other).__name__}"):
            lvlm_embedder(other)
    assert lvlm_embedder(base, image_prompt="", text_prompt="a").image_prompt.count == 1
    before = deepcopy(base.state_dict())
    moved(base)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_nothing_embeds_as_nothing(base, pixels):
    model = lvlm_embedder(base, **PROMPTS)
    empty = {name: each[:0] for name, each in model.tokenize(["fish"]).items()}
    assert model.encode_image(pixels[:0]).shape == model.encode_text(empty).shape == (0, 128)
    assert model.encode_text(model.tokenize([""])).isfinite().all()
