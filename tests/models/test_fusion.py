from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models import DualEncoder, FusionEncoder, FusionModel, MatchScorer, create, load, mask_tokens, rerank
from nearfar.models.fusion.fusion_encoder import CrossAttention
from nearfar.models.towers.backbones import text_tower

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
KIN = {
    "bert": {"model_type": "bert", **SMALL},
    "roberta": {"model_type": "roberta", **SMALL, "pad_token_id": 0},
    "electra": {"model_type": "electra", **SMALL, "embedding_size": 16},
    "distilbert": {"model_type": "distilbert", "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48},
    "modernbert": {"model_type": "modernbert", **SMALL, "global_attn_every_n_layers": 2, "local_attention": 4},
}
TEXTS = ["a red fox", "the ship at sea runs on"]


def fusion(kind, tokenizer, **settings):
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    tower, _ = text_tower({**special, "vocab_size": len(tokenizer), **KIN[kind]})
    return FusionEncoder(tower.backbone, tower.spec, image_width=24, **settings).eval()


@pytest.fixture
def tokens(tokenizer):
    made = tokenizer(TEXTS, padding=True, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


@pytest.fixture
def matcher(vit, bert, tokenizer):
    bert["num_hidden_layers"] = 3
    return create(image=vit, text=bert, tokenizer=tokenizer, embed_dim=16, text_layers=1).eval()


@pytest.mark.parametrize("kind", KIN)
def test_layers_run_as_the_model_runs_them(kind, tokenizer, tokens):
    """With the cross-attention silenced, all layers together are the backbone itself."""
    encoder = fusion(kind, tokenizer, text_layers=1)
    encoder.text_norm = nn.Identity()
    for cross in encoder.cross:
        cross.forward = lambda states, *_, **__: states
    states = encoder.multimodal(tokens, torch.randn(2, 5, 24))
    expected = encoder.backbone(**tokens).last_hidden_state
    real = tokens["attention_mask"].bool()
    torch.testing.assert_close(states[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KIN)
def test_modes_agree_and_every_weight_learns(kind, tokenizer, tokens):
    encoder = fusion(kind, tokenizer)
    image = torch.randn(2, 5, 24)
    text = encoder(tokens)
    fused = encoder.fuse(text, tokens["attention_mask"], image)
    assert text.shape == fused.shape == (*tokens["input_ids"].shape, 32)
    assert torch.equal(encoder.multimodal(tokens, image), fused)
    (fused[:, 0].sum() + fused.std()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_text_mode_does_not_see_the_picture_and_fusion_does(tokenizer, tokens):
    encoder = fusion("bert", tokenizer)
    text = encoder(tokens)
    one, other = (encoder.fuse(text, tokens["attention_mask"], torch.randn(2, 5, 24)) for _ in range(2))
    assert not torch.allclose(one[:, 0], other[:, 0], atol=1e-4)
    image = torch.randn(2, 5, 24, requires_grad=True)
    encoder(tokens).sum().backward()
    assert image.grad is None


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_zero_output_projections_make_fusion_blind(kind, tokenizer, tokens):
    encoder = fusion(kind, tokenizer)
    for cross in encoder.cross:
        nn.init.zeros_(cross.out.weight)
    one, other = (encoder.multimodal(tokens, torch.randn(2, 5, 24)) for _ in range(2))
    assert torch.equal(one[:, 0], other[:, 0])


def test_padding_of_text_and_image_changes_nothing(tokenizer, tokens):
    encoder = fusion("bert", tokenizer)
    image = torch.randn(1, 5, 24)
    short = {name: value[:1, :5] for name, value in tokens.items()}
    padded = {name: value[:1] for name, value in tokens.items()}
    expected = encoder.multimodal(short, image)
    torch.testing.assert_close(encoder.multimodal(padded, image)[:, :5], expected)
    more = torch.cat([image, torch.randn(1, 2, 24)], dim=1)
    attended = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    torch.testing.assert_close(encoder.multimodal(short, more, attended), expected)


def test_cross_attention_against_the_formula_and_its_maps():
    cross = CrossAttention(12, 6, heads=3).eval()
    states, image = torch.randn(2, 4, 12), torch.randn(2, 5, 6)
    q, k, v = (f(x).unflatten(-1, (3, 4)) for f, x in ((cross.query, states), (cross.key, image), (cross.value, image)))
    weights = (torch.einsum("blhd,bnhd->bhln", q, k) / 2).softmax(-1)
    attended = torch.einsum("bhln,bnhd->blhd", weights, v).flatten(2)
    expected = F.layer_norm(states + cross.out(attended), (12,), cross.norm.weight, cross.norm.bias, 1e-12)
    torch.testing.assert_close(cross(states, image), expected)
    maps: list[torch.Tensor] = []
    torch.testing.assert_close(cross(states, image, maps=maps), expected)
    torch.testing.assert_close(maps[0], weights)
    mask = torch.tensor([[1, 1, 0, 1, 1]] * 2)
    masked: list[torch.Tensor] = []
    torch.testing.assert_close(cross(states, image, mask, maps=masked), cross(states, image, mask))
    assert masked[0][..., 2].eq(0).all()


def test_a_picture_that_several_texts_look_at_is_read_once():
    cross = CrossAttention(12, 6, heads=3).eval()
    states, image, rows = torch.randn(4, 3, 12), torch.randn(2, 5, 6), torch.tensor([1, 0, 1, 1])
    mask, read = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 1]]), list[int]()
    cross.key.register_forward_hook(lambda *call: read.append(len(call[-1])))
    for each in (None, mask):
        expected = cross(states, image[rows], None if each is None else each[rows])
        torch.testing.assert_close(cross(states, image, each, rows=rows), expected)
    assert read == [4, 2, 4, 2]


def test_fresh_cross_attention_has_the_papers_spread():
    weights = torch.cat(
        [p.flatten() for n, p in CrossAttention(256, 192, 4).named_parameters() if n.endswith("t") and p.ndim == 2]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(weights.mean().item()) < 1e-3


def test_attention_maps_carry_the_gradient_of_the_match(matcher):
    pixels, tokens = torch.randn(2, 3, 32, 32), matcher.tokenize(TEXTS)
    maps: list[torch.Tensor] = []
    fused = matcher.text.multimodal(tokens, matcher.image_tokens(pixels), maps=maps)
    score = matcher.matching(fused)[:, 1].sum()
    grads = torch.autograd.grad(score, maps)
    assert [tuple(m.shape) for m in maps] == [(2, 2, 8, 17)] * 2
    assert all(g.abs().sum() > 0 for g in grads)


def test_layers_must_be_left_to_both_sides(tokenizer):
    for n in (0, 3):
        with pytest.raises(UserError, match=f"text_layers={n} of 3"):
            fusion("bert", tokenizer, text_layers=n)
    tower, _ = text_tower({"model_type": "llama", **SMALL, "vocab_size": 20, "num_key_value_heads": 2})
    with pytest.raises(UserError, match="not built like BERT"):
        FusionEncoder(tower.backbone, tower.spec, image_width=8)


def test_fusion_model_is_a_dual_encoder_that_matches(matcher):
    pixels, tokens = torch.randn(2, 3, 32, 32), matcher.tokenize(TEXTS)
    assert isinstance(matcher, FusionModel)
    assert matcher.encode_image(pixels).shape == matcher.encode_text(tokens).shape == (2, 16)
    image, states = matcher.image_tokens(pixels), matcher.text_tokens(tokens)
    logits = matcher.match(image, states, tokens["attention_mask"])
    assert logits.shape == (2, 2)
    nn.init.zeros_(matcher.matching.linear.weight)
    nn.init.zeros_(matcher.matching.linear.bias)
    blank = matcher.match(image, states, tokens["attention_mask"])
    assert F.cross_entropy(blank, torch.tensor([1, 0])).item() == pytest.approx(0.693147, abs=1e-6)


def test_masked_words_are_read_with_the_picture_and_decoded_by_the_embeddings(matcher, tokenizer):
    pixels, tokens = torch.randn(2, 3, 32, 32), matcher.tokenize(TEXTS)
    ids, labels = mask_tokens(tokens["input_ids"], tokenizer, probability=0.5)
    where = labels != -100
    logits = matcher.masked_language_logits({**tokens, "input_ids": ids}, matcher.image_tokens(pixels), where)
    assert logits.shape == (int(where.sum()), len(tokenizer))
    F.cross_entropy(logits, labels[where]).backward()
    words = matcher.text.word_embeddings()
    assert words.grad is not None
    unread = [i for i in range(len(tokenizer)) if i not in ids]
    assert words.grad[unread].abs().sum() > 0  # as decoder every word learns, also those the text does not hold
    assert not any("decoder" in name for name in matcher.state_dict())


def test_loss_does_not_depend_on_logits_at_unmasked_places(matcher, tokenizer):
    tokens, image = matcher.tokenize(TEXTS), torch.randn(2, 17, 32)
    ids, labels = mask_tokens(tokens["input_ids"], tokenizer, probability=0.5)
    states = matcher.text.multimodal({**tokens, "input_ids": ids}, image)
    everywhere = matcher.language(states, matcher.text.word_embeddings())
    noisy = torch.where((labels == -100)[..., None], torch.randn_like(everywhere), everywhere)
    chosen = matcher.masked_language_logits({**tokens, "input_ids": ids}, image, labels != -100)
    loss = F.cross_entropy(noisy.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(F.cross_entropy(chosen, labels[labels != -100]), loss)


def test_saved_and_opened_again_to_the_bit(matcher, tmp_path):
    matcher.add_lora("text", rank=2, targets=("query", "key")).freeze("image").eval()
    matcher.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, FusionModel)
    assert again.text.text_layers == 1
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in matcher.state_dict().items())
    pixels, tokens = torch.randn(2, 3, 32, 32), matcher.tokenize(TEXTS)
    arguments = (matcher.image_tokens(pixels), matcher.text_tokens(tokens), tokens["attention_mask"])
    assert torch.equal(again.match(*arguments), matcher.match(*arguments))
    with pytest.raises(UserError, match="holds a FusionModel"):
        type("Other", (DualEncoder,), {}).from_pretrained(tmp_path)


def test_a_bridge_learns_what_embedding_and_fusion_read_of_a_frozen_tower(vit, bert, tokenizer, tmp_path):
    made = create(image=vit, text=bert, tokenizer=tokenizer, embed_dim=16, text_layers=1, bridge=True)
    model = made.freeze("image").eval()
    pixels, tokens = torch.randn(2, 3, 32, 32), model.tokenize(TEXTS)
    image, states = model.image_tokens(pixels), model.text_tokens(tokens)
    assert image.shape[-1] == model.text.width != model.image.width
    assert torch.equal(model.image_tokens(model.image(pixels)), image)  # what the tower gave before is bridged too
    for output in (model.encode_image(pixels), model.match(image, states, tokens["attention_mask"])):
        (slope,) = torch.autograd.grad(output.std(), [model.bridge[0].weight], retain_graph=True)
        assert slope.abs().sum() > 0
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert torch.equal(again.image_tokens(pixels), image)
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
    with pytest.raises(UserError, match="text_layers"):
        create(image=vit, text=bert, tokenizer=tokenizer, bridge=True)


def test_deep_copy_stays_tied_to_its_own_words(matcher):
    twin = copy.deepcopy(matcher)
    with torch.no_grad():
        twin.text.word_embeddings().zero_()
    assert twin.language(torch.randn(3, 48), twin.text.word_embeddings()).eq(0).all()
    assert matcher.text.word_embeddings().abs().sum() > 0


def test_preset(tokenizer):
    model = create("tiny-fusion", tokenizer=tokenizer)
    assert isinstance(model, FusionModel)
    assert (model.text.text_layers, len(model.text.cross), model.image.patches) == (3, 3, 64)
    with pytest.raises(UserError, match="class token"):
        create("tiny-fusion", tokenizer=tokenizer, text_pooling="eos")


def test_a_pretrained_text_model_keeps_its_weights():
    model = create("tiny-vit", text="minilm", text_layers=3).eval()
    tokens = model.tokenize(["a red fox"])
    hidden = text_tower("minilm")[0].backbone(**tokens, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.text_tokens(tokens), hidden[3], atol=1e-5, rtol=1e-5)


def test_match_scorer_and_rerank(matcher):
    pixels, tokens = torch.randn(3, 3, 32, 32), matcher.tokenize([*TEXTS, "cat", "dog"])
    scorer = MatchScorer(matcher, pixels, tokens, batch_size=2)
    result = rerank(torch.randn(3, 4), scorer.image_to_text, k=4, batch_size=5)
    image, text = matcher.image_tokens(pixels), matcher.text_tokens(tokens)
    for query in range(3):
        alone = matcher.match(image[query].expand(4, -1, -1), text, tokens["attention_mask"])[:, 1]
        torch.testing.assert_close(result.score[query], alone[result.index[query]], atol=1e-5, rtol=1e-5)
    assert (result.score.diff(dim=1) <= 0).all()
    back = rerank(torch.randn(4, 3), scorer.text_to_image, k=2)
    assert back.index.shape == (4, 2)
