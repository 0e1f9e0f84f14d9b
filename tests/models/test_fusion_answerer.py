"""The answerer: what it takes over from a trained model, how it ranks, and that it is saved whole."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from nearfar.errors import UserError
from nearfar.models import FusionAnswerer, FusionClassifier, create, load

QUESTIONS = ["the cat on the mat", "a red fox", "the dog at sea runs"]
CANDIDATES = ["red", "blue", "the cat", "a dog", "left of the ship"]


@pytest.fixture
def base(vit, bert, tokenizer):
    bert |= {"num_hidden_layers": 3, "intermediate_size": 4 * bert["hidden_size"]}
    vit["hidden_size"] = bert["hidden_size"]  # as in ALBEF, so that the cross-attention fits too
    return create(image=vit, text=bert, tokenizer=tokenizer, embed_dim=16, text_layers=1).eval()


@pytest.fixture
def pictures():
    return [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "white")]


def test_the_decoder_starts_from_the_last_fusion_layers(base):
    decoder = FusionAnswerer.of(base).decoder
    backbone = base.text.backbone
    assert len(decoder.bert.encoder.layer) == 2
    for mine, theirs, cross in zip(
        decoder.bert.encoder.layer, backbone.encoder.layer[1:], base.text.cross, strict=True
    ):
        for part in ("attention", "intermediate", "output"):
            for name, value in getattr(theirs, part).state_dict().items():
                assert torch.equal(getattr(mine, part).state_dict()[name], value), f"{part}.{name}"
        assert torch.equal(mine.crossattention.self.key.weight, cross.key.weight)
        assert torch.equal(mine.crossattention.output.LayerNorm.bias, cross.norm.bias)
    assert torch.equal(decoder.bert.embeddings.word_embeddings.weight, backbone.embeddings.word_embeddings.weight)
    assert torch.equal(decoder.language.dense.weight, base.language.dense.weight)
    one = FusionAnswerer.of(base, decoder_layers=1).decoder.bert.encoder.layer
    last = backbone.encoder.layer[-1].attention.self.query.weight
    assert torch.equal(one[0].attention.self.query.weight, last)


def test_nothing_is_shared_and_nothing_left_out(base):
    made = FusionAnswerer.of(base)
    assert made.decoder.start_from(base.text, base.language) == []
    with torch.no_grad():
        made.decoder.bert.embeddings.word_embeddings.weight.zero_()
        made.matching.linear.weight.zero_()
    assert base.text.word_embeddings().abs().sum() > 0
    assert base.matching.linear.weight.abs().sum() > 0


def test_other_text_models_start_fresh_where_they_differ(vit, tokenizer):
    text = {"model_type": "distilbert", "dim": 48, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}
    base = create(image=vit, text=text, tokenizer=tokenizer, embed_dim=16, text_layers=1)
    made = FusionAnswerer.of(base)
    fresh = made.decoder.start_from(base.text, base.language)
    assert any("encoder.layer.0.attention" in name for name in fresh)
    assert not any("word_embeddings" in name for name in fresh)
    assert made.answer(torch.randn(1, 3, 32, 32), QUESTIONS[:1], CANDIDATES)[0][0] in CANDIDATES


@pytest.mark.parametrize("exact", [False, True])
def test_ranking_all_is_by_the_likelihood_of_the_whole_answer(base, pictures, exact):
    made = FusionAnswerer.of(base)
    index, probability = made.rank_answers(pictures, QUESTIONS, CANDIDATES, k=99, exact=exact, batch_size=2)
    assert index.shape == probability.shape == (3, 5)
    for q in range(3):
        tokens, pixels = made.tokenize([QUESTIONS[q]]), made.preprocess(pictures[q : q + 1])
        scores = []
        with torch.no_grad():
            states = made.text.multimodal(tokens, made.image_tokens(pixels))
            for candidate in CANDIDATES:
                answer = made.tokenize([candidate])
                words = made.answer_logits(states, tokens["attention_mask"], answer)[0].log_softmax(-1)
                each = words[:-1].gather(1, answer["input_ids"][0, 1:, None])[:, 0]
                scores.append(each.sum() + (each[0] if exact else 0))
        expected = torch.stack(scores).softmax(0)
        torch.testing.assert_close(probability[q], expected[index[q]], atol=1e-5, rtol=1e-4)
        assert (probability[q].diff() <= 0).all()


def test_batches_and_pixels_give_the_same(base, pictures):
    made = FusionAnswerer.of(base).train()
    one = made.rank_answers(pictures, QUESTIONS, CANDIDATES, k=3, batch_size=1)
    all_ = made.rank_answers(made.preprocess(pictures), QUESTIONS, CANDIDATES, k=3, batch_size=64)
    assert torch.equal(one[0], all_[0])
    torch.testing.assert_close(one[1], all_[1], atol=1e-5, rtol=1e-4)
    assert made.training, "left in the mode it was in"
    best = made.answer(pictures, QUESTIONS, CANDIDATES, k=3)
    assert [text for text, _ in best] == [CANDIDATES[i] for i in one[0][:, 0]]
    assert made.answer([], [], CANDIDATES) == []


def test_saved_and_loaded_whole(base, pictures, tmp_path):
    base.freeze("image")
    made = FusionAnswerer.of(base, decoder_layers=1)
    assert made.frozen == ("image",)
    made.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, FusionAnswerer)
    assert again.frozen == ("image",)
    assert len(again.decoder.bert.encoder.layer) == 1
    a, b = (m.rank_answers(pictures, QUESTIONS, CANDIDATES) for m in (made, again))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


def test_adapters_are_kept_and_folded_into_the_decoder(base):
    pytest.importorskip("peft")
    base.add_lora("text", rank=2)
    with torch.no_grad():
        for name, parameter in base.text.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    made = FusionAnswerer.of(base)
    assert made.adapters == base.adapters
    pixels, tokens = torch.randn(3, 3, 32, 32), made.tokenize(QUESTIONS)
    with torch.no_grad():
        states = base.text.multimodal(tokens, base.image_tokens(pixels))
        torch.testing.assert_close(made.fused_questions(pixels, tokens), states)
    merged = base.merge_lora().text.backbone.encoder.layer[-1].attention.self.query.weight
    torch.testing.assert_close(made.decoder.bert.encoder.layer[-1].attention.self.query.weight, merged)


def test_goes_on_from_a_classifier_and_back(base):
    classifier = FusionClassifier.of(base, classes=4)
    made = FusionAnswerer.of(classifier)
    again = FusionClassifier.of(made, classes=2)
    for name, value in base.state_dict().items():
        assert torch.equal(made.state_dict()[name], value)
        assert torch.equal(again.state_dict()[name], value)


def test_what_cannot_be_answered(base, pictures):
    made = FusionAnswerer.of(base)
    with pytest.raises(UserError, match="3 pictures, 2 questions"):
        made.answer(pictures, QUESTIONS[:2], CANDIDATES)
    with pytest.raises(UserError, match="no candidate answers"):
        made.answer(pictures, QUESTIONS, [])
    with pytest.raises(UserError, match="give lists"):
        made.answer(pictures, "red", CANDIDATES)
    with pytest.raises(UserError, match="at least 1"):
        FusionAnswerer.of(base, decoder_layers=0)
