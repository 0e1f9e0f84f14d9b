"""CG-VLM: its contrast by hand, captions that say the same, and what is trained in the first stage."""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

import nearfar
from methods.test_no_matrix_of_pairs import B, Largest
from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import CGVLM, Captioning
from nearfar.methods.lvlm.patch_token_contrast import bag_keys, joined_groups, patch_token_contrastive_loss
from nearfar.models import create, vision_language_model
from nearfar.models.vlm.mean_cosines import token_patch_similarity

TEXTS = ["a red car", "two small dogs near a tree", "fish", "a tree near two small dogs"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = vision_language_model(VIT, "tiny", tokenizer=train_tokenizer(TEXTS * 3, 300), image_size=16)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)  # fresh ones of this size hardly differ from picture to picture
    return made


def batch_of(model, texts=TEXTS):
    pixels = torch.randn(len(texts), 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return {"image": pixels, "text": model.tokenize(texts)}


@pytest.mark.parametrize(("tau", "expected"), [(1.0, math.log1p(math.exp(-1))), (0.07, 6.2e-7)])
def test_two_pairs_that_agree_by_hand(tau, expected):
    patches, tokens = (torch.eye(2)[:, None].expand(2, k, 2) for k in (4, 3))
    assert patch_token_contrastive_loss(patches, tokens, temperature=tau).item() == pytest.approx(expected, rel=1e-2)
    assert expected == pytest.approx({1.0: 0.313262, 0.07: 6.2e-7}[tau], abs=1e-6)


def test_words_that_say_nothing_halve_the_similarity():
    """Half of each caption's tokens are orthogonal to all: ln(1 + e^-0.5)."""
    patches = torch.eye(4)[:2, None]
    tokens = torch.stack([torch.eye(4)[[0, 2]], torch.eye(4)[[1, 3]]])
    assert token_patch_similarity(patches, tokens).diagonal().tolist() == [0.5, 0.5]
    assert patch_token_contrastive_loss(patches, tokens, temperature=1.0).item() == pytest.approx(0.474077, abs=1e-6)


def test_it_is_the_symmetric_cross_entropy_of_the_table_of_scores():
    patches, tokens = (torch.randn(6, k, 5, dtype=torch.float64, requires_grad=True) for k in (9, 4))
    mask = torch.arange(4) < torch.tensor([1, 2, 3, 4, 4, 2])[:, None]
    for pool, symmetric in ((1, True), (3, True), (None, False)):
        loss = patch_token_contrastive_loss(
            patches, tokens, token_mask=mask, pool=pool, symmetric=symmetric, temperature=0.3
        )
        logits = token_patch_similarity(patches, tokens, token_mask=mask, pool=pool) / 0.3
        own = torch.arange(6)
        rows, columns = F.cross_entropy(logits, own), F.cross_entropy(logits.T, own)
        expected = (rows + columns) / 2 if symmetric else rows
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
        ours, theirs = (torch.autograd.grad(each, patches) for each in (loss, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


def test_order_of_pairs_length_of_patches_and_bounds():
    patches, tokens = torch.randn(5, 4, 8), torch.randn(5, 3, 8)
    loss = patch_token_contrastive_loss(patches, tokens)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(patch_token_contrastive_loss(patches[order], tokens[order]), loss)
    torch.testing.assert_close(patch_token_contrastive_loss(9.0 * patches, tokens), loss)
    for tau in (0.02, 0.07, 1.0):
        # scores lie within 1 of 0
        assert patch_token_contrastive_loss(patches, tokens, temperature=tau) <= math.log1p(4 * math.exp(2 / tau))
    opposite = patch_token_contrastive_loss(torch.eye(2)[:, None], torch.eye(2).flip(0)[:, None], temperature=1.0)
    assert opposite.item() == pytest.approx(math.log1p(math.e), abs=1e-6)


def test_one_pair_alone_teaches_nothing():
    patches, tokens = torch.randn(1, 4, 8, requires_grad=True), torch.randn(1, 3, 8)
    loss = patch_token_contrastive_loss(patches, tokens)
    loss.backward()
    assert loss.item() == 0
    assert not patches.grad.any()


def test_captions_of_the_same_words_are_no_negatives():
    ids = torch.tensor([[4, 9, 7, 0], [7, 4, 9, 0], [4, 9, 9, 7], [4, 9, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    keys = bag_keys(ids, mask)
    assert (keys[:, None] == keys).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    drawn = torch.randint(0, 3000, (4000, 6), generator=torch.Generator().manual_seed(0))
    distinct = {tuple(row) for row in drawn.sort(1).values.tolist()}
    assert len(bag_keys(drawn, torch.ones(4000, 6, dtype=torch.bool)).unique()) == len(distinct)
    linked = joined_groups(torch.tensor([5, 5, 6, 7, 8, 8]), torch.tensor([1, 2, 2, 3, 4, -4]), torch.arange(6))
    assert linked.tolist() == [0, 0, 0, 3, 4, 4]
    chain = joined_groups(torch.tensor([0, 0, 1, 1]), torch.tensor([5, 6, 6, 7]))
    assert chain.tolist() == [0, 0, 0, 0], "the last is linked to the first by two others"
    patches, tokens = torch.randn(4, 4, 8), torch.randn(4, 3, 8)
    grouped = patch_token_contrastive_loss(patches, tokens, symmetric=False, group=torch.tensor([0, 0, 2, 3]))
    scores = token_patch_similarity(patches, tokens) / 0.07
    scores[0, 1] = scores[1, 0] = -math.inf
    torch.testing.assert_close(grouped, F.cross_entropy(scores, torch.arange(4)))


def test_the_loss_is_captioning_and_the_contrast_of_words(model):
    batch, tau = batch_of(model), 0.07
    out = CGVLM(deepcopy(model), contrast=0.5, exclude_duplicates=False).eval()(batch)
    table = model.lm.get_input_embeddings().weight
    words = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    text = torch.stack([F.normalize(table[ids], dim=1).mean(0) for ids in words])
    picture = F.normalize(model.picture_tokens(batch["image"]).mean(1), dim=1)
    logits, own = picture @ text.T / tau, torch.arange(4)
    contrast = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(out["contrast"], contrast, rtol=1e-4, atol=1e-5)
    captions = Captioning(model).eval()(batch)["token_loss"]
    torch.testing.assert_close(out["token_loss"], captions)
    torch.testing.assert_close(out["loss"], captions + 0.5 * contrast, rtol=1e-4, atol=1e-5)
    scores = picture @ text.T
    torch.testing.assert_close(out["similarity"], scores.diagonal().mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out["gap"], scores.diagonal().mean() - scores.mean(), rtol=1e-4, atol=1e-5)
    # the second and the fourth say the same, which the mean over words cannot tell apart
    logits[1, 3] = logits[3, 1] = -math.inf
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(CGVLM(deepcopy(model)).eval()(batch)["contrast"], expected, rtol=1e-4, atol=1e-5)
    # and so do the first and the third where their pictures are one
    logits[0, 2] = logits[2, 0] = -math.inf
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    grouped = CGVLM(deepcopy(model)).eval()(batch | {"group": torch.tensor([8, 5, 8, 6])})
    torch.testing.assert_close(grouped["contrast"], expected, rtol=1e-4, atol=1e-5)


def test_without_the_contrast_it_is_the_first_stage_of_llava(model):
    batch = batch_of(model)
    one, other = CGVLM(deepcopy(model), contrast=0), Captioning(deepcopy(model).freeze("image", "lm"))
    for method in (one, other):
        method.train()(batch)["loss"].backward()
    for ours, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("settings", [{}, {"generation": 0}, {"learn_temperature": True, "pool": 2}], ids=str)
def test_the_projector_alone_has_a_gradient(model, settings):
    method = CGVLM(deepcopy(model).unfreeze(), **settings).train()
    assert not method.model.lm.training
    method(batch_of(model))["loss"].backward()
    trained = {name.split(".")[0] for name, weight in method.model.named_parameters() if weight.grad is not None}
    assert trained == {"projector"}
    assert any(weight.grad.abs().max() > 1e-6 for weight in method.model.projector.parameters())
    assert (method.temperature.value.grad is not None) == settings.get("learn_temperature", False)


def test_longer_picture_tokens_change_captions_and_not_the_contrast(model):
    longer = deepcopy(model)
    with torch.no_grad():
        for weight in longer.projector[-1].parameters():
            weight.mul_(3)
    batch = batch_of(model)
    one, other = (CGVLM(deepcopy(each)).eval()(batch) for each in (model, longer))
    torch.testing.assert_close(one["contrast"], other["contrast"])
    assert (one["token_loss"] - other["token_loss"]).abs() > 1e-3


def test_a_mean_that_all_rows_share_hides_the_captions_until_it_is_subtracted(model):
    shifted = deepcopy(model)
    with torch.no_grad():
        shifted.lm.get_input_embeddings().weight.add_(30.0)
    batch = batch_of(model)
    plain, centred = (CGVLM(deepcopy(shifted), center=center).eval()(batch) for center in (False, True))
    assert plain["caption_spread"] < 0.05 < 0.3 < centred["caption_spread"]
    assert plain["contrast"].item() == pytest.approx(math.log(4), abs=0.3)


def test_words_that_say_nothing_can_be_left_out(model):
    batch = batch_of(model, ["a red car", "red car", "a tree", "fish"])
    out = CGVLM(deepcopy(model), ignore=("a",)).embed(batch)
    torch.testing.assert_close(out["text"][0], out["text"][1])
    assert out["bag"][0] == out["bag"][1] != out["bag"][2]
    with pytest.raises(UserError, match=r"'zebra' is \d+ tokens here"):
        CGVLM(deepcopy(model), ignore=("zebra",))


def test_a_step_makes_no_matrix_of_pairs(model):
    method = CGVLM(deepcopy(model), generation=0)
    picture = torch.randn(B, 8, requires_grad=True)
    batch = {"picture": picture, "text": torch.randn(B, 8), "bag": torch.arange(B) // 2}
    with Largest() as largest:
        method.objective(batch, {"group": torch.arange(B) // 3})["loss"].backward()
    assert largest.elements < B * B / 4, largest.where


def test_what_cannot_be_is_named(model):
    for settings, said in (
        ({"contrast": -1}, "contrast=-1"),
        ({"generation": math.inf}, "generation=inf"),
        ({"contrast": 0, "generation": 0}, "leave no loss"),
        ({"pool": 3}, "pool=3: a picture has 4 tokens"),
        ({"pool": 0}, "pool=0"),
        ({"ignore": "a"}, r"ignore='a': a list of words"),
    ):
        with pytest.raises(UserError, match=said):
            CGVLM(deepcopy(model), **settings)
    with pytest.raises(UserError, match="a DualEncoder has no picture tokens before words"):
        CGVLM(create("tiny", tokenizer=model.tokenizer))
    with pytest.raises(UserError, match="2 pictures and 3 captions"):
        patch_token_contrastive_loss(torch.zeros(2, 1, 4), torch.zeros(3, 1, 4))


def test_small_batches_that_are_added_up_are_refused_and_chunks_are_whole(model, tmp_path):
    from PIL import Image

    shades = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    records = [{"image": Image.new("RGB", (16, 16), rgb), "text": f"a {name} car"} for name, rgb in shades.items()]
    photos, quiet = Records(records, name="photos"), {"steps": 3, "progress": False, "report": False}
    with pytest.raises(UserError, match="accumulate would cut the negatives"):
        nearfar.train(CGVLM(deepcopy(model)), photos, batch_size=1, accumulate=4, **quiet)
    weights = []
    for chunk in (None, 1):
        method = CGVLM(deepcopy(model))
        nearfar.train(method, photos, batch_size=4, chunk=chunk, lr=1e-3, **quiet)
        weights.append(method.model.projector[0].weight)
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)
