"""Exported folders open in sentence-transformers and by AutoModel, and give the same embeddings; or are refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from installed import needs
from nearfar.cli import main
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.export.sentence_encoder import export_sentence_encoder
from nearfar.models import create
from nearfar.models.card import card
from nearfar.models.language import language_model, text_encoder
from nearfar.models.towers.pixels import Pixels

pytestmark = needs("sentence_transformers")

TEXTS = ["a red fox", "ship", "the blue cat on the mat, and a dog", "dog runs", "a red fox " * 40]
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 16}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 9, 300)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def dual(tokenizer, **settings):
    made = create(**{"image": VIT, "text": BERT, "image_size": 32, "embed_dim": 16, **settings}, tokenizer=tokenizer)
    return made.eval()


def opened(folder, **options):
    from sentence_transformers import SentenceTransformer  # seconds, which other tests need not wait for

    return SentenceTransformer(str(folder), device="cpu", **options)


def pictures():
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in ((40, 60), (32, 32))]


def same_pictures(folder, model):
    """By Pillow, as here: torchvision, which transformers prefers where it is, resizes to other last digits."""
    pil = {"backend": "pil"}
    theirs = opened(folder, processor_kwargs=pil)
    np.testing.assert_allclose(theirs.encode(pictures(), show_progress_bar=False), model.encode(pictures()), atol=1e-5)


def same(folder, model):
    theirs = opened(folder).encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(theirs, model.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "eos", "max", "mean_sqrt_len", "weighted_mean"])
def test_texts_alone(pooling, tokenizer, tmp_path):
    model = text_encoder(BERT, tokenizer=tokenizer, pooling=pooling, max_length=24).eval()
    assert export_sentence_encoder(model, tmp_path / "out") == "it embeds texts"
    same(tmp_path / "out", model)
    again = nearfar.load(tmp_path / "out")
    assert (again.text.pooling, again.max_length) == (pooling, 24)
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)


def test_texts_that_are_read_from_left_to_right(tokenizer, tmp_path):
    model = text_encoder(LLAMA, tokenizer=tokenizer).eval()
    export_sentence_encoder(model, tmp_path / "out")
    same(tmp_path / "out", model)


def test_a_language_model(tokenizer, tmp_path):
    model = language_model("tiny", tokenizer=tokenizer).eval()
    export_sentence_encoder(model, tmp_path / "out")
    same(tmp_path / "out", model)


@pytest.mark.parametrize("projection", ["linear", "linear-no-bias", "mlp", "none", {"unit": "linear"}], ids=str)
def test_two_towers_go_out_as_a_router(projection, tokenizer, tmp_path):
    wide = {"embed_dim": 32} if projection == "none" else {"projection_dropout": 0.1}
    heads = {"image_projection": projection, "text_projection": projection}
    model = dual(tokenizer, **heads, **wide)
    assert export_sentence_encoder(model, tmp_path / "out") == "it embeds texts and pictures"
    assert not (tmp_path / "out" / "nearfar.json").exists()
    same(tmp_path / "out", model)
    same_pictures(tmp_path / "out", model)
    opened(tmp_path / "out").save_pretrained(str(tmp_path / "anew"))
    for folder in (tmp_path / "out", tmp_path / "anew"):
        again = nearfar.load(folder)
        assert (type(again), again.embed_dim, again.training) == (type(model), model.embed_dim, False)
        for inputs in (TEXTS, pictures()):
            np.testing.assert_allclose(again.encode(inputs), model.encode(inputs), atol=1e-5)


def test_the_text_side_alone_where_nothing_else_can_be_said(tokenizer, tmp_path):
    model = dual(tokenizer, image_pooling="mean")
    said = export_sentence_encoder(model, tmp_path / "out")
    assert said.startswith(
        "it embeds texts alone; for pictures use model.encode, or nearfar export --onnx: its ViTModel"
    )
    same(tmp_path / "out", model)
    assert said in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_a_router_to_something_else_is_a_sentence(tokenizer, tmp_path):
    export_sentence_encoder(dual(tokenizer), tmp_path / "out")
    with pytest.raises(UserError, match="is the side of a router that reads pictures: load the folder above it"):
        nearfar.load(tmp_path / "out" / "image")
    layer = tmp_path / "out" / "image" / "2_Dense" / "config.json"
    layer.write_text(layer.read_text().replace("linear.Identity", "activation.ReLU"))
    with pytest.raises(UserError, match="the dense layers of its image route are no projection that is made here"):
        nearfar.load(tmp_path / "out")
    router = tmp_path / "out" / "router_config.json"
    router.write_text(router.read_text().replace('"image": [', '"audio": ['))
    with pytest.raises(UserError, match="is a router to text, audio, where a route of texts and one of pictures"):
        nearfar.load(tmp_path / "out")
    router.write_text("{}")
    with pytest.raises(UserError, match=r"router_config\.json cannot be read"):
        nearfar.load(tmp_path / "out")


def test_the_dense_layers_of_sentence_transformers_give_the_same_numbers(tokenizer, tmp_path):
    """Written by that library itself, read here, and written again."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    text_encoder(BERT, tokenizer=tokenizer).text.backbone.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    layers = [
        modules.Transformer(str(tmp_path / "bert")),
        modules.Pooling(32, pooling_mode="mean"),
        modules.Dense(32, 24),
        modules.Normalize(),
        modules.Dense(24, 8, bias=False, activation_function=torch.nn.GELU()),
    ]
    SentenceTransformer(modules=layers, device="cpu").save_pretrained(str(tmp_path / "theirs"))
    model = nearfar.load(tmp_path / "theirs")
    assert model.embed_dim == 8
    same(tmp_path / "theirs", model)
    export_sentence_encoder(model, tmp_path / "out")
    same(tmp_path / "out", model)


def test_adapters_are_folded_in_and_stay_on_the_model(tokenizer, tmp_path):
    model = dual(tokenizer).add_lora("text", rank=2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    export_sentence_encoder(model.eval(), tmp_path / "out")
    same(tmp_path / "out", model)
    assert model.adapters


def test_automodel_opens_the_transformer(tokenizer, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    model = dual(tokenizer, text_pooling="mean")
    main(
        [
            "export",
            str(model.save_pretrained(tmp_path / "mine")),
            "--sentence-transformers",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    plain, tokens = (kind.from_pretrained(tmp_path / "out" / "text") for kind in (AutoModel, AutoTokenizer))
    plain.eval()
    batch = tokens(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = plain(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        summary = (states * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(summary, model.text_summary(model.tokenize(TEXTS)), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def end_is_last():
    """A tokenizer whose end has the largest id, as CLIP's own has: there CLIP looks for the end of a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", *sorted({word for text in TEXTS for word in text.split()}), "[SEP]"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", len(words) - 1)]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def clip(tokenizer):
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text, vision = {**size, **ids, "max_position_embeddings": 24}, {**size, "image_size": 32, "patch_size": 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()


def test_a_clip_goes_out_whole_for_texts_and_pictures(end_is_last, tmp_path):
    """Trained in between, with adapters; what is written is the CLIP that it is now."""
    model = nearfar.load(clip(end_is_last), tokenizer=end_is_last).add_lora(rank=2)
    model.temperature = 0.05
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    assert export_sentence_encoder(model, tmp_path / "out") == "it embeds texts and pictures"
    assert {"modules.json", "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    same(tmp_path / "out", model)
    noise = np.random.default_rng(0)
    pictures = [Image.fromarray(noise.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in ((40, 60), (32, 32))]
    # Pillow, as here: torchvision, which transformers prefers where it is installed, resizes to other last digits.
    theirs = opened(tmp_path / "out", processor_kwargs={"backend": "pil"})
    np.testing.assert_allclose(theirs.encode(pictures), model.encode(pictures), atol=1e-5)
    again = nearfar.load(tmp_path / "out")
    assert again.temperature == pytest.approx(0.05)
    np.testing.assert_allclose(again.encode([*TEXTS, *pictures]), model.encode([*TEXTS, *pictures]), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pixels": Pixels(32, fit="pad")}, "its pictures are prepared by 'pad', where CLIP crops or squashes them"),
        ({"image_projection": torch.nn.Linear(32, 16, bias=False).requires_grad_(False)}, None),
    ],
)
def test_a_clip_that_is_changed_goes_out_as_what_it_is_or_texts_alone(change, why, end_is_last, tmp_path):
    model = nearfar.load(clip(end_is_last), tokenizer=end_is_last)
    for name, value in change.items():
        setattr(model, name, value)
    said = export_sentence_encoder(model, tmp_path / "out")
    assert said == "it embeds texts and pictures" if why is None else said.endswith(why)
    same(tmp_path / "out", model)
    assert (tmp_path / "out" / "1_Pooling").is_dir() == (why is not None)


def test_what_cannot_be_expressed_is_refused_and_nothing_is_kept(tokenizer, tmp_path):
    siglip = {"model_type": "siglip_text_model", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    kernel = dual(tokenizer, text_projection={"kernel": 5})
    for model, why in [
        (kernel, "its text head is a KernelMap, as nearfar.adapt makes it, which sentence-transformers has not"),
        (text_encoder(siglip, tokenizer=tokenizer), "reads its padding, which sentence-transformers leaves out"),
    ]:
        with pytest.raises(UserError, match=f"{why}: use model.encode, or nearfar export --onnx"):
            export_sentence_encoder(model, tmp_path / "out")
        assert not list(tmp_path.iterdir())


def made_models(tokenizer, end_is_last):
    yield "pair", nearfar.load(clip(end_is_last), tokenizer=end_is_last)
    yield "towers", dual(tokenizer)
    yield "texts", text_encoder(BERT, tokenizer=tokenizer).eval()


def test_what_the_command_prints_opens_its_folder_and_its_card_keeps_the_figures(
    tokenizer, end_is_last, tmp_path, capsys
):
    import transformers

    for name, model in made_models(tokenizer, end_is_last):
        saved, out = model.save_pretrained(tmp_path / name / "model"), tmp_path / f"{name}-st"
        (saved / "README.md").write_text(card(model, about="Trained on 9 pairs.", figures="R@5 12.0 (10.0 to 14.0)"))
        main(["export", str(tmp_path / name), "--sentence-transformers", "--out", str(out)])
        calls = re.findall(r"transformers\.AutoModel\.from_pretrained\(\"(.*?)\"\)", capsys.readouterr().out)
        assert [Path(folder).name for folder in calls] == (["text", "image"] if name == "towers" else [out.name])
        for folder in calls:
            assert transformers.AutoModel.from_pretrained(folder).config.model_type
        page = (out / "README.md").read_text("utf-8")
        assert "Trained on 9 pairs.\n\nR@5 12.0 (10.0 to 14.0)" in page
        scope = {}
        exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1].replace("this/folder", str(out)), scope)
        np.testing.assert_allclose(
            scope["vectors"], model.encode(["a red car", "a small dog"], normalize_embeddings=True), atol=1e-5
        )
