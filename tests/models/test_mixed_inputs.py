"""`model.encode`: a list of anything that the model reads, in its order, with the numbers of `encode_image` and
`encode_text`."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import image_encoder
from nearfar.models.language import language_model, text_encoder

TEXTS = ["a red fox", "ship", "the blue cat on the mat", "dog runs"]


@pytest.fixture
def pictures():
    noise = np.random.default_rng(0)
    return [
        Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in [(40, 60), (33, 33), (90, 32)]
    ]


def own(model, texts=(), pictures=()):
    with torch.no_grad():
        made = [model.encode_text(model.tokenize([text])) for text in texts]
        return torch.cat([*made, *(model.encode_image(model.preprocess([picture])) for picture in pictures)]).numpy()


def test_a_mixed_list_comes_back_in_its_order(model, pictures, tmp_path):
    pictures[0].save(tmp_path / "a picture.png")
    pictures[1].save(tmp_path / "b.PNG")
    blob = (tmp_path / "b.PNG").read_bytes()
    mixed = [
        pictures[2],
        TEXTS[0],
        str(tmp_path / "a picture.png"),
        TEXTS[1],
        tmp_path / "b.PNG",
        blob,
        np.asarray(pictures[1]),
    ]
    out = model.encode(mixed, batch_size=2)
    assert (out.shape, out.dtype, type(out)) == ((7, 16), np.float32, np.ndarray)
    by_kind = own(model, TEXTS[:2], pictures)
    np.testing.assert_allclose(out, by_kind[[4, 0, 2, 1, 3, 3, 3]], atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 32])
def test_the_batch_size_changes_nothing(model, size):
    np.testing.assert_allclose(model.encode(TEXTS, batch_size=size), own(model, TEXTS), atol=1e-6)


def test_what_comes_back(model, pictures):
    one = model.encode(TEXTS[0])
    assert one.shape == (16,)
    assert model.encode(pictures[0]).shape == (16,)
    assert model.encode([]).shape == (0, 16)
    assert model.encode(np.array(TEXTS)).shape == (4, 16)
    assert model.encode(tuple(TEXTS)).shape == (4, 16)
    assert model.encode(text for text in TEXTS).shape == (4, 16)
    assert model.encode(np.str_("ship")).shape == model.encode(np.asarray(pictures[0])).shape == (16,)
    batch = np.stack([np.asarray(pictures[1]), np.asarray(pictures[1])[::-1]])
    np.testing.assert_array_equal(model.encode(batch), model.encode(list(batch)))
    unit = model.encode(TEXTS, normalize_embeddings=True, convert_to_tensor=True)
    assert torch.equal(unit.norm(dim=1).round(decimals=6), torch.ones(4))
    assert not unit.requires_grad
    np.testing.assert_allclose(unit[0], one / np.linalg.norm(one), atol=1e-6)


def test_a_model_in_training_is_looked_at_without_training(model):
    model.train()
    first, again = model.encode(TEXTS), model.encode(TEXTS)
    assert np.array_equal(first, again)
    assert model.training


def test_a_name_of_a_picture_is_a_path_and_a_sentence_is_none(model, tmp_path):
    with pytest.raises(UserError, match=r"input 1: .*missing\.png: no such file: is it a text\? write .*side='text'"):
        model.encode(["ship", str(tmp_path / "missing.png")])
    texts = ["fox.png", "the ship at sea is in cat.png"]
    np.testing.assert_allclose(model.encode(texts, side="text"), own(model, texts), atol=1e-6)
    np.testing.assert_allclose(model.encode(texts[1:]), own(model, texts[1:]), atol=1e-6)
    with pytest.raises(UserError, match=r"input 0: .*fox: no such file"):
        model.encode("fox", side="image")


def test_what_is_no_input_is_named_with_its_place(model, pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for inputs, message in [
        (["ship", 7], "input 1 is a int: encode takes texts, and pictures as"),
        ([None], "input 0 is a NoneType"),
        ({"ship", "fox"}, "a set has no order of inputs: pass encode a list"),
        ({"text": "ship"}, "a dict has no order of inputs: pass encode a list"),
        (np.zeros((2, 3, 3)), r"input 0: an array \[2, 3, 3\] of float64, not uint8 \[H, W\]"),
        ([tmp_path / "broken.png"], "input 0: .*broken.png: not an image that can be read"),
        ([tmp_path / "none.png"], "input 0: .*none.png: no such file$"),
    ]:
        with pytest.raises(UserError, match=message):
            model.encode(inputs)
    for settings, message in [
        ({"side": "video"}, "side='video': choose 'text' or 'image'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"dim": 17}, "dim=17: this model's embeddings have 16 numbers, so name 1 to 16"),
        ({"dim": 0}, "dim=0"),
    ]:
        with pytest.raises(UserError, match=message):
            model.encode(TEXTS, **settings)
    with pytest.raises(UserError, match="input 0 is a Image, and side='text' takes texts alone"):
        model.encode(pictures[:1], side="text")


def test_numbers_that_are_none_are_refused(model):
    with torch.no_grad():
        model.text_projection.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN or infinite"):
        model.encode(TEXTS)


def test_embeddings_are_cut_and_then_scaled(model):
    whole = model.encode(TEXTS)
    with pytest.warns(UserWarning, match="of 16 numbers are cut to 4, and training did not arrange them"):
        assert np.array_equal(model.encode(TEXTS, dim=4), whole[:, :4])
    model.matryoshka = (4, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unit = model.encode(TEXTS, dim=4, normalize_embeddings=True)
        assert np.array_equal(model.encode(TEXTS, dim=16), whole)
    np.testing.assert_allclose(unit, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True), atol=1e-6)
    with pytest.warns(UserWarning, match="cut to 8, and training arranged them for 4, 16"):
        model.encode(TEXTS, dim=8)


def test_the_widths_that_it_may_be_cut_to_are_saved(model, bert, tokenizer, tmp_path):
    import nearfar

    assert "matryoshka" not in model.config()
    for made in (model, text_encoder(bert, tokenizer=tokenizer)):
        made.matryoshka = (4, 16)
        assert nearfar.load(made.save_pretrained(tmp_path / type(made).__name__)).matryoshka == (4, 16)


def test_models_of_texts_alone(bert, tokenizer, pictures, tmp_path):
    for model in (text_encoder(bert, tokenizer=tokenizer).eval(), language_model("tiny", tokenizer=tokenizer)):
        out = model.encode([*TEXTS, "fox.png"], batch_size=2, normalize_embeddings=True)
        alone = own(model, [*TEXTS, "fox.png"])
        np.testing.assert_allclose(out, alone / np.linalg.norm(alone, axis=1, keepdims=True), atol=1e-5)
        for picture in (pictures[0], tmp_path / "a.png"):
            with pytest.raises(
                UserError, match=f"input 1 is a picture, and a {type(model).__name__} reads texts alone"
            ):
                model.encode(["ship", picture])


def test_a_jpeg_is_decoded_no_smaller_than_it_is_scaled_to(tmp_path):
    """A model that scales to 64 and crops 56 of a picture whose half is 60 high: not first to 60, then up to 64."""
    noise = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    model = image_encoder("micro-resnet", image_size=56).eval()
    model.pixels = replace(model.pixels, fit="crop", size=56, resize=64)
    expected = own(model, pictures=[Image.open(tmp_path / "a.jpg")])
    np.testing.assert_allclose(model.encode([tmp_path / "a.jpg"]), expected, atol=1e-5)


def test_a_language_model_reads_texts_as_others_do():
    model = language_model("tiny", tokenizer=train_tokenizer(TEXTS * 9, 300))
    with pytest.raises(UserError, match="tokenize takes a list of texts, not one text"):
        model.tokenize("a red fox")
    assert model.encode(["half a pair \ud83d of a sign"]).shape == (1, model.embed_dim)
