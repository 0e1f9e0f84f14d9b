"""Models of cells and words: attention over a map, what is frozen, relations, phrases, and what is saved."""

import pytest
import torch
from torch import nn

import nearfar
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import create, grounded_encoder, relation_encoder
from nearfar.models.grounded.cross_attention import CrossModalAttention
from nearfar.models.grounded.frozen_language import freeze_language
from nearfar.models.grounded.relation_operator import BilinearRelation, ConcatRelation
from nearfar.models.grounded.spatial_attention import SpatialSelfAttention, sinusoid

TEXTS = ["a red fox", "a ship at sea", "two dogs"]
NAMES = {"relations": ["left of", "right of"], "objects": ["fox", "ship"]}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return grounded_encoder("tiny", tokenizer=train_tokenizer(TEXTS, 300)).eval()


@pytest.fixture(scope="module")
def relations(model):
    torch.manual_seed(1)
    return relation_encoder(model, **NAMES, most_objects=4).eval()


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_places_reach_the_attention_and_not_the_residual():
    block = SpatialSelfAttention(8, (2, 2), dropout=0.0).eval()
    nn.init.zeros_(block.dense.weight)
    nn.init.zeros_(block.dense.bias)
    cells = torch.randn(2, 4, 8)
    before = block(cells)
    with torch.no_grad():
        block.position.add_(5.0 * torch.randn(4, 8))
    torch.testing.assert_close(block(cells), before)
    nn.init.normal_(block.dense.weight)
    assert (block(cells) - before).abs().max() > 0.1


@pytest.mark.parametrize("position", ["learned", "sinusoid", "none"])
def test_without_places_the_order_of_cells_says_nothing(position):
    torch.manual_seed(0)
    block = SpatialSelfAttention(8, (2, 3), dropout=0.0, position=position).eval()
    cells, order = torch.randn(2, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    difference = (block(cells)[:, order] - block(cells[:, order])).abs().max()
    assert (difference < 1e-5) == (position == "none")
    assert ("position" in dict(block.named_parameters())) == (position == "learned")
    block.resize((3, 4))
    assert block(torch.randn(1, 12, 8)).shape == (1, 12, 8)


def test_fixed_places_are_all_different_and_of_one_length():
    places = sinusoid(16, (3, 5))
    assert len(places.unique(dim=0)) == 15
    torch.testing.assert_close(places.norm(dim=1), torch.full((15,), 8.0).sqrt())


def test_a_map_a_picture_and_words_agree(model, pixels):
    cells, tokens = model.encode_cells(pixels), model.tokenize(TEXTS)
    grid = model.encode_image_map(pixels)
    torch.testing.assert_close(grid.flatten(2).mT, cells)
    torch.testing.assert_close(model.encode_image(pixels), cells.mean(1))
    words, mask = model.encode_words(tokens), tokens["attention_mask"].bool()
    mean = torch.stack([each[real].mean(0) for each, real in zip(words, mask, strict=True)])
    torch.testing.assert_close(model.encode_text(tokens), mean, atol=1e-5, rtol=1e-5)
    real = [each[attended] for each, attended in zip(words, mask, strict=True)]
    best = torch.stack([torch.stack([(cell @ word.T).max(0).values.mean() for word in real]) for cell in cells])
    torch.testing.assert_close(model.similarities(pixels, tokens), best, atol=1e-5, rtol=1e-5)


def test_the_first_word_has_its_own_state(model):
    """A dual encoder puts the summary in its place."""
    tokens = model.tokenize(TEXTS)
    states = model.word_states(tokens)
    assert (states[:, 0] - model.text_tokens(tokens)[:, 0]).abs().max() > 1e-3
    torch.testing.assert_close(states[:, 1:], model.text_tokens(tokens)[:, 1:])


def test_it_is_saved_whole_and_takes_other_pictures(model, pixels, tmp_path):
    model.save_pretrained(tmp_path)
    again = nearfar.load(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again.encode_cells(pixels), model.encode_cells(pixels))
    again.resize_images(96)
    assert again.grid == (3, 3)
    assert again.encode_image_map(torch.rand(1, 3, 96, 96)).shape == (1, again.embed_dim, 3, 3)


def test_features_that_were_computed_before_are_handed_on(model, pixels):
    torch.testing.assert_close(model.encode_cells(model.image_tokens(pixels)), model.encode_cells(pixels))


def test_a_transformer_of_patches_has_cells_too(pixels):
    vit = grounded_encoder("tiny-vit", tokenizer=train_tokenizer(TEXTS, 300), position="sinusoid").eval()
    assert vit.encode_cells(pixels).shape[1] == vit.grid[0] * vit.grid[1] > 1


def test_of_a_pair_that_stands_the_towers_stay_and_it_is_not_touched(pixels):
    pair = create("tiny", tokenizer=train_tokenizer(TEXTS, 300)).eval()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    made = grounded_encoder(pair)
    assert torch.equal(made.image(pixels)[:, 1:], pair.image(pixels)[:, 1:])
    assert pair.text.pooling == "cls"
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_what_is_frozen_stays_to_the_bit_and_values_learn(pixels):
    """An optimiser step with weight decay: image tower, embeddings, first layers, all queries and keys."""
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    bert |= {"intermediate_size": 32, "max_position_embeddings": 32}
    made = grounded_encoder({"preset": "tiny", "text": bert}, tokenizer=train_tokenizer(TEXTS, 300))
    method = nearfar.methods.TwoStreamGrounding(made, frozen_layers=1).train()
    before = {name: value.clone() for name, value in made.named_parameters()}
    optimizer = torch.optim.AdamW(method.param_groups(0.1), lr=0.01)
    method({"image": pixels, "text": made.tokenize(TEXTS)})["loss"].backward()
    optimizer.step()
    changed = {name for name, value in made.named_parameters() if not torch.equal(value, before[name])}
    frozen = {n for n in before if n.startswith("image.") or "embeddings" in n or ".layer.0." in n}
    frozen |= {n for n in before if n.startswith("text.") and (".query." in n or ".key." in n)}
    assert changed == before.keys() - frozen
    assert "text.backbone.encoder.layer.2.attention.self.value.weight" in changed
    assert "spatial.query.weight" in changed, "of the attention over cells queries learn"


def test_freezing_knows_other_models_and_says_what_it_cannot():
    from transformers import DistilBertConfig, DistilBertModel, GPT2Config, GPT2Model

    small = DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, n_layers=2, n_heads=2, hidden_dim=8))
    frozen = freeze_language(small, layers=1)
    assert "embeddings.word_embeddings.weight" in frozen
    assert "transformer.layer.1.attention.q_lin.weight" in frozen
    assert "transformer.layer.1.attention.v_lin.weight" not in frozen
    with pytest.raises(UserError, match="has 2 layers"):
        freeze_language(small, layers=3)
    joined = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2))
    with pytest.raises(UserError, match="query_key=False"):
        freeze_language(joined, layers=1)
    assert "wte.weight" in freeze_language(joined, layers=1, query_key=False)
    assert joined.ln_f.weight.requires_grad


def test_scores_of_relations():
    """Symmetric matrices give symmetric scores; their size does not matter, and bounds nothing."""
    torch.manual_seed(0)
    operator, u = BilinearRelation(3, 5, dropout=0.0), torch.randn(2, 4, 5)
    scores = operator(u)
    assert (scores - scores.mT).abs().max() > 0.1, "not symmetric in general"
    with torch.no_grad():
        operator.matrices.mul_(torch.tensor([0.01, 7.0, 300.0])[:, None, None])
    torch.testing.assert_close(operator(u), scores)
    length = u.norm(dim=2)
    assert (scores.abs() <= (length[:, :, None] * length[:, None])[:, None] + 1e-5).all()
    with torch.no_grad():
        operator.matrices.add_(operator.matrices.mT.clone())
    torch.testing.assert_close(operator(u), operator(u).mT)


@pytest.mark.parametrize("kind", [BilinearRelation, ConcatRelation])
def test_pairs_are_entries_of_all_scores(kind):
    torch.manual_seed(0)
    operator, u = kind(3, 5).eval(), torch.randn(2, 4, 5)
    b, i, j = torch.tensor([0, 1, 1]), torch.tensor([0, 3, 2]), torch.tensor([2, 1, 2])
    torch.testing.assert_close(operator.pairs(u[b, i], u[b, j]), operator(u)[b, :, i, j])


def test_both_operators_are_of_a_size():
    counts = [sum(p.numel() for p in kind(9, 32).parameters()) for kind in (BilinearRelation, ConcatRelation)]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


def test_phrases_look_at_cells_and_their_weights_say_where():
    torch.manual_seed(0)
    attention, phrases, cells = CrossModalAttention(8, 2), torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    weights = attention.weights(phrases, cells)
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 2, 3))
    mixed = (weights @ attention.value(cells).unflatten(2, (2, 4)).transpose(1, 2)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(phrases, cells), mixed)
    assert {name for name, _ in attention.named_parameters()} == {
        "query.weight", "key.weight", "value.weight", "value.bias"
    }  # fmt: skip


def test_a_phrase_is_the_mean_of_its_tokens_or_the_released_sum(model, relations):
    """By the released code's rule a longer phrase has a longer vector; padding beside it changes neither."""
    tokens = relations.tokenize(["fox", "a red fox at sea"])
    wide = {name: nn.functional.pad(ids, (0, 3)) for name, ids in tokens.items()}
    vectors = relations.encode_phrases(tokens)
    torch.testing.assert_close(relations.encode_phrases(wide), vectors, atol=1e-5, rtol=1e-5)
    padded = relation_encoder(model, **NAMES, pooling="padded").eval()
    ratio = padded.encode_phrases(tokens).norm(dim=1) / vectors.norm(dim=1)
    torch.testing.assert_close(ratio, tokens["attention_mask"].sum(1) / 10)
    empty = {name: torch.cat([ids, torch.zeros_like(ids[:1])])[None] for name, ids in tokens.items()}
    assert relations.encode_phrases(empty)[0, 2].abs().max() == 0


def test_a_model_of_relations_is_saved_whole(relations, pixels, tmp_path):
    relations.save_pretrained(tmp_path)
    again = nearfar.load(tmp_path)
    (field,) = again.fields(False)
    record = {"objects": [{"name": "fox", "attribute": "red"}, {"name": "ship"}], "relations": [[0, "left of", 1]]}
    phrases = field.collate([field.prepare(record, None)] * 3, None)["phrases"]
    for actual, expected in zip(again(pixels, phrases), relations(pixels, phrases), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relations": []}, "relations must be names"),
        ({"objects": ["fox", "fox"]}, "each once"),
        ({"operator": "tree"}, "operator"),
        ({"pooling": "cls"}, "pooling"),
        ({"phrase_length": 0}, "phrase_length"),
        ({"heads": 7}, "heads=7"),
    ],
)
def test_what_a_model_of_relations_cannot_be(model, settings, message):
    with pytest.raises(UserError, match=message):
        relation_encoder(model, **NAMES | settings)


def test_what_a_grounded_encoder_cannot_be(model):
    with pytest.raises(UserError, match="pair has no setting 'preset': choose among pair, position"):
        relation_encoder({"preset": "tiny"}, **NAMES)
    with pytest.raises(UserError, match="made of a DualEncoder"):
        grounded_encoder(model)
    with pytest.raises(UserError, match="position"):
        grounded_encoder("tiny", position="spiral", tokenizer=train_tokenizer(TEXTS, 300))
