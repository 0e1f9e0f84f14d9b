"""What `save_pretrained` writes of a CLIP, or of a model of texts alone, is other libraries' folder too: they open
it as it is, with the same numbers, and its weights are there once."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from export.test_sentence_encoder import BERT, LLAMA, TEXTS, clip, dual, end_is_last, opened, same, tokenizer
from nearfar.errors import UserError
from nearfar.models.language import language_model, text_encoder

__all__ = ["end_is_last", "tokenizer"]  # fixtures


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def stored(folder):
    """Bytes of weights in a folder, and those that a float32 model of it would have."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def once(folder, model):
    """The weights are there once: beside them heads of files, and a scale."""
    held = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert held < stored(folder) < held + 20_000


@pytest.mark.parametrize("made", [BERT, LLAMA], ids=["bert", "llama"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "eos"])
def test_a_model_of_texts_alone(made, pooling, tokenizer, tmp_path):
    from transformers import AutoModel

    model = text_encoder(made, tokenizer=tokenizer, pooling=pooling, max_length=24).eval()
    model.save_pretrained(tmp_path)
    same(tmp_path, model)
    once(tmp_path, model)
    again = nearfar.load(tmp_path)
    assert type(again) is type(model)
    assert (again.text.pooling, again.max_length) == (pooling, 24)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    plain, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert all(name.startswith("pooler.") for name in report.pop("missing_keys")), "BERT's own pooling, not ours"
    assert not any(report.values())
    assert type(plain) is type(model.text.backbone)
    tokens = model.tokenize(TEXTS)
    with torch.no_grad():
        states = plain.eval()(**tokens).last_hidden_state
    torch.testing.assert_close(states, model.text.backbone(**tokens).last_hidden_state)


def test_its_dense_layers_lie_beside_it_and_belong_to_it(tokenizer, tmp_path):
    models = [text_encoder(BERT, tokenizer=tokenizer, pooling="cls", dense="Tanh").eval() for _ in range(2)]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
    same(tmp_path / "0", models[0])
    once(tmp_path / "0", models[0])
    np.testing.assert_array_equal(nearfar.load(tmp_path / "0").encode(TEXTS), models[0].encode(TEXTS))
    shutil.copy(tmp_path / "1" / "2_Dense" / "model.safetensors", tmp_path / "0" / "2_Dense" / "model.safetensors")
    with pytest.raises(UserError, match=r"2_Dense/model.safetensors in .* does not go with its model.safetensors"):
        nearfar.load(tmp_path / "0")
    (tmp_path / "1" / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"2_Dense/model.safetensors is missing"):
        nearfar.load(tmp_path / "1")


def test_a_language_model(tokenizer, tmp_path):
    tokenizer.padding_side = "left"
    model = language_model("tiny", tokenizer=tokenizer).eval()
    model.save_pretrained(tmp_path)
    tokenizer.padding_side = "right"
    same(tmp_path, model)
    again = nearfar.load(tmp_path)
    assert type(again) is type(model), "it continues texts still"
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_what_sentence_transformers_saves_anew_is_its_own(tokenizer, tmp_path):
    """With another pooling: ours is not carried over, and the folder is read as what it says now."""
    text_encoder(BERT, tokenizer=tokenizer, pooling="mean").save_pretrained(tmp_path / "ours")
    theirs = opened(tmp_path / "ours")
    theirs[1].pooling_mode = "cls"
    theirs[1].pooling_mode_cls_token, theirs[1].pooling_mode_mean_tokens = True, False
    theirs.save_pretrained(str(tmp_path / "theirs"))
    assert not (tmp_path / "theirs" / "nearfar.json").exists()
    np.testing.assert_allclose(
        opened(tmp_path / "theirs").encode(TEXTS), nearfar.load(tmp_path / "theirs").encode(TEXTS), atol=1e-5
    )


def pictures():
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in ((40, 60), (32, 32))]


def test_a_clip(end_is_last, tmp_path):
    from transformers import AutoModel

    model = nearfar.load(clip(end_is_last), tokenizer=end_is_last).freeze("image")
    model.temperature = 0.05
    model.save_pretrained(tmp_path)
    same(tmp_path, model)
    once(tmp_path, model)
    theirs = nearfar_free(tmp_path)
    np.testing.assert_allclose(theirs.encode(pictures()), model.encode(pictures()), atol=1e-5)
    whole, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert whole.logit_scale.exp().item() == pytest.approx(1 / 0.05)
    tokens = model.tokenize(TEXTS)
    with torch.no_grad():
        text = whole.eval().get_text_features(**tokens)
        image = whole.get_image_features(pixel_values=model.preprocess(pictures()))
    torch.testing.assert_close(getattr(text, "pooler_output", text), model.encode_text(tokens))
    torch.testing.assert_close(getattr(image, "pooler_output", image), model.encode_image(model.preprocess(pictures())))
    again = nearfar.load(tmp_path)
    assert (again.temperature, again.frozen) == (0.05, ("image",))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def nearfar_free(folder):
    """Pillow, as here: torchvision, which transformers prefers where it is installed, resizes to other last digits."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", processor_kwargs={"backend": "pil"})


def test_a_clip_in_half_precision(end_is_last, tmp_path):
    from transformers import AutoModel

    model = nearfar.load(clip(end_is_last), tokenizer=end_is_last).bfloat16()
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert next(nearfar.load(tmp_path).parameters()).dtype == torch.bfloat16


def test_a_folder_is_of_the_last_model_saved_there(end_is_last, tokenizer, tmp_path):
    """With adapters a CLIP is none of transformers; folded in it is one again."""
    model = nearfar.load(clip(end_is_last), tokenizer=end_is_last)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "nearfar.json").exists()
    adapted = model.add_lora(rank=2)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.normal_()
    adapted.save_pretrained(tmp_path)
    assert not (tmp_path / "nearfar.json").exists()
    assert not (tmp_path / "modules.json").exists()
    expected = adapted.encode(TEXTS)
    np.testing.assert_allclose(nearfar.load(tmp_path).encode(TEXTS), expected, atol=1e-6)
    adapted.merge_lora().save_pretrained(tmp_path)
    same(tmp_path, adapted)
    np.testing.assert_allclose(nearfar.load(tmp_path).encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["towers of others", "two layers averaged", "texts in all places"])
def test_what_others_have_not_keeps_our_folder_alone(kind, tokenizer, tmp_path):
    siglip = {"model_type": "siglip_text_model", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = {
        "towers of others": lambda: dual(tokenizer),
        "two layers averaged": lambda: text_encoder(BERT, tokenizer=tokenizer, pooling="embedding_last"),
        "texts in all places": lambda: text_encoder(siglip, tokenizer=tokenizer),
    }[kind]()
    model.eval().save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "modules.json" not in names
    assert "nearfar.json" not in names
    np.testing.assert_array_equal(nearfar.load(tmp_path).encode(TEXTS), model.encode(TEXTS))


def test_a_folder_says_no_other_layout_than_there_is(end_is_last, tmp_path):
    nearfar.load(clip(end_is_last), tokenizer=end_is_last).save_pretrained(tmp_path)
    ours = tmp_path / "nearfar.json"
    ours.write_text(ours.read_text().replace('"layout": "clip"', '"layout": "somebody"'))
    with pytest.raises(UserError, match=r"layout is 'somebody': choose one of clip, texts"):
        nearfar.load(tmp_path)
