"""PRIOR: weights by a text-only reference, the same tokens in both, and what the reference cannot say."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

import nearfar
from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import PRIOR, Captioning, SimCTG
from nearfar.methods.lvlm.reference_scorer import ReferenceScorer, cross_fitted, in_fold
from nearfar.methods.lvlm.token_weights import prior_token_weights
from nearfar.models import VisionLanguageModel, vision_language_model
from nearfar.models.language import LanguageModel, language_model

TEXTS = ["a red car", "two small dogs near a tree", "fish", "a red fish near a car"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 3, 300)


@pytest.fixture(scope="module")
def reference(tokenizer):
    return sharp(language_model("tiny", tokenizer=tokenizer, seed=5))


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return sharp(vision_language_model(VIT, "tiny", tokenizer=tokenizer, image_size=16))


def sharp(model):
    """Fresh weights of this size are hardly surprised by one word more than by another."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)
    return model.eval()


def batch_of(model, texts=TEXTS):
    pixels = torch.randn(len(texts), 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {"image": pixels, "text": model.tokenize(texts), "index": torch.arange(len(texts))}


def test_the_loss_is_the_formula_caption_by_caption(model, reference):
    model, reference, batch = deepcopy(model).double(), deepcopy(reference).double(), batch_of(model)
    batch["image"] = batch["image"].double()
    total, count = 0.0, 0
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        targets = ids[0, 1:]
        p = reference.lm(input_ids=ids).logits[0, :-1].softmax(-1)[torch.arange(len(targets)), targets]
        inputs = torch.cat([model.picture_tokens(batch["image"][row, None]), model.lm.model.embed_tokens(ids)], 1)
        logits = model.lm(inputs_embeds=inputs).logits[0, 4:-1]
        w = (1 - p) ** 1.5
        total += (len(w) * w / w.sum() * F.cross_entropy(logits, targets, reduction="none")).sum().item()
        count += len(w)
    loss = PRIOR(model, reference=reference, alpha=1.5)(batch)["loss"]
    assert loss.item() == pytest.approx(total / count, rel=1e-9)


def test_without_alpha_and_with_an_even_reference_it_is_plain_prediction(model, reference):
    batch = batch_of(model)
    plain = Captioning(model).eval()(batch)["loss"]
    torch.testing.assert_close(PRIOR(model, reference=reference, alpha=0.0).eval()(batch)["loss"], plain)
    even = deepcopy(reference)
    with torch.no_grad():
        even.lm.lm_head.weight.zero_()
    torch.testing.assert_close(PRIOR(model, reference=even, alpha=2.0).eval()(batch)["loss"], plain)
    assert abs(PRIOR(model, reference=reference, alpha=2.0).eval()(batch)["loss"] - plain) > 1e-4


def test_its_own_words_as_the_reference_are_a_normalised_focal_loss(model):
    """A model that reads no picture, and is its own reference."""
    batch = batch_of(model)
    score, mask = model.likelihoods(None, batch["text"])
    scorer = ReferenceScorer(LanguageModel(deepcopy(model.lm), model.tokenizer), model.tokenizer)
    ours, own = scorer.score(batch["text"])
    assert torch.equal(own, mask)
    torch.testing.assert_close(ours, score, rtol=1e-5, atol=1e-5)


def test_a_prompt_moves_the_weights_to_the_captions_tokens(model, reference):
    prompted = deepcopy(model)
    prompted.prompt = "see:"
    batch = batch_of(model)
    for each in (model, prompted):
        mask = each.likelihoods(batch["image"], batch["text"]).mask
        weights = PRIOR(each, reference=reference).token_weights(batch, mask)
        assert (weights[~mask] == 0).all()
        score, own = ReferenceScorer(reference, model.tokenizer).score(batch["text"])
        torch.testing.assert_close(weights[mask], prior_token_weights(score, own)[own])
        torch.testing.assert_close(weights.sum(1), mask.sum(1).float())


def test_what_stands_beside_a_caption_changes_no_weight(model, reference):
    scorer, tokens = ReferenceScorer(reference, model.tokenizer), model.tokenize(TEXTS)
    weights = scorer.weights(tokens)
    padded = {name: F.pad(each, (0, 3)) for name, each in tokens.items()}
    torch.testing.assert_close(scorer.weights(padded), weights)
    alone = scorer.weights(model.tokenize(TEXTS[2:3]))
    torch.testing.assert_close(alone[0], weights[2, : alone.shape[1]], rtol=1e-4, atol=1e-5)
    [tokens] = scorer.highlighted(TEXTS[2:3])
    assert [round(weight, 3) for _, weight in tokens] == [round(weight, 3) for weight in alone[0].tolist()]
    assert (tokens[0][0][0], tokens[-1][0]) == ("f", "[SEP]")


def test_nothing_of_the_reference_is_trained(model, reference):
    method = PRIOR(deepcopy(model), reference=reference).train()
    assert not method.reference.references[0].training
    before = deepcopy(method.reference.state_dict())
    method(batch_of(model))["loss"].backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in method.reference.parameters())
    assert any(weight.grad is not None for weight in method.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in method.reference.state_dict().items())
    assert all(weight.requires_grad for weight in reference.parameters()), "a copy is frozen"


def test_of_several_references_each_scores_the_captions_that_it_was_not_trained_on(model, tokenizer):
    several = [sharp(language_model("tiny", tokenizer=tokenizer, seed=seed)) for seed in (1, 2)]
    tokens, index = model.tokenize(TEXTS), torch.tensor([4, 7, 1, 0])
    score, _ = ReferenceScorer(several, tokenizer).score(tokens, index)
    first, second = (ReferenceScorer(each, tokenizer).score(tokens)[0] for each in several)
    expected = torch.where(index[:, None] % 2 == 0, first, second)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="batches need 'index'"):
        ReferenceScorer(several, tokenizer).score(tokens)
    source = Records([{"text": text} for text in TEXTS], name="texts")
    rows = cross_fitted(source, lambda part: sorted(part.ids()), folds=2)
    assert rows == [[1, 3], [0, 2]]
    for fold in (-1, 2):
        with pytest.raises(UserError, match="numbered from 0"):
            in_fold(source, fold, 2)


def test_a_tokenizer_without_begin_and_end_leaves_first_token_and_end_a_full_surprise(model, reference):
    from tokenizers.processors import ByteLevel

    bare = deepcopy(model.tokenizer)
    bare.backend_tokenizer.post_processor = ByteLevel()
    words = LanguageModel(deepcopy(reference.lm), bare)
    other = VisionLanguageModel(model.image, model.lm, tokenizer=bare, pixels=model.pixels)
    score, mask = ReferenceScorer(words, bare).score(other.tokenize(TEXTS))
    whole, own = ReferenceScorer(reference, model.tokenizer).score(model.tokenize(TEXTS))
    assert torch.equal(mask, own)
    last = torch.zeros_like(mask).scatter(1, mask.sum(1, keepdim=True) - 1, True)
    assert torch.isneginf(score[:, 0]).all()
    assert torch.isneginf(score[last]).all()
    rest = mask & ~last
    rest[:, 0] = False
    torch.testing.assert_close(score[rest], whole[rest])
    assert PRIOR(other, reference=words)(batch_of(other))["loss"].isfinite()


def test_what_cannot_be_a_reference_is_named(model, reference, tmp_path):
    with pytest.raises(UserError, match="name a language model"):
        PRIOR(model, reference=[])
    with pytest.raises(UserError, match="is a VisionLanguageModel, and no language model"):
        PRIOR(model, reference=model)
    with pytest.raises(UserError, match="has another tokenizer"):
        PRIOR(model, reference=language_model("tiny", tokenizer=train_tokenizer(["quite other words"] * 9, 300)))
    with pytest.raises(UserError, match="alpha=-1"):
        PRIOR(model, reference=reference, alpha=-1)
    with pytest.raises(UserError, match="no language model at"):
        PRIOR(model, reference=str(tmp_path / "none"))
    folder = reference.save_pretrained(tmp_path / "reference")
    own, saved = (PRIOR(model, reference=each).eval()(batch_of(model))["loss"] for each in (reference, folder))
    torch.testing.assert_close(own, saved)


def test_a_reference_that_was_trained_is_surprised_by_what_captions_differ_in(tokenizer):
    texts = [f"here we have a {word}" for word in ("car", "fish", "tree", "dogs")]
    words = language_model("tiny", tokenizer=train_tokenizer(texts * 3, 300))
    source = Records([{"text": text} for text in texts * 8], name="texts")
    nearfar.train(SimCTG(words, weight=0.0), source, steps=60, batch_size=8, lr=3e-3, progress=False, report=False)
    for tokens in ReferenceScorer(words, words.tokenizer).highlighted(texts):
        heaviest = max(tokens, key=lambda each: each[1])
        assert heaviest[1] > 3
        assert texts[0].rsplit(" ", 1)[0].split().count(heaviest[0]) == 0
