"""The card that every door writes: parts, size, licences, how to load; and the code in it runs."""

import re

import pytest

import nearfar
from nearfar.models import image_encoder
from nearfar.models.card import card
from nearfar.models.language import language_model, text_encoder


def code(page):
    return re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]


def test_every_kind_of_model_is_saved_with_a_card(model, bert, tokenizer, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for name in ("car.png", "dog.png"):
        Image.new("RGB", (40, 40), "red").save(name)
    made = {
        "dual": model,
        "texts": text_encoder(bert, tokenizer=tokenizer),
        "language": language_model("tiny", tokenizer=tokenizer),
        "pictures": image_encoder("micro-resnet"),
    }
    for name, each in made.items():
        page = (each.save_pretrained(tmp_path / name) / "README.md").read_text("utf-8")
        assert page == card(each)
        assert page.startswith("---\nlibrary_name: nearfar\n")
        assert f"| embeddings | {each.embed_dim} numbers |" in page
        assert "Not measured: `nearfar evaluate this/folder --on DATA`" in page
        scope = {}
        exec(code(page).replace("this/folder", str(tmp_path / name)), scope)
        assert scope["vectors"].shape == (2, each.embed_dim)


def test_parts_and_licences(model):
    page = card(model, title="Mine", about="Of mine.", figures="R@5 12.0 (10.0 to 14.0)")
    assert "# Mine\n\nOf mine.\n\n## How well it does\n\nR@5 12.0 (10.0 to 14.0)\n" in page
    number = sum(p.numel() for p in model.parameters())
    assert f"| parameters | {number:,}, {number * 4 / 1e6:,.0f} MB in float32 |" in page
    assert re.search(r"\| image tower \| ViTModel, [\d,]+ parameters; licence: none of its own \|", page)
    assert "| pictures | 32 x 32 |" in page
    assert "| texts | up to 16 tokens |" in page


def test_where_a_checkpoint_lay_stays_at_home(bert, tokenizer, tmp_path):
    from transformers import BertConfig, BertModel

    settings = {name: value for name, value in bert.items() if name != "model_type"}
    BertModel(BertConfig(vocab_size=len(tokenizer), **settings)).save_pretrained(tmp_path / "secret" / "mine" / "bert")
    tokenizer.save_pretrained(tmp_path / "secret" / "mine" / "bert")
    model = text_encoder(tmp_path / "secret" / "mine" / "bert")
    page = card(model)
    assert re.search(r"BertModel, mine/bert, [\d,]+ parameters; licence: that of the checkpoint", page)
    assert "secret" not in page
    saved = model.save_pretrained(tmp_path / "saved")
    assert not [file.name for file in saved.rglob("*") if file.is_file() and b"secret" in file.read_bytes()]
    assert nearfar.load(saved).text.spec["config"]["_name_or_path"] == "mine/bert"


@pytest.mark.parametrize(("widths", "said"), [((), "16 numbers |"), ((4, 16), "16 numbers; may be cut to 4, 16 |")])
def test_widths(model, widths, said):
    model.matryoshka = widths
    assert f"| embeddings | {said}" in card(model)


def test_a_training_writes_its_data_and_figures(model, tmp_path):
    from PIL import Image

    import nearfar
    from nearfar.data import Records
    from nearfar.methods import CLIP

    records = [
        {"image": Image.new("RGB", (32, 32), c), "text": t} for c, t in (("red", "a red fox"), ("blue", "blue cat"))
    ]
    source = Records(records, name="two squares")
    nearfar.train(CLIP(model), source, validation=source, steps=1, batch_size=2, out=tmp_path / "run")
    page = (tmp_path / "run" / "model" / "README.md").read_text("utf-8")
    assert "Trained by the method CLIP on 2 records of two squares: 1 steps," in page
    assert "Measured on the validation data (two squares): 2 images, 2 different captions:" in page
    assert re.search(r"\| retrieval: text to image R@1, % \| [\d.]+ \([\d.]+ to [\d.]+\) \| 50.0 \| 2 \|", page)
