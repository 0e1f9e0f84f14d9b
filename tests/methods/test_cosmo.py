"""COSMO: next tokens of documents and contrast of pairs, what each trains, and batches of one kind or of both."""

import math
from copy import deepcopy
from itertools import permutations

import pytest
import torch
from torch.nn import functional as F

import nearfar
from methods.test_no_matrix_of_pairs import B, Points, step
from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.methods import COSMO
from nearfar.methods.lvlm.interleaved.cosmo import RELEASED_TEMPERATURE, caption_keys
from nearfar.models import interleaved_model, vision_language_model
from nearfar.training.loop.gradients import backward

TEXTS = ["a red car", "<visual>fish<visual>two dogs", "two dogs near a tree", "a tree", "see <visual>a car<visual>a"]
PAIRED, COUNTS = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([1, 2, 1, 1, 2])
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
VIT |= {"intermediate_size": 32}
SMALL = {"latents": 3, "depth": 1, "heads": 2, "head_width": 8, "embed_dim": 12, "max_length": 32, "image_size": 16}
CONTRAST_ONLY = {"model.text_pooler", "model.image_projection", "model.text_projection", "loss.temperature"}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = interleaved_model(VIT, "tiny", tokenizer=train_tokenizer(TEXTS * 3, 300), **SMALL)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(4 if weight.ndim > 1 and not name.startswith("image") else 1)
            if "gate" in name:
                weight.fill_(0.7)
    return model.train()


def batch_of(model, rows=range(5)):
    rows = list(rows)
    images = torch.randn(5, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))[rows]
    text = model.tokenize([TEXTS[n] for n in rows])
    return {"images": images, "image_count": COUNTS[rows], "paired": PAIRED[rows], "text": text}


def doubled(model):
    model, batch = deepcopy(model).double(), batch_of(model)
    return model, batch | {"images": batch["images"].double()}


class Vectors(Points):
    """Its embeddings are what the batch holds, and every text is one token that is certain."""

    text_pooler, device = None, torch.device("cpu")

    def encode_and_score(self, image, text, counts, rows):
        certain = (torch.zeros(len(image), 1), torch.ones(len(image), 1).bool())
        return image[rows], text["vectors"][rows], certain


def contrast_of(image, text, **settings):
    ids = torch.arange(len(text))[:, None]
    words = {"vectors": text, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    method = COSMO(Vectors(), **settings)
    return method({"image": image, "text": words})["loss"].item()


@pytest.mark.parametrize(
    ("scale", "count", "value"),
    [(math.exp(0.2), 2, 0.258369), (math.exp(0.2), 96, 3.367556), (5.0, 2, 0.006715), (5.0, 96, 0.494760)],
)
def test_what_separated_pairs_cost_at_the_released_scale_and_at_five(scale, count, value):
    assert contrast_of(torch.eye(count), torch.eye(count), temperature=1 / scale) == pytest.approx(value, abs=1e-6)


def test_equal_embeddings_cost_the_logarithm_of_their_number():
    same = torch.ones(96, 3)
    assert contrast_of(same, same) == pytest.approx(math.log(96), abs=2e-6)
    assert pytest.approx(math.exp(-0.2)) == RELEASED_TEMPERATURE
    assert contrast_of(torch.eye(2), torch.eye(2), temperature=RELEASED_TEMPERATURE) == pytest.approx(
        0.258369, abs=1e-6
    )


def test_the_loss_is_the_formula_sample_by_sample(model):
    model, batch = doubled(model)
    method = COSMO(model.eval(), temperature=0.3, contrast=0.7)
    out = method(batch)
    pairs = PAIRED.nonzero()[:, 0]
    v = F.normalize(model.encode_image(batch["images"][pairs, 0]), dim=1)
    t = F.normalize(model.encode_text(model.tokenize([TEXTS[n] for n in pairs])), dim=1)
    s, own = v @ t.T / 0.3, torch.arange(3)
    contrast = (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2
    total, count = 0.0, 0
    for row, text in enumerate(TEXTS):
        images = batch["images"][row : row + 1, : COUNTS[row]]
        score, mask = model.likelihoods(images, model.tokenize([text]))
        total, count = total - score.sum(), count + mask.sum()
    torch.testing.assert_close(out["contrast"], contrast, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out["token_loss"], total / count, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out["loss"], total / count + 0.7 * contrast, rtol=1e-6, atol=1e-6)


def gradients(method, loss):
    """The names of what gets a gradient that is not 0."""
    method.zero_grad()
    loss.backward()
    return {name for name, weight in method.named_parameters() if weight.grad is not None and weight.grad.any()}


def of_contrast(names):
    return {name for name in names if any(name.startswith(part) for part in CONTRAST_ONLY)}


def test_each_loss_reaches_what_it_trains_and_documents_have_no_contrast(model):
    method, batch = COSMO(deepcopy(model)), batch_of(model)
    whole = gradients(method, method(batch)["loss"])
    assert whole == {name for name, weight in method.named_parameters() if weight.requires_grad}
    assert not any(name.startswith(("model.lm", "model.image.")) for name in whole)
    documents = batch_of(model, [1, 4])
    out = method(documents)
    assert out["loss"] == out["token_loss"]
    assert out["contrast"].item() == 0.0
    assert of_contrast(gradients(method, out["loss"])) == set()
    alone = COSMO(deepcopy(model), contrast=0.0)
    assert alone.loss is None
    out = alone(batch)
    assert sorted(out) == ["loss", "token_loss"]
    torch.testing.assert_close(out["loss"], method(batch)["token_loss"])
    gradients(alone, out["loss"])
    unused = [w.grad for n, w in alone.named_parameters() if of_contrast([n])]
    assert len(unused) > 3
    assert all(grad is None for grad in unused)


def test_documents_change_the_contrast_of_no_pair(model):
    method = COSMO(deepcopy(model)).eval()
    torch.testing.assert_close(method(batch_of(model))["contrast"], method(batch_of(model, [0, 2, 3]))["contrast"])


def test_plain_pairs_need_neither_marks_nor_flags(model):
    method, batch = COSMO(deepcopy(model)).eval(), batch_of(model, [0, 2, 3])
    plain = {"image": batch["images"][:, 0], "text": batch["text"]}
    torch.testing.assert_close(method(plain)["loss"], method(batch)["loss"])


def test_equal_captions_and_pictures_of_a_group_are_no_negatives(model):
    texts = ["a red car", "a red car", "fish", "car red a"]
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    batch = {"image": images, "text": model.tokenize(texts)}
    apart, plain = (COSMO(deepcopy(model), exclude_duplicates=own).eval()(batch)["contrast"] for own in (True, False))
    assert apart < plain
    s = F.normalize(model.encode_image(images), dim=1) @ F.normalize(model.encode_text(batch["text"]), dim=1).T / 0.07
    s = s.masked_fill(torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]).bool(), -torch.inf)
    own = torch.arange(4)
    torch.testing.assert_close(apart, (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2)
    grouped = COSMO(deepcopy(model)).eval()(batch | {"group": torch.tensor([5, 6, 7, 5])})["contrast"]
    assert grouped < apart  # three captions are one now
    keys = caption_keys(batch["text"]).tolist()
    assert keys[0] == keys[1] != keys[3]


def test_a_batch_in_chunks_has_the_gradient_of_the_whole(model):
    taken = []
    for chunk in (None, 1, 2):
        own, batch = doubled(model)
        method = COSMO(own)
        figures = backward(method, batch | {"index": torch.arange(5)}, chunk=chunk)
        grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
        taken.append(({name: value.double() for name, value in figures.items()}, grads))
    for figures, grads in taken[1:]:
        assert grads.keys() == taken[0][1].keys()
        torch.testing.assert_close(figures, taken[0][0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(grads, taken[0][1], rtol=1e-4, atol=1e-6)


COLOURS = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255)}


def test_it_learns_from_pictures_and_documents_and_retrieves_and_writes():
    from PIL import Image

    painted = {name: Image.new("RGB", (16, 16), rgb) for name, rgb in COLOURS.items()}
    single = [{"image": image, "text": f"all {name}"} for name, image in painted.items()]
    names = list(painted)
    documents = [
        {"images": [painted[one], painted[other]], "text": [f"all {one}", f"all {other}"]}
        for one, other in permutations(names, 2)
    ]
    records = Records([*single, *documents], name="painted")
    torch.manual_seed(0)
    tokenizer = train_tokenizer([f"all {name}" for name in names] * 3, 400)
    model = interleaved_model(VIT | {"hidden_size": 32}, "tiny", tokenizer=tokenizer, **SMALL).unfreeze("lm", "image")
    method = COSMO(model)
    run = nearfar.train(method, records, steps=120, batch_size=9, lr=3e-3, progress=False, report=False)
    results = evaluate(run.model, Records(single, name="single"), ["retrieval", "captioning"])
    assert results["retrieval"]["text_to_image_R@1"] == 1.0
    assert results["captioning"]["exact"] == 1.0
    assert run.model.temperature == pytest.approx(method.loss.temperature().item())
    for second in ("blue", "green"):
        pixels = model.preprocess([painted["red"], painted[second]])
        assert run.model.complete(pixels[None], ["<visual>all red<visual>all"], max_tokens=3) == [second]


def test_settings_that_cannot_be_are_named(model):
    with pytest.raises(UserError, match=r"this is a VisionLanguageModel: make one with .*interleaved_model"):
        COSMO(vision_language_model(VIT, "tiny", tokenizer=model.tokenizer, image_size=16))
    for contrast in (-1, math.inf, math.nan):
        with pytest.raises(UserError, match="contrast="):
            COSMO(model, contrast=contrast)
    with pytest.raises(UserError, match="most_pictures"):
        COSMO(model, most_pictures=0)
    with pytest.raises(UserError, match="temperature"):
        COSMO(model, temperature=0.0)


def test_a_step_holds_no_matrix_of_pairs():
    class Writes(Vectors):
        def encode_and_score(self, image, text, counts, rows):
            image, text, _ = super().encode_and_score(image, text, counts, rows)
            return self.encode_image(image), self.encode_text(text), (torch.randn(B, 3), torch.ones(B, 3).bool())

    image, text = torch.randn(2, B, 8)
    words = {"vectors": text, "input_ids": torch.arange(B)[:, None], "attention_mask": torch.ones(B, 1)}
    step(COSMO(Writes()), {"image": image, "text": words, "group": torch.arange(B) // 2, "paired": torch.arange(B) % 5})
