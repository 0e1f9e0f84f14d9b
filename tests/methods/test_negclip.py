"""NegCLIP's invariants (arXiv 2210.01936), with the numbers of its loss worked out by hand."""

import math

import pytest
import torch

import nearfar
from nearfar.data import Loader, PairedOrder, mine_hard_images, with_hard_captions
from nearfar.data.scenes import scenes
from nearfar.evaluation import embed_images
from nearfar.losses.functional import info_nce
from nearfar.methods.image_text.clip import CLIP
from nearfar.methods.image_text.negclip import NegCLIP
from oracles import negclip as oracle


class Identity(torch.nn.Module):
    def encode_image(self, pixels, normalize=False):
        return pixels

    def encode_text(self, tokens, normalize=False):
        return tokens


def random_batch(n=5, d=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    keys = ("image", "text", "negative_text")
    return {key: torch.randn(n, d, generator=g, dtype=torch.float64, requires_grad=True) for key in keys}


def loss(batch, temperature=1.0):
    return NegCLIP(Identity(), temperature=temperature)(batch)["loss"]


def test_without_hard_captions_it_is_clip_bit_for_bit():
    batch = random_batch()
    del batch["negative_text"]
    assert loss(batch, 0.07).item() == CLIP(Identity())(batch)["loss"].item()


@pytest.mark.parametrize(
    ("hard", "scale", "total"),
    [("same", 1, 0.6598353), ("same", 100, math.log(2) / 2), ("orthogonal", 1, 0.5284650), ("opposite", 1, 0.4698925)],
)
def test_worked_examples(hard, scale, total):
    eye = torch.eye(4, dtype=torch.float64)
    x = eye[:2]
    h = {"same": x, "orthogonal": eye[2:], "opposite": -x}[hard]
    batch = {"image": x, "text": x, "negative_text": h}
    assert loss(batch, 1 / scale).item() == pytest.approx(total, abs=2e-6)


def test_hard_captions_are_negatives_of_images_only():
    batch = random_batch()
    s = torch.nn.functional.normalize(batch["text"], dim=1) @ torch.nn.functional.normalize(batch["image"], dim=1).T
    text_side = torch.nn.functional.cross_entropy(s, torch.arange(5)) / 2
    image_side = loss(batch) - text_side
    (whole,) = torch.autograd.grad(loss(batch), batch["negative_text"])
    (part,) = torch.autograd.grad(image_side, batch["negative_text"])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(whole, part)


def test_more_hard_captions_never_lower_the_loss():
    batch = random_batch()
    values = [loss({**batch, "negative_text": batch["negative_text"][:k]}).item() for k in range(1, 6)]
    assert values == sorted(values)


def test_permutations():
    batch = random_batch()
    order = torch.tensor([2, 0, 4, 1, 3])
    value = loss(batch).item()
    assert loss({key: v[order] for key, v in batch.items()}).item() == pytest.approx(value, rel=1e-12)
    shuffled = {**batch, "negative_text": batch["negative_text"][order]}
    assert loss(shuffled).item() == pytest.approx(value, rel=1e-12)


def test_against_the_full_matrix():
    batch = random_batch()
    x, t, h = (torch.nn.functional.normalize(batch[k], dim=1) for k in ("image", "text", "negative_text"))
    y = torch.arange(5)
    expected = (
        torch.nn.functional.cross_entropy(3 * x @ torch.cat([t, h]).T, y)
        + torch.nn.functional.cross_entropy(3 * t @ x.T, y)
    ) / 2
    got = loss(batch, 1 / 3)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    leaves = list(batch.values())
    for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("scale", oracle.LOSSES)
def test_against_the_released_loss(scale):
    expected, norms, without = oracle.LOSSES[scale]
    batch = oracle.features()
    assert loss(batch, 1 / scale).item() == pytest.approx(expected, rel=1e-6)
    # The released loss leaves the normalisation to the model, so its gradients are those of the plain formula.
    x, t, h = (value.requires_grad_() for value in oracle.features().values())
    y = torch.arange(6)
    plain = (
        torch.nn.functional.cross_entropy(scale * x @ torch.cat([t, h]).T, y)
        + torch.nn.functional.cross_entropy(scale * t @ x.T, y)
    ) / 2
    gradients_alone = torch.autograd.grad(plain, (x, t, h))
    assert [g.norm().item() for g in gradients_alone] == pytest.approx(norms, rel=1e-9)
    # Ours passes through the normalisation: what is left is the part along the sphere.
    leaves = [batch[key].requires_grad_() for key in ("image", "text", "negative_text")]
    for leaf, ours, theirs in zip(
        leaves, torch.autograd.grad(loss(batch, 1 / scale), leaves), gradients_alone, strict=True
    ):
        row = leaf.detach()
        along = theirs - (theirs * row).sum(1, keepdim=True) * row
        torch.testing.assert_close(ours, along, rtol=1e-5, atol=1e-6)
    del batch["negative_text"]
    assert loss(batch, 1 / scale).item() == pytest.approx(without, rel=1e-6)


def tiny_clip():
    """A transformers CLIPModel of random weights, and a tokenizer of the scenes' captions."""
    from transformers import CLIPConfig, CLIPModel

    from nearfar.data import train_tokenizer

    tokenizer = train_tokenizer(SCENES.texts(), 300)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "eos_token_id": tokenizer.sep_token_id}
    words |= {"bos_token_id": tokenizer.cls_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = CLIPConfig(
        text_config={**sizes, **words}, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    return nearfar.models.load(CLIPModel(config), tokenizer=tokenizer)


SCENES = scenes("train", vocabulary="shapes", n=32, size=32)


def test_a_clip_of_transformers_learns_from_hard_captions_and_images():
    torch.manual_seed(0)
    encoder = tiny_clip()
    near = mine_hard_images(embed_images(encoder, SCENES.column("image")), k=3)
    batches = Loader(
        with_hard_captions(SCENES),
        batch_size=16,
        image_size=encoder.image_size,
        mean=encoder.mean,
        std=encoder.std,
        tokenizer=encoder.tokenizer,
        negatives=1,
        order=PairedOrder(near),
        views="none",
    )
    batch = next(iter(batches))
    assert batch["negative_text"]["input_ids"].shape[0] == batch["image"].shape[0] == 16
    method = NegCLIP(encoder)
    before = {name: parameter.clone() for name, parameter in encoder.named_parameters()}
    first = method(batch)["loss"].item()
    nearfar.train(method, batches, steps=6, lr=3e-3, progress=False, report=False)
    assert method(batch)["loss"].item() < first
    moved = [name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])]
    assert any("vision" in n or "image" in n for n in moved)
    assert any("text" in n for n in moved)


@pytest.mark.parametrize("exclude", [True, False])
def test_duplicates_are_left_out_only_where_they_should(exclude):
    batch, group = random_batch(), torch.tensor([0, 0, 1, 2, 3])
    actual = NegCLIP(Identity(), temperature=0.5, exclude_duplicates=exclude)({**batch, "group": group})["loss"]
    x, t, h = batch["image"], batch["text"], batch["negative_text"]
    expected = info_nce(x, t, temperature=0.5, negatives_b=h, group=group if exclude else None)
    torch.testing.assert_close(actual, expected)


def test_the_temperature_goes_on_from_the_model_s():
    encoder = tiny_clip()
    assert NegCLIP(encoder).loss.temperature().item() == pytest.approx(encoder.temperature)
    assert NegCLIP(encoder, temperature=0.5).loss.temperature().item() == pytest.approx(0.5)
    assert NegCLIP(Identity()).loss.temperature().item() == pytest.approx(0.07)


def test_a_caption_without_a_swap_has_no_column():
    """What stands in the place of its hard caption changes nothing: the loss is that of the other rows' alone."""
    batch = random_batch() | {"has_negative": torch.tensor([1, 0, 1, 1, 0])}
    other = batch | {"negative_text": batch["negative_text"].detach().clone()}
    other["negative_text"][[1, 4]] = other["image"][[1, 4]].detach()
    assert loss(batch, 0.5).item() == loss(other, 0.5).item()
    right = info_nce(
        batch["image"], batch["text"], temperature=0.5, negatives_b=batch["negative_text"][[0, 2, 3]]
    ).item()
    assert loss(batch, 0.5).item() == pytest.approx(right, abs=1e-12)
    none = batch | {"has_negative": torch.zeros(5, dtype=torch.long)}
    del batch["negative_text"]
    assert loss(none, 0.5).item() == loss(batch, 0.5).item()
