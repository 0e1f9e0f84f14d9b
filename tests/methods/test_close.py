"""CLOSE: texts are read in the place of pictures, without a picture and with fresh noise, and pictures afterwards."""

from copy import deepcopy

import pytest
import torch
from torch.nn.functional import normalize

import nearfar
from nearfar.data import Records, train_tokenizer
from nearfar.data.texts.text_adapters import GaussianNoise, MeanShift
from nearfar.errors import UserError
from nearfar.methods import CLOSE, Captioning
from nearfar.methods.lvlm.text_vectors import TextVectors, paired_vectors
from nearfar.models import create, vision_language_model
from nearfar.models.language import language_model
from nearfar.training.config import TrainConfig
from nearfar.training.loop.loaders import as_batches

TEXTS = ["a red car", "two small dogs near a tree", "fish", "a blue fish", "one red tree", "small cars"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
QUIET = {"progress": False, "report": False}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*TEXTS, "what is it?"] * 3, 300)


@pytest.fixture(scope="module")
def pair(tokenizer):
    torch.manual_seed(0)
    small = {"intermediate_size": 32}
    towers = {"image": VIT | small, "text": BERT | small | {"max_position_embeddings": 32}, "image_size": 16}
    made = create(**towers, tokenizer=tokenizer, embed_dim=8).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(3 if weight.ndim > 1 else 1)
    return made


@pytest.fixture(scope="module")
def model(pair, tokenizer):
    torch.manual_seed(1)
    return vision_language_model(pair, "tiny", tokenizer=tokenizer, read="embedding", tokens=2, projector="linear")


def texts_alone(**more):
    return Records([{"text": text} | more for text in TEXTS], name="texts")


def apart(method):
    """The method with vectors of texts that are far from one another, as those of an untrained encoder are not."""
    vectors = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    method.texts._kept = dict(zip(TEXTS, vectors, strict=False))
    return method


def batch_of(method, source, size=3, training=True):
    config = TrainConfig(batch_size=size, seed=0)
    return next(iter(as_batches(source, method, config, training=training)))


def test_a_batch_is_of_texts_alone_and_its_vectors_are_clean(model, pair):
    method = CLOSE(deepcopy(model), pair=pair)
    batch = batch_of(method, texts_alone(), size=6)
    assert {"stand_in", "targets", "target_count"} <= batch.keys()
    assert not {"image", "text", "views"} & batch.keys()
    written = model.tokenizer.batch_decode(batch["targets"]["input_ids"], skip_special_tokens=True)
    with torch.no_grad():
        expected = normalize(pair.encode_text(pair.tokenize([text.strip() for text in written])), dim=1)
    torch.testing.assert_close(batch["stand_in"], expected, rtol=1e-4, atol=1e-5)


def test_texts_go_through_the_model_once_and_noise_is_drawn_anew(model, pair):
    method = CLOSE(deepcopy(model), pair=pair).train()
    loader = as_batches(texts_alone(), method, TrainConfig(batch_size=3))
    for _ in range(3):
        batches = list(loader)
    assert method.texts.encoded == len(TEXTS)
    losses = {method(batches[0])["loss"].item() for _ in range(3)}
    assert len(losses) == 3
    method.eval()
    assert len({method(batches[0])["loss"].item() for _ in range(3)}) == 1


def test_a_mean_is_of_vectors_as_long_as_they_are():
    class Fixed(torch.nn.Module):
        def tokenize(self, texts):
            return torch.tensor([[3.0, 4.0] if text == "long" else [0.0, 1.0] for text in texts])

        def encode_text(self, tokens):
            return tokens

    vectors = TextVectors(Fixed())
    torch.testing.assert_close(
        vectors([["long", "short"], ["long"]]), torch.tensor([[0.514496, 0.857493], [0.6, 0.8]]), rtol=0, atol=1e-6
    )
    assert vectors.encoded == 2


def test_noise_without_an_amount_is_plain_captioning_of_the_vectors(model, pair):
    method = CLOSE(deepcopy(model), pair=pair, noise=0.0).train()
    batch = batch_of(method, texts_alone(), size=6)
    plain = Captioning(method.model).train()({"image": batch["stand_in"], "text": batch["targets"]})
    assert torch.equal(method(batch)["loss"], plain["loss"])
    louder = CLOSE(method.model, pair=pair).train()
    assert abs(louder(batch)["loss"] - plain["loss"]) > 1e-5


def test_where_pictures_and_texts_have_one_vector_both_are_written_of_alike(model, pair):
    """No gap: what was trained on texts does on pictures what it does on texts."""
    method = apart(CLOSE(deepcopy(model), pair=pair, noise=0.0))
    nearfar.train(method, texts_alone(), steps=60, batch_size=6, lr=1e-2, warmup=0.1, **QUIET)
    trained = method.model.eval()
    vectors = method.texts([[text] for text in TEXTS])
    written = []
    for vector in vectors:
        with torch.no_grad():
            trained.head.weight.zero_()
            trained.head.bias.copy_(3 * vector)
        written += trained.caption(torch.randn(1, 3, 16, 16))
    assert written == trained.caption(vectors)
    assert len(set(written)) > 1


def test_several_targets_are_the_token_weighted_mean_of_each(model, pair):
    method = CLOSE(deepcopy(model), pair=pair, targets="others", noise=0.0).double().eval()
    both = {"stand_in": normalize(torch.randn(1, 8, dtype=torch.float64), dim=1)}
    texts = ["a red car", "two small dogs near a tree"]
    two = both | {"targets": model.tokenize([*texts, ""]), "target_count": torch.tensor([2])}
    each = [
        method(both | {"targets": model.tokenize([text]), "target_count": torch.tensor([1])})["loss"] for text in texts
    ]
    count = [len(model.tokenizer(text)["input_ids"]) - 1 for text in texts]
    expected = (count[0] * each[0] + count[1] * each[1]) / sum(count)
    torch.testing.assert_close(method(two)["loss"], expected, rtol=1e-6, atol=0)


def test_each_target_is_written_of_its_own_sample(model, pair):
    method = CLOSE(deepcopy(model), pair=pair, targets="others", noise=0.0).eval()
    vectors = method.texts([["a red car"], ["fish"]])
    words = model.tokenize(["a red car", "", "", "fish", "a blue fish", "small cars"])
    ragged = method({"stand_in": vectors, "targets": words, "target_count": torch.tensor([1, 3])})["loss"]
    rows = torch.tensor([0, 1, 1, 1])
    score, mask = method.model.likelihoods(vectors[rows], {k: v[[0, 3, 4, 5]] for k, v in words.items()})
    torch.testing.assert_close(ragged, -score.sum() / mask.sum())


def test_a_question_stands_before_its_answers(model, pair):
    record = {"text": "what is it?", "context": TEXTS[:2], "answers": {"car": 3, "red car": 3, "fish": 1}}
    method = CLOSE(deepcopy(model), pair=pair, targets="answers").eval()
    batch = batch_of(method, Records([record] * 3, name="questions"))
    assert batch["target_count"].tolist() == [2, 2, 2]
    score, mask = method.model.likelihoods(
        method.texts([TEXTS[:2]] * 2), model.tokenize(["car", "red car"]), ["what is it?"] * 2
    )
    torch.testing.assert_close(method(batch)["loss"], -score.sum() / mask.sum(), rtol=1e-5, atol=1e-6)
    assert method.adapter.noise == pytest.approx(0.04 * (768 / 8) ** 0.5)


def test_nothing_of_the_image_text_model_is_trained_or_kept(model, pair):
    method = CLOSE(deepcopy(model).unfreeze("image", "head"), pair=pair).train()
    before = deepcopy(pair.state_dict())
    method(batch_of(method, texts_alone()))["loss"].backward()
    trained = {name.split(".")[1] for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == {"projector", "lm"}
    assert all(weight.grad.abs().sum() > 0 for weight in method.model.projector.parameters())
    assert all(torch.equal(value, pair.state_dict()[name]) for name, value in before.items())
    kept = {name.split(".")[1] for name in method.state_dict() if name.startswith("model.")}
    assert kept == {"image", "head", "projector", "lm"}, "texts are embedded by what is in no state"
    assert not any("pair" in name or name.startswith("texts") for name in method.state_dict())
    assert not method.model.image.training


def test_training_on_texts_alone_learns_to_write_them(model, pair, tokenizer):
    torch.manual_seed(0)
    method = apart(CLOSE(deepcopy(model), pair=pair, noise=0.01))
    run = nearfar.train(method, texts_alone(), steps=80, batch_size=6, lr=1e-2, warmup=0.1, **QUIET)
    assert run.history[-1]["token_loss"] < 0.5 * run.history[0]["token_loss"]
    written = method.model.caption(method.texts([[text] for text in TEXTS]))
    assert sum(one == text for one, text in zip(written, TEXTS, strict=True)) >= 4


def test_a_run_that_was_killed_and_resumed_ends_with_the_same_weights(model, pair, tmp_path):
    def trained(out, steps, **more):
        torch.manual_seed(0)
        method = CLOSE(deepcopy(model), pair=pair, adapter="noise")
        how = {"batch_size": 3, "save_every": 1, "schedule": "constant"} | QUIET | more
        nearfar.train(method, texts_alone(), steps=steps, out=out, **how)
        return method.state_dict()

    whole = trained(tmp_path / "whole", 4)
    trained(tmp_path / "again", 2)
    again = trained(tmp_path / "again", 4, resume=True)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_adapters_are_fitted_by_pairs(model, pair):
    from PIL import Image

    pictures = [Image.new("RGB", (16, 16), (40 * i, 9, 9)) for i in range(len(TEXTS))]
    records = [{"image": image, "text": text} for image, text in zip(pictures, TEXTS, strict=True)]
    photos = Records(records, name="photos")
    text, image = (normalize(side, dim=1) for side in paired_vectors(pair, photos))
    assert len(text) == len(image) == len(TEXTS)
    with torch.no_grad():
        expected = normalize(pair.encode_text(pair.tokenize(TEXTS)), dim=1)
    torch.testing.assert_close(text, expected, rtol=1e-4, atol=1e-5)
    method = CLOSE(deepcopy(model), pair=pair, adapter="mean_shift", fit_on=photos)
    torch.testing.assert_close(method.adapter.shift, image.mean(0) - text.mean(0), rtol=1e-5, atol=1e-6)
    assert torch.equal(method.state_dict()["adapter.shift"], method.adapter.shift), "it is saved"
    own = MeanShift(8, noise=0.3)
    assert CLOSE(deepcopy(model), pair=pair, adapter=own).adapter is own
    for targets, noise in (("same", 0.12), ("others", 0.04)):
        adapter = CLOSE(deepcopy(model), pair=pair, targets=targets).adapter
        assert isinstance(adapter, GaussianNoise)
        assert adapter.noise == pytest.approx(noise * (768 / 8) ** 0.5)


def test_what_cannot_be_is_named(model, pair, tokenizer):
    plain = vision_language_model(pair, "tiny", tokenizer=tokenizer, pool=2)
    with pytest.raises(UserError, match=r"model\.read=embedding"):
        CLOSE(plain, pair=pair)
    with pytest.raises(UserError, match="writes no captions"):
        CLOSE(pair, pair=pair)
    with pytest.raises(UserError, match="embeds texts in 128 numbers, and the model pictures in 8"):
        CLOSE(model, pair=create("tiny", tokenizer=tokenizer))
    with pytest.raises(UserError, match="targets='all'"):
        CLOSE(model, pair=pair, targets="all")
    with pytest.raises(UserError, match="adapter='warp': choose one of noise"):
        CLOSE(model, pair=pair, adapter="warp")
    with pytest.raises(UserError, match="is fitted by pairs"):
        CLOSE(model, pair=pair, adapter="linear")
    with pytest.raises(UserError, match="this one has its own"):
        CLOSE(model, pair=pair, adapter=GaussianNoise(0.1), noise=0.2)
    with pytest.raises(UserError, match="a number of at least 0"):
        CLOSE(model, pair=pair, noise=-1.0)
    with pytest.raises(UserError, match="embeds texts in 128 numbers"):
        CLOSE(model, pair=language_model("tiny", tokenizer=tokenizer))
