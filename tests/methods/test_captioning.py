"""Next-token prediction on captions, its weights, and PRIOR's, with numbers worked out by hand."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

import nearfar
from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.methods import Captioning
from nearfar.methods.lvlm.token_weights import prior_token_weights, weighted_next_token_loss
from nearfar.models import create, vision_language_model

REFERENCE, POLICY = (torch.tensor([each], dtype=torch.float64).log() for each in ([0.9, 0.5, 0.1], [0.8, 0.4, 0.5]))
ALL = torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("alpha", "weights", "total"),
    [(0.0, [1, 1, 1], 1.832581), (1.0, [0.2, 1.0, 1.8], 2.208584), (2.0, [0.028037, 0.700935, 2.271028], 2.222673)],
)
def test_weights_and_losses_by_hand(alpha, weights, total):
    ours = prior_token_weights(REFERENCE, ALL, alpha=alpha)
    torch.testing.assert_close(ours, torch.tensor([weights], dtype=torch.float64), atol=1e-6, rtol=0)
    assert weighted_next_token_loss(POLICY, ALL, ours).item() * 3 == pytest.approx(total, abs=1e-6)


def random_scores(rows=4, length=6):
    generator = torch.Generator().manual_seed(3)
    score = torch.rand(rows, length, generator=generator, dtype=torch.float64).clamp(0.01, 0.99).log()
    return score, torch.arange(length) < torch.tensor([[6], [2], [5], [1]])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0, 200.0])
def test_weights_of_a_caption_have_mean_one_whatever_stands_beside_it(alpha):
    score, mask = random_scores()
    weights = prior_token_weights(score, mask, alpha=alpha)
    torch.testing.assert_close(weights.sum(1), mask.sum(1).double(), rtol=1e-12, atol=0)
    assert (weights[~mask] == 0).all()
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(prior_token_weights(score[order], mask[order], alpha=alpha), weights[order])
    alone = prior_token_weights(score[2:3, :5], mask[2:3, :5], alpha=alpha)
    torch.testing.assert_close(alone[0], weights[2, :5], rtol=1e-12, atol=0)
    nonsense = score.masked_fill(~mask, math.nan)
    assert torch.equal(prior_token_weights(nonsense, mask, alpha=alpha), weights)


def test_what_the_reference_knows_has_no_weight_and_where_it_knows_all_they_are_even():
    score = torch.tensor([[0.0, -1.0, -2.0], [0.0, 0.0, 0.0], [-1e-9, -1e-8, 0.0]], requires_grad=True)
    weights = prior_token_weights(score, torch.ones(3, 3, dtype=torch.bool))
    assert not weights.requires_grad
    assert weights[0, 0] == 0
    assert torch.equal(weights[1:], torch.ones(2, 3))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=str)
def test_no_captions_and_no_tokens_have_no_weights(shape):
    weights = prior_token_weights(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool))
    assert weights.shape == shape


def test_scaled_surprise_has_the_same_weights_and_ties_share_the_largest():
    surprise = torch.tensor([[0.02, 0.4, 0.4, 0.1]], dtype=torch.float64)
    mask = torch.ones(1, 4, dtype=torch.bool)
    for alpha in (0.7, 2.0):
        one, other = (prior_token_weights((-c * surprise).log1p(), mask, alpha=alpha) for c in (1.0, 0.003))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        prior_token_weights((-surprise).log1p(), mask, alpha=200.0).float(), torch.tensor([[0.0, 2.0, 2.0, 0.0]])
    )


def test_surprise_keeps_its_digits_where_the_reference_is_nearly_sure():
    score = torch.tensor([[-1e-5, -3e-5]])
    torch.testing.assert_close(prior_token_weights(score, ALL[:, :2]), torch.tensor([[0.5, 1.5]]), rtol=1e-4, atol=0)
    raw = prior_token_weights(score, ALL[:, :2], normalize=False)
    torch.testing.assert_close(raw, torch.tensor([[1e-5, 3e-5]]), rtol=1e-4, atol=0)


def test_even_losses_are_the_same_under_any_weights():
    score, mask = random_scores()
    even = torch.full_like(score, -math.log(7))
    for alpha in (0.0, 1.0, 5.0):
        loss = weighted_next_token_loss(even, mask, prior_token_weights(score, mask, alpha=alpha))
        assert loss.item() == pytest.approx(math.log(7), abs=1e-12)


def test_both_reductions_by_hand():
    score = torch.tensor([[-1.0, -2.0, -3.0], [-10.0, math.nan, math.nan], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    assert weighted_next_token_loss(score, mask).item() == pytest.approx(16 / 4)
    assert weighted_next_token_loss(score, mask, reduction="captions").item() == pytest.approx((2 + 10) / 2)
    assert weighted_next_token_loss(score[2:], mask[2:]).item() == 0


def test_settings_that_cannot_be_are_named():
    for alpha in (-1.0, math.inf, math.nan):
        with pytest.raises(UserError, match="alpha="):
            prior_token_weights(REFERENCE, ALL, alpha=alpha)
    with pytest.raises(UserError, match="reduction='mean'"):
        weighted_next_token_loss(POLICY, ALL, reduction="mean")
    tokenizer = train_tokenizer(["a red car"], 300)
    with pytest.raises(UserError, match="a DualEncoder writes no captions"):
        Captioning(create("tiny", tokenizer=tokenizer))
    with pytest.raises(UserError, match="reduction='mean'"):
        Captioning(vision_language_model("tiny", tokenizer=tokenizer), reduction="mean")


COLOURS = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


@pytest.fixture(scope="module")
def painted():
    from PIL import Image

    records = [
        {"image": Image.new("RGB", (16, 16), rgb), "text": f"all of it is {name}"} for name, rgb in COLOURS.items()
    ]
    return Records(records * 2, name="painted")


def test_it_learns_to_write_what_it_sees(painted):
    torch.manual_seed(0)
    vit = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
    tokenizer = train_tokenizer(painted.texts(), 300)
    model = vision_language_model(vit | {"intermediate_size": 64}, "tiny", tokenizer=tokenizer, image_size=16)
    nearfar.train(Captioning(model), painted, steps=60, batch_size=8, lr=3e-3, progress=False, report=False)
    result = evaluate(model, painted, ["captioning"])["captioning"]
    assert result["exact"] == result["own_picture"] == result["token_f1"] == 1.0
    assert result["gain"] > 0.5


def test_the_logged_loss_is_without_weights_and_a_method_may_give_them(painted):
    class Ends(Captioning):
        def token_weights(self, batch, mask):
            last = mask & ~nn.functional.pad(mask[:, 1:], (0, 1))
            return last * mask.sum(1, keepdim=True)

    tokenizer = train_tokenizer(painted.texts(), 300)
    model = vision_language_model("tiny", tokenizer=tokenizer).eval()
    batch = {"image": torch.rand(2, 3, 64, 64), "text": model.tokenize(["all of it is red", "all of it"])}
    plain, ends = Captioning(model).eval()(batch), Ends(model).eval()(batch)
    assert plain["loss"] == plain["token_loss"] == ends["token_loss"]
    score, mask = model.likelihoods(batch["image"], batch["text"])
    last = [score[row, mask[row].sum() - 1] for row in (0, 1)]
    expected = -(last[0] * mask[0].sum() + last[1] * mask[1].sum()) / mask.sum()
    torch.testing.assert_close(ends["loss"], expected)


def test_training_on_a_frozen_towers_features_is_training_on_pixels():
    torch.manual_seed(0)
    model = vision_language_model("tiny-vit", tokenizer=train_tokenizer(["a red car"], 300), pool=2).freeze("image")
    pixels, words, trained = torch.rand(2, 3, 64, 64), model.tokenize(["a red car", "a car"]), []
    with torch.no_grad():
        features = model.eval().picture_features(pixels)
    for pictures in (pixels, features):
        own = deepcopy(model)
        batches = [{"image": pictures, "text": words}]
        nearfar.train(Captioning(own), batches, steps=3, lr=1e-2, progress=False, report=False)
        trained.append(own.state_dict())
    assert all(torch.equal(trained[1][name], value) for name, value in trained[0].items())
    assert any(not torch.equal(trained[0][name], value) for name, value in model.state_dict().items())
