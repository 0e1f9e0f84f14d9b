"""open_clip models, made from configs, behind the encoder's interface."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models import load
from nearfar.models.towers.pixels import CLIP, Pixels

open_clip = pytest.importorskip("open_clip")

TEXTS = ["a red fox", "the ship at sea", "cat"]
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
WORDS = {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 2, "layers": 2}


def made(kind):
    if kind == "clip":
        return open_clip.CLIP(24, vision_cfg=VISION, text_cfg=WORDS)
    return open_clip.CustomTextCLIP(
        24,
        vision_cfg={**VISION, "pool_type": "avg"},
        text_cfg=WORDS,
        init_logit_scale=np.log(10),
        init_logit_bias=-10.0,
    )


def pictures():
    noise = np.random.default_rng(0)
    sizes = [(40, 60), (62, 31), (32, 32)]
    return [Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]


@pytest.fixture
def transform():
    return open_clip.image_transform((32, 32), is_train=False)


@pytest.fixture(params=["clip", "custom"])
def model(request):
    return made(request.param).eval()


@pytest.fixture
def encoder(model, transform):
    return load(model, tokenizer=open_clip.get_tokenizer("ViT-B-32"), preprocess=transform)


def test_embeddings_are_the_models_own(model, encoder, transform):
    pixels, tokens = encoder.preprocess(pictures()), encoder.tokenize(TEXTS)
    assert torch.equal(pixels, torch.stack([transform(p) for p in pictures()]))
    assert torch.equal(tokens["input_ids"], open_clip.get_tokenizer("ViT-B-32")(TEXTS))
    assert torch.equal(encoder.encode_image(pixels, normalize=True), model.encode_image(pixels, normalize=True))
    assert torch.equal(encoder.encode_text(tokens), model.encode_text(tokens["input_ids"]))
    assert encoder.embed_dim == encoder.encode_image(pixels).shape[1] == 24
    assert (encoder.image_size, encoder.mean, encoder.std) == (32, *CLIP)


def test_temperature_and_bias_give_the_models_logits(model, encoder):
    pixels, tokens = encoder.preprocess(pictures()), encoder.tokenize(TEXTS)
    expected = model.get_logits(pixels, tokens["input_ids"])[0]
    image, text = encoder(pixels, tokens)
    logits = image @ text.T / encoder.temperature + (encoder.bias or 0.0)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_our_pixels_are_theirs(transform):
    # Where an odd number of pixels is cropped they round the middle to even and we, with transformers, down.
    assert all((32 * max(p.size) // min(p.size)) % 2 == 0 for p in pictures())
    ours = Pixels(32, *CLIP)(pictures())
    torch.testing.assert_close(ours, torch.stack([transform(p) for p in pictures()]), atol=2e-6, rtol=0)


def test_half_precision(model, transform):
    half = load(copy.deepcopy(model).bfloat16(), tokenizer=open_clip.get_tokenizer("ViT-B-32"), preprocess=transform)
    image, text = half(half.preprocess(pictures()), half.tokenize(TEXTS))
    assert (image.dtype, text.dtype) == (torch.bfloat16, torch.bfloat16)
    expected = model.encode_image(half.preprocess(pictures()), normalize=True)
    torch.testing.assert_close(image.float(), expected, atol=0.05, rtol=0)


def test_it_is_trained_in_place(model, encoder):
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    pixels, tokens = encoder.preprocess(pictures()), encoder.tokenize(TEXTS)
    image, text = encoder(pixels, tokens)
    F.cross_entropy(image @ text.T / 0.1, torch.arange(3)).backward()
    optimiser.step()
    moved = {
        name.partition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"visual"} < moved


def test_saved_weights_open_in_open_clip(model, encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    again = made("clip" if isinstance(model, open_clip.CLIP) else "custom").eval()
    open_clip.load_checkpoint(again, str(tmp_path / "open_clip_model.safetensors"))
    pixels = encoder.preprocess(pictures())
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))


TINY = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": WORDS}


@pytest.fixture
def checkpoint(tmp_path):
    """A model of open_clip as a folder in its own layout, and its name as one of open_clip's."""
    torch.manual_seed(1)
    (tmp_path / "tiny-of-tests.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "tiny-of-tests.json")
    model, _, transform = open_clip.create_model_and_transforms("tiny-of-tests")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder, model.eval(), transform


def same(encoder, model, transform):
    tokens = open_clip.get_tokenizer("tiny-of-tests")(TEXTS)
    with torch.no_grad():
        assert torch.equal(encoder.encode_text(encoder.tokenize(TEXTS)), model.encode_text(tokens))
        pixels = torch.stack([transform(picture) for picture in pictures()])
        assert torch.equal(encoder.encode_image(encoder.preprocess(pictures())), model.encode_image(pixels))
    assert not encoder.training


def test_a_word_names_a_model_and_its_file_or_its_folder(checkpoint, tmp_path):
    folder, model, transform = checkpoint
    for word in (
        f"open_clip:tiny-of-tests:{folder / 'open_clip_pytorch_model.bin'}",
        f"open_clip:{folder}",
        str(folder),
    ):
        same(load(word), model, transform)
    saved = load(f"open_clip:tiny-of-tests:{folder / 'open_clip_pytorch_model.bin'}").save_pretrained(
        tmp_path / "saved"
    )
    same(load(saved), model, transform)
    assert (saved / "README.md").is_file()


def test_words_that_name_nothing_are_sentences(checkpoint, tmp_path):
    folder = checkpoint[0]
    for word, message in [
        ("open_clip:ViT-B-23:openai", r"no open_clip model 'ViT-B-23'. Did you mean 'ViT-B-32'\?"),
        ("open_clip:ViT-B-32:opneai", r"no weights of open_clip's ViT-B-32 'opneai'. Did you mean 'openai'\?"),
        ("open_clip:ViT-B-32", "names no weights: open_clip:ViT-B-32:TAG with one of openai, "),
        (f"open_clip:{tmp_path}", "holds no open_clip_config.json: name the model and the file"),
    ]:
        with pytest.raises(UserError, match=message):
            load(word)
    (folder / "open_clip_pytorch_model.bin").rename(folder / "weights.pt")  # which open_clip would not read
    with pytest.raises(UserError, match="holds no weights"):
        load(f"open_clip:{folder}")


def test_any_model_of_open_clip_encodes_mixed_lists(encoder):
    both = encoder.encode([TEXTS[0], pictures()[0]], normalize_embeddings=True)
    image, text = encoder(encoder.preprocess(pictures()[:1]), encoder.tokenize(TEXTS[:1]))
    np.testing.assert_allclose(both, torch.cat([text, image]).detach().numpy(), atol=1e-6)
