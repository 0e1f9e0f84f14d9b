"""VladVA: contrast of short captions and prediction of long ones, what each trains, and batches that lack a kind."""

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

import nearfar
from methods.test_no_matrix_of_pairs import B, Points, step
from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.methods import VladVA
from nearfar.models import create, lvlm_embedder, vision_language_model
from nearfar.training.loop.gradients import backward

SHORT = ["a red car", "fish", "two dogs", "a tree"]
LONG = ["a red car near a tree", "one fish near two dogs and a car", "two dogs near a red tree", "a tree and a fish"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
VIT |= {"intermediate_size": 32}
PROMPTS = {"image_prompt": "a red", "text_prompt": "near a"}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer([*SHORT, *LONG] * 3, 300)
    base = vision_language_model(VIT, "tiny", tokenizer=tokenizer, image_size=16)
    with torch.no_grad():
        for name, weight in base.named_parameters():
            weight.mul_(4 if weight.ndim > 1 and not name.startswith("image") else 1)
    return lvlm_embedder(base, **PROMPTS, rank=2).train()


def batch_of(model, rows=(0, 1, 2, 3), **flags):
    rows = list(rows)
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))[rows]
    texts = {"text": model.tokenize([SHORT[n] for n in rows]), "long_text": model.tokenize([LONG[n] for n in rows])}
    return {"image": pixels, **texts, **{name: torch.tensor(value) for name, value in flags.items()}}


class Vectors(torch.nn.Module):
    """Its embeddings are what the batch holds."""

    def encode_and_score(self, pixels, tokens):
        raise AssertionError

    def encode_image(self, pixels):
        return pixels

    def encode_text(self, tokens):
        return tokens


def test_the_contrast_is_the_sum_of_both_directions():
    method = VladVA(Vectors(), temperature=1.0)
    contrast = method({"image": torch.eye(2), "text": torch.eye(2)})["loss"]
    assert contrast.item() == pytest.approx(0.626523, abs=1e-6)
    same = torch.ones(4, 3)
    assert method({"image": same, "text": same})["loss"].item() == pytest.approx(2 * math.log(4), abs=1e-6)
    image, text = torch.randn(2, 5, 7)
    loss = method({"image": image, "text": text})["loss"]
    torch.testing.assert_close(method({"image": 5 * image, "text": 0.2 * text})["loss"], loss)
    order = torch.randperm(5)
    torch.testing.assert_close(method({"image": image[order], "text": text[order]})["loss"], loss)


def test_the_loss_is_the_formula_sample_by_sample(model):
    model, batch = deepcopy(model).double().eval(), batch_of(model)
    batch["image"] = batch["image"].double()
    out = VladVA(model, temperature=0.2, caption_weight=0.7)(batch)
    v = F.normalize(model.encode_image(batch["image"]), dim=1)
    t = F.normalize(model.encode_text(batch["text"]), dim=1)
    s, own = v @ t.T / 0.2, torch.arange(4)
    contrast = F.cross_entropy(s, own) + F.cross_entropy(s.T, own)
    total, count = 0.0, 0
    for row, text in enumerate(LONG):
        score, mask = model.likelihoods(batch["image"][row, None], model.tokenize([text]))
        total, count = total - score.sum(), count + mask.sum()
    torch.testing.assert_close(out["contrast"], contrast, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out["token_loss"], total / count, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out["loss"], contrast + 0.7 * total / count, rtol=1e-5, atol=1e-6)


def gradients(method, loss):
    """The names of what gets a gradient that is not 0."""
    method.zero_grad()
    loss.backward()
    return {name for name, weight in method.named_parameters() if weight.grad is not None and weight.grad.any()}


def test_each_loss_reaches_what_it_trains(model):
    method, batch = VladVA(deepcopy(model)), batch_of(model)
    with torch.no_grad():  # while B is 0, A has no gradient
        for name, weight in method.named_parameters():
            weight.add_(0.1 if "lora_B" in name else 0)
    writing = gradients(method, method.embed(batch)["surprise"].sum())
    adapters = {name for name, _ in method.named_parameters() if ".lora_" in name}
    assert writing == adapters | {"model.image_prompt.vectors"}
    prompts = {"model.image_prompt.vectors", "model.text_prompt.vectors"}
    contrasting = gradients(method, VladVA.objective(method, {k: v for k, v in method.embed(batch).items() if k in
                                                             ("image", "text")}, {})["loss"])  # fmt: skip
    assert contrasting == adapters | prompts | {"loss.temperature.value"}
    assert gradients(method, method(batch)["loss"]) == contrasting
    assert contrasting == {name for name, weight in method.named_parameters() if weight.requires_grad}


def test_samples_without_a_kind_have_no_part_in_its_loss(model):
    method = VladVA(deepcopy(model)).eval()
    whole = method(batch_of(model))
    mixed = method(batch_of(model, has_text=[1, 1, 0, 1], has_long_text=[0, 1, 1, 0]))
    torch.testing.assert_close(mixed["contrast"], method(batch_of(model, [0, 1, 3]))["contrast"])
    torch.testing.assert_close(mixed["token_loss"], method(batch_of(model, [1, 2]))["token_loss"])
    none = method(batch_of(model, has_text=[1] * 4, has_long_text=[0] * 4))
    assert none["token_loss"].item() == 0.0
    assert none["loss"] == none["contrast"] == whole["contrast"]
    no_short = method(batch_of(model, has_text=[0] * 4, has_long_text=[1] * 4))
    assert (no_short["contrast"].item(), no_short["loss"]) == (0.0, no_short["token_loss"])
    neither = method(batch_of(model, has_text=[0] * 4, has_long_text=[0] * 4))["loss"]
    neither.backward()
    assert neither.item() == 0.0
    assert all(p.grad is None or (p.grad == 0).all() for p in method.parameters())


def test_a_batch_in_chunks_has_the_gradient_of_the_whole(model):
    flags = {"has_text": [1, 0, 1, 1], "has_long_text": [1, 1, 0, 0]}
    taken = []
    for chunk in (None, 1, 3):
        method = VladVA(deepcopy(model).double())
        batch = batch_of(model, **flags) | {"index": torch.arange(4)}
        batch["image"] = batch["image"].double()
        figures = backward(method, batch, chunk=chunk)
        grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
        taken.append(({name: value.double() for name, value in figures.items()}, grads))
    for figures, grads in taken[1:]:
        assert grads.keys() == taken[0][1].keys()
        torch.testing.assert_close(figures, taken[0][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grads, taken[0][1], rtol=1e-4, atol=1e-7)


def test_without_captions_to_write_it_is_the_contrast_alone(model):
    method = VladVA(deepcopy(model), caption_weight=0.0).eval()
    out = method(batch_of(model))
    assert sorted(out) == ["contrast", "loss", "temperature"]
    torch.testing.assert_close(out["loss"], VladVA(deepcopy(model)).eval()(batch_of(model))["contrast"])


def test_duplicates_are_no_negatives_of_each_other(model):
    batch = batch_of(model) | {"group": torch.tensor([0, 0, 1, 2])}
    plain, apart = (VladVA(deepcopy(model), exclude_duplicates=own).eval()(batch)["contrast"] for own in (False, True))
    assert apart < plain
    batch |= {"has_text": torch.tensor([1, 0, 1, 1])}
    plain, apart = (VladVA(deepcopy(model), exclude_duplicates=own).eval()(batch)["contrast"] for own in (False, True))
    torch.testing.assert_close(apart, plain)


COLOURS = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def test_it_learns_from_records_with_captions_of_both_kinds():
    from PIL import Image

    painted = Records(
        [
            {"image": Image.new("RGB", (16, 16), rgb), "text": [f"{name}", f"the whole of it is {name}"]}
            for name, rgb in COLOURS.items()
        ],
        name="painted",
    )
    torch.manual_seed(0)
    tokenizer = train_tokenizer(painted.texts() * 3, 400)
    base = vision_language_model(VIT | {"hidden_size": 32}, "tiny", tokenizer=tokenizer, image_size=16)
    model = lvlm_embedder(base, image_prompt="it is", text_prompt="it is", rank=0).unfreeze("image", "projector", "lm")
    method = VladVA(model, short=6)
    run = nearfar.train(method, painted, steps=60, batch_size=4, lr=3e-3, progress=False, report=False)
    results = evaluate(run.model, painted, ["retrieval"], captions=1)
    assert results["retrieval"]["text_to_image_R@1"] == 1.0
    assert run.model.temperature == pytest.approx(method.loss.temperature().item())
    assert set(run.model.caption(model.preprocess([record["image"] for record in painted]))) == {
        f"the whole of it is {name}" for name in COLOURS
    }


def test_settings_that_cannot_be_are_named(model):
    with pytest.raises(UserError, match="this is a DualEncoder: make one of a vision-language model"):
        VladVA(create("tiny", tokenizer=model.tokenizer))
    with pytest.raises(UserError, match="caption_weight is -1"):
        VladVA(model, caption_weight=-1)
    with pytest.raises(UserError, match="short=30 and longest=20"):
        VladVA(model, longest=20)
    with pytest.raises(UserError, match="temperature"):
        VladVA(model, temperature=0.0)


def test_a_step_holds_no_matrix_of_pairs():
    class Writes(Points):
        def encode_and_score(self, pixels, tokens):
            return self.encode_image(pixels), (torch.randn(B, 3), torch.ones(B, 3).bool())

    image, text = torch.randn(2, B, 8)
    batch = {"image": image, "text": text, "long_text": text, "group": torch.arange(B) // 2}
    batch |= {"has_text": torch.arange(B) % 5, "has_long_text": torch.arange(B) % 3}
    step(VladVA(Writes(), exclude_duplicates=True), batch)
