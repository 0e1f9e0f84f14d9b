"""What `save_pretrained` writes of a CLIP, or of a model of texts alone, is other libraries' folder too: they open
it as it is, with the same numbers, and its weights are there once."""

import shutil

import numpy as np
import pytest
import torch

import nearfar
from export.test_sentence_encoder import (
    BERT,
    LLAMA,
    TEXTS,
    VIT,
    clip,
    dual,
    end_is_last,
    opened,
    pictures,
    same,
    same_pictures,
    tokenizer,
)
from nearfar.errors import UserError
from nearfar.models.language import language_model, text_encoder
from nearfar.models.weight_files import tied_names

__all__ = ["end_is_last", "tokenizer"]  # fixtures


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def stored(folder):
    """Bytes of weights in a folder, and those that a float32 model of it would have."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def once(folder, model):
    """The weights are there once: beside them heads of files, and a scale."""
    state, tied = model.state_dict(), tied_names(model)
    held = sum(value.numel() * value.element_size() for name, value in state.items() if name not in tied)
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


CONVNEXT = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
SIGLIP = {"model_type": "siglip_vision_model", **{k: v for k, v in VIT.items() if k != "model_type"}, "image_size": 32}
T5 = {"model_type": "t5", "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("image", "text", "settings"),
    [
        (VIT, BERT, {}),
        (CONVNEXT, LLAMA, {}),
        (RESNET, T5, {"projection": "mlp"}),
        (SIGLIP, BERT, {"text_pooling": "tower"}),
        (VIT, BERT, {"image_pooling": "tower", "text_pooling": "weighted_mean"}),
    ],
    ids=["class token", "own layer norm", "map and tied weights", "own attention", "own pooler"],
)
def test_two_towers(image, text, settings, tokenizer, tmp_path):
    from transformers import AutoModel

    model = dual(tokenizer, image=image, text=text, **settings).freeze("image")
    model.temperature = 0.05
    model.save_pretrained(tmp_path)
    same(tmp_path, model)
    same_pictures(tmp_path, model)
    once(tmp_path, model)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == set()
    for side in ("image", "text"):
        kind = getattr(model, side).backbone.config.model_type
        assert AutoModel.from_pretrained(tmp_path / side).config.model_type == kind
    again = nearfar.load(tmp_path)
    assert (again.temperature, again.frozen) == (0.05, ("image",))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("family", ["siglip", "metaclip2"])
def test_other_pairs_of_transformers(family, end_is_last, tmp_path, monkeypatch):
    from transformers import AutoModel

    from models import dual_families

    words = {"vocab_size": len(end_is_last), "eos_token_id": end_is_last.eos_token_id, "max_position_embeddings": 24}
    monkeypatch.setattr(dual_families, "SIDES", {**dual_families.SIDES, "text_config": {**dual_families.TEXT, **words}})
    model = nearfar.load(getattr(dual_families, family)().eval(), tokenizer=end_is_last)
    model.temperature = 0.05
    if model.bias is not None:
        model.bias = -3.0
    model.save_pretrained(tmp_path)
    same(tmp_path, model)
    same_pictures(tmp_path, model)
    once(tmp_path, model)
    whole, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert whole.logit_scale.exp().item() == pytest.approx(20)
    assert model.bias is None or whole.logit_bias.item() == -3
    again = nearfar.load(tmp_path)
    assert (again.temperature, again.bias) == (0.05, model.bias)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    opened(tmp_path).save_pretrained(str(tmp_path / "anew"))
    anew = nearfar.load(tmp_path / "anew")
    assert anew.temperature == pytest.approx(0.05)
    np.testing.assert_allclose(anew.encode([*TEXTS, *pictures()]), model.encode([*TEXTS, *pictures()]), atol=1e-5)


def test_patches_of_siglip_2(tmp_path, monkeypatch):
    """Its processor takes 256 patches of 16 unless it is said otherwise at every call; and beside it transformers opens
    every tokenizer as Gemma's, so that with another one the folder stays nearfar's alone."""
    from transformers import Siglip2Tokenizer

    from models import dual_families

    special, rest = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], [f"<0x{i:02X}>" for i in range(256)]
    words = [*special, *map(chr, range(97, 123)), *rest]
    gemma = Siglip2Tokenizer({word: i for i, word in enumerate(words)}, [], padding_side="right")
    ids = {"vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    monkeypatch.setattr(dual_families, "TEXT", {**dual_families.TEXT, **ids})
    model = nearfar.load(dual_families.siglip2().eval(), tokenizer=gemma)
    model.save_pretrained(tmp_path)
    same(tmp_path, model)
    same_pictures(tmp_path, model)
    assert nearfar.load(tmp_path).pixels == model.pixels


@pytest.mark.parametrize("make", ["pair", "texts"])
def test_a_tokenizer_that_others_would_open_as_another_keeps_our_folder_alone(make, tokenizer, tmp_path, monkeypatch):
    from models import dual_families

    if make == "pair":
        monkeypatch.setattr(dual_families, "TEXT", {**dual_families.TEXT, "vocab_size": len(tokenizer)})
        model = nearfar.load(dual_families.siglip2().eval(), tokenizer=tokenizer)
    else:
        model = text_encoder(
            {**LLAMA, "model_type": "qwen2", "num_key_value_heads": 2, "max_window_layers": 1}, tokenizer=tokenizer
        ).eval()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "nearfar.json").exists()
    np.testing.assert_array_equal(nearfar.load(tmp_path).encode(TEXTS), model.encode(TEXTS))


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


@pytest.mark.parametrize("kind", ["a mean without the class token", "two layers averaged", "texts in all places"])
def test_what_others_have_not_keeps_our_folder_alone(kind, tokenizer, tmp_path):
    siglip = {"model_type": "siglip_text_model", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = {
        "a mean without the class token": lambda: dual(tokenizer, image_pooling="mean"),
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
    with pytest.raises(UserError, match=r"layout is 'somebody': choose one of clip, pair, texts, towers"):
        nearfar.load(tmp_path)
