"""Two-stream and relational grounding: values by hand, loops in float64, and that something is learnt."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import nearfar
from nearfar.data import Loader, PhraseField, Records, scenes, train_tokenizer
from nearfar.data.sources.skipped import BadRecord
from nearfar.errors import UserError
from nearfar.methods import RelationalGrounding, TwoStreamGrounding
from nearfar.methods.text.relation_losses import relation_loss, relation_pair_loss
from nearfar.models import create, grounded_encoder, relation_encoder
from nearfar.reproductions.setups import related_shapes

TEXTS = ["a red fox", "a ship at sea", "two dogs"]
NAMES = {"relations": ["left of", "right of"], "objects": ["fox", "ship"]}


def labels():
    """Two pictures of three things, two labelled pairs each: {1, 2} and {1, 3}."""
    target = torch.zeros(2, 3, 3, dtype=torch.long)
    target[0, 0, 1], target[0, 1, 0], target[1, 0, 1], target[1, 1, 0] = 1, 2, 1, 3
    return target


def scores(seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, 4, 3, 3, generator=generator, dtype=torch.float64)


def test_by_hand():
    zero = torch.zeros(2, 4, 3, 3)
    assert relation_loss(zero, labels()).item() == pytest.approx(4 * math.log(4) / 2)
    assert relation_pair_loss(zero, labels()).item() == pytest.approx((2 * math.log(3) + 2 * math.log(4)) / 2)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_losses_are_those_of_loops(temperature):
    s, target = scores(), labels()
    pairs = [(b, i, j, int(target[b, i, j])) for b, i, j in target.nonzero().tolist()]
    of_relation = sum(cross_entropy(s[b, :, i, j] / temperature, torch.tensor(r)) for b, i, j, r in pairs) / 2
    of_pair = 0.0
    for b, i, j, r in pairs:
        own = s[b, r, i, j] / temperature
        others = [s[c, r, k, m] / temperature for c, k, m, other in pairs if other != r]
        of_pair += torch.stack([own, *others]).logsumexp(0) - own
    torch.testing.assert_close(relation_loss(s, target, temperature=temperature), of_relation)
    torch.testing.assert_close(relation_pair_loss(s, target, temperature=temperature), of_pair / 2)


def test_scores_without_a_label_do_not_matter_and_gradients_are_right():
    s, target = scores().requires_grad_(), labels()
    for loss in (relation_loss, relation_pair_loss):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target), s)
        (gradient,) = torch.autograd.grad(loss(s, target), s)
        assert gradient.movedim(1, 3)[target == 0].abs().max() == 0
        assert loss(s, torch.zeros_like(target)).item() == 0


def test_large_scores_and_one_relation_alone_stay_finite():
    """Softmax and then a logarithm gives infinity here."""
    s = scores(scale=1600.0).float().requires_grad_()
    loss = relation_pair_loss(s, labels()) + relation_loss(s, labels())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(s.grad).all()
    alone = labels().clamp(max=1)
    (gradient,) = torch.autograd.grad(relation_pair_loss(s, alone), s)
    assert relation_pair_loss(s, alone).item() == 0
    assert torch.isfinite(gradient).all()


def test_the_pair_loss_grows_with_the_batch_and_the_relation_loss_does_not():
    s, target = scores(), labels()
    twice, both = torch.cat([s, s]), torch.cat([target, target])
    torch.testing.assert_close(relation_loss(twice, both), relation_loss(s, target))
    assert relation_pair_loss(twice, both) > relation_pair_loss(s, target) + 0.1


def test_labels_beyond_the_channels_are_named():
    with pytest.raises(UserError, match="label 3"):
        relation_loss(scores()[:, :3], labels())
    with pytest.raises(UserError, match="target"):
        relation_pair_loss(scores(), labels()[:1])


@pytest.fixture(scope="module")
def two_stream():
    torch.manual_seed(0)
    return grounded_encoder("tiny", tokenizer=train_tokenizer(TEXTS, 300))


def test_the_loss_of_two_streams_is_that_of_their_cells_and_words(two_stream):
    method = TwoStreamGrounding(two_stream, frozen_layers=1).eval()
    batch = {"image": torch.rand(3, 3, 64, 64), "text": two_stream.tokenize(TEXTS), "group": torch.tensor([0, 1, 0])}
    logits = two_stream.similarities(batch["image"], batch["text"]) / 0.1
    expected = cross_entropy(logits, torch.arange(3)) + cross_entropy(logits.T, torch.arange(3))
    torch.testing.assert_close(method(batch)["loss"], expected, rtol=1e-5, atol=1e-5)
    apart = TwoStreamGrounding(two_stream, frozen_layers=1, exclude_duplicates=True).eval()
    assert apart(batch)["loss"] < expected
    assert not method.loss.temperature.value.requires_grad


def test_other_models_are_refused(two_stream):
    plain = create("tiny", tokenizer=train_tokenizer(TEXTS, 300))
    with pytest.raises(UserError, match="grounded_encoder"):
        TwoStreamGrounding(plain)
    with pytest.raises(UserError, match="relation_encoder"):
        RelationalGrounding(two_stream)
    model = relation_encoder(two_stream, **NAMES)
    for settings, message in (
        ({"temperature": 0}, "above 0"),
        ({"weights": (1, 2)}, "three"),
        ({"weights": (0,) * 3}, "0"),
    ):
        with pytest.raises(UserError, match=message):
            RelationalGrounding(model, **settings)


def test_relational_loss_is_its_parts(two_stream):
    model = relation_encoder(two_stream, **NAMES, operator_dropout=0.0, most_objects=3)
    method = RelationalGrounding(model, trained_layers=1, weights=(0.5, 2.0, 3.0)).eval()
    (field,) = model.fields(True)
    records = [
        {"objects": [{"name": "fox"}, {"name": "ship"}], "relations": [[0, "left of", 1], [1, "right of", 0]]},
        {"objects": [{"name": "ship"}, {"name": "dog"}, {"name": "fox"}], "relations": [[2, "right of", 1]]},
    ]
    batch = {"image": torch.rand(2, 3, 64, 64)} | field.collate([field.prepare(r, None) for r in records], None)
    things, scored = model(batch["image"], batch["phrases"])
    label = batch["object_label"]
    of_objects = cross_entropy(things[label > 0], label[label > 0], reduction="sum") / 2
    of_relations = relation_loss(scored, batch["relation_label"])
    of_pairs = relation_pair_loss(scored, batch["relation_label"])
    out = method(batch)
    torch.testing.assert_close(out["loss"], 0.5 * of_objects + 2 * of_relations + 3 * of_pairs)
    without = RelationalGrounding(model, trained_layers=1, weights=(1, 1, 0)).eval()(batch)
    assert "pair_loss" not in without
    batch["relation_label"].zero_()
    batch["object_label"].zero_()
    nothing = method(batch)["loss"]
    assert nothing.item() == 0
    nothing.backward()


def test_of_the_language_model_the_last_layers_learn_of_relations():
    """Three layers, the last one trained but for its queries and keys; pictures stay below the attention."""
    tower = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    pair = grounded_encoder(
        create("tiny", text=tower | {"intermediate_size": 32}, tokenizer=train_tokenizer(TEXTS, 300)), heads=2
    )
    model = RelationalGrounding(relation_encoder(pair, **NAMES), trained_layers=1).model
    learns = {name for name, weight in model.pair.named_parameters() if weight.requires_grad}
    text = {name for name, _ in model.pair.text.named_parameters(prefix="text")}
    last = {name for name in text if ".layer.2." in name and ".query." not in name and ".key." not in name}
    assert last
    assert learns & text == last
    assert not any(name.startswith("image.") for name in learns)


def test_records_of_things_and_relations():
    field = PhraseField(train_tokenizer(TEXTS, 300), **NAMES, most_objects=2)
    scene = {"objects": [{"name": "fox", "colour": "red"}, {"name": "ship"}], "relation": "left of"}
    batch = field.collate([field.prepare(scene, None)], None)
    assert batch["relation_label"].tolist() == [[[0, 1], [2, 0]]]
    many = {"objects": [{"name": "fox"}] * 3, "relations": [[0, "left of", 2], [1, "left of", 0], [0, "on", 1]]}
    assert field.prepare(many, None).relations == [(1, 1, 0)]
    named = [{"subject": 1, "predicate": "left of", "object": 0}]
    assert field.prepare(many | {"relations": named}, None).relations == [(1, 1, 0)]
    for bad, message in (
        ({}, "no objects"),
        ({"objects": ["fox"]}, "not of the form"),
        ({"objects": [{"name": "fox"}], "relations": [[0, "left of"]]}, "not of the form"),
        ({"objects": [{"name": "fox"}], "relations": [["fox", "left of", 1]]}, "no numbers"),
    ):
        with pytest.raises(BadRecord, match=message):
            field.prepare(bad, None)
    with pytest.raises(UserError, match="most_objects"):
        PhraseField(train_tokenizer(TEXTS, 300), **NAMES, most_objects=0)


def test_a_run_learns_relations_of_scenes(tmp_path):
    source = scenes.scenes("train", n=16, vocabulary="shapes", relations=("left of", "right of"), size=32)
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["red green blue circle square star cross heart ring triangle diamond"], 300)
    objects = ["circle", "square", "star", "cross", "heart", "ring", "triangle", "diamond"]
    towers = {"image": related_shapes.RESNET, "text": related_shapes.BERT, "image_size": 32, "embed_dim": 64}
    pair = {"pair": towers, "dropout": 0.0}
    model = relation_encoder(pair, relations=NAMES["relations"], objects=objects, tokenizer=tokenizer, most_objects=2)
    method = RelationalGrounding(model, train_image=True)
    loader = Loader(source, model.fields(True), batch_size=16, image_size=32, mean=model.mean, std=model.std)
    first = method(next(iter(loader)))["loss"].item()
    nearfar.train(method, source, batch_size=16, steps=40, lr=2e-3, progress=False, report=False)
    assert method(next(iter(loader)))["loss"].item() < 0.6 * first


def test_a_run_of_two_streams_on_records():
    from PIL import Image

    colours = ["red", "green", "blue", "white"]
    source = Records([{"image": Image.new("RGB", (16, 16), c), "text": f"a {c} square"} for c in colours * 4])
    torch.manual_seed(0)
    model = grounded_encoder("tiny", tokenizer=train_tokenizer([f"a {c} square" for c in colours], 300), image_size=32)
    method = TwoStreamGrounding(model, frozen_layers=0, train_image=True, exclude_duplicates=True)
    nearfar.train(method, source, batch_size=4, steps=2, progress=False, report=False)
