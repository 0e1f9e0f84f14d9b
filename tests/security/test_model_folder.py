"""A model's folder is data: it opens as it was saved, or a sentence names the file and the remedy. What it names is not
imported, fetched or run."""

import json
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import nearfar
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import FusionAnswerer, FusionClassifier, create, image_encoder, label_matcher
from nearfar.models.language.model import language_model
from nearfar.models.language.text_model import text_encoder

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {"model_type": "vit", "image_size": 16, "patch_size": 8, **SMALL}
BERT = {"model_type": "bert", "max_position_embeddings": 32, "vocab_size": 300, **SMALL}
KINDS = ["dual", "ensemble", "fusion", "answerer", "classifier", "language", "texts", "matcher"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a red car on a road", "a blue bus under a tree"] * 20, 300)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A folder of each kind of model that nearfar saves."""
    where = tmp_path_factory.mktemp("models")
    settings = {"image": VIT, "text": BERT, "tokenizer": tokenizer, "embed_dim": 8}
    create(**settings).add_lora("text", rank=2).save_pretrained(where / "dual")
    create(**settings, image_heads=2).save_pretrained(where / "ensemble")
    fusion = create(**settings, text_layers=1)
    fusion.save_pretrained(where / "fusion")
    FusionAnswerer.of(fusion).save_pretrained(where / "answerer")
    FusionClassifier.of(fusion).save_pretrained(where / "classifier")
    language_model("tiny", tokenizer=tokenizer).save_pretrained(where / "language")
    text_encoder(BERT, tokenizer=tokenizer).save_pretrained(where / "texts")
    label_matcher(BERT, tokenizer=tokenizer).save_pretrained(where / "matcher")
    image_encoder(image=VIT, projector={"hidden": 8, "out": 4}).save_pretrained(where / "pictures")
    return where


@pytest.fixture
def copy(saved, tmp_path):
    return lambda kind="dual": shutil.copytree(saved / kind, tmp_path / kind)


def opened(folder):
    return language_model(folder) if folder.name == "language" else nearfar.load(folder)


def config_file(folder):
    """`config.json`, or `nearfar.json` beside one of another library."""
    ours = folder / "nearfar.json"
    return ours if ours.exists() else folder / "config.json"


def change(folder, path, value):
    """Set a value of config.json by its path of keys."""
    file = config_file(folder)
    config = json.loads(file.read_text())
    *above, last = path.split(".")
    inner = config
    for key in above:
        inner = inner[key]
    inner[last] = value
    file.write_text(json.dumps(config))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_opens_as_it_was_saved(copy, kind, tokenizer):
    model = opened(copy(kind))
    assert model.tokenizer("a red car")["input_ids"] == tokenizer("a red car")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", [True, False], ids=["with its sum", "saved before there were sums"])
def test_without_its_tokenizer_a_model_does_not_open(copy, kind, known):
    folder = copy(kind)
    if not known:
        config = json.loads(config_file(folder).read_text())
        del config["tokenizer_sum"]
        config_file(folder).write_text(json.dumps(config))
        opened(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer \(tokenizer.json is missing\): copy"):
        opened(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_with_another_tokenizer_a_model_does_not_open(copy, kind):
    folder = copy(kind)
    train_tokenizer(["two dogs run", "three cats sleep"] * 20, 290).save_pretrained(folder)
    with pytest.raises(UserError, match=r"tokenizer.json\) is not the one its model was saved with: copy"):
        opened(folder)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": "1.0", "model": {"type": "none"}}', b"\xff"])
def test_a_damaged_tokenizer_is_a_sentence(copy, content):
    folder = copy()
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"no tokenizer can be read from|is not the one its model was saved with"):
        opened(folder)


WRONG = {
    "more": 1,
    "model": ["DualEncoder"],
    "nearfar": None,
    "image": 3,
    "text": None,
    "image.spec": [],
    "image.spec.library": "os",
    "image.spec.architecture": "pipeline",
    "image.spec.config": 3,
    "image.spec.config.model_type": "none",
    "image.spec.config.hidden_size": -3,
    "image.spec.config.patch_size": "x",
    "image.spec.config.num_hidden_layers": 10**9,
    "image.spec.config.auto_map": {"AutoModel": "code--Model"},
    "image.spec.config._attn_implementation": "somebody/kernel",
    "image.spec.more": 1,
    "image.image_size": -1,
    "image.pooling": "none",
    "image.more": 1,
    "text.spec.library": None,
    "text.spec.config.vocab_size": 3,
    "pixels": [],
    "pixels.size": "x",
    "pixels.mean": [1],
    "pixels.std": [0, 0, 0],
    "pixels.more": 1,
    "embed_dim": "x",
    "embed_dim ": 3,
    "image_heads": 0,
    "image_projection": "none",
    "text_projection": 1,
    "projection_dropout": 2,
    "max_length": -1,
    "temperature": "x",
    "bias": [],
    "frozen": "image",
    "frozen ": ["os"],
    "adapters": [],
    "adapters.text.rank": -1,
    "adapters.text.alpha": 0,
    "adapters.text.targets": "query",
    "adapters.text.more": 1,
    "adapters.os": {},
    "classes": 3,
}


@pytest.mark.parametrize("path", WRONG)
def test_a_config_that_cannot_be_is_a_sentence_that_names_the_file(copy, path):
    folder = copy()
    change(folder, path.strip(), WRONG[path])
    with pytest.raises(UserError, match=r"config\.json"):
        opened(folder)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("fusion", "bridge", "yes"),
        ("fusion", "text.text_layers", 0),
        ("fusion", "text.text_layers", 9),
        ("answerer", "decoder_layers", -1),
        ("classifier", "classes", 1),
        ("ensemble", "image_heads", -2),
        ("fusion", "model", "DualEncoder"),
        ("dual", "model", "FusionModel"),
        ("dual", "model", "TextEncoder"),
        ("texts", "model", "DualEncoder"),
        ("texts", "max_length", 0),
        ("texts", "text", 3),
        ("texts", "text.spec.library", "os"),
        ("texts", "embed_dim", 8),
        ("texts", "projector", 3),
        ("pictures", "model", "DualEncoder"),
        ("pictures", "model", "TextEncoder"),
        ("pictures", "text", {}),
        ("pictures", "embed_dim", 8),
        ("pictures", "output", "both"),
        ("pictures", "image.spec.library", "os"),
        ("pictures", "projector", "simclr"),
        ("pictures", "projector.hidden", 0),
        ("pictures", "projector.hidden", 2**30),
        ("pictures", "projector.layers", 10**9),
        ("pictures", "projector.norm", ["none"]),
        ("pictures", "projector.more", 1),
    ],
)
def test_the_configs_of_every_kind_are_looked_through(copy, kind, path, value):
    folder = copy(kind)
    change(folder, path, value)
    with pytest.raises(UserError, match=re.escape(str(config_file(folder)))):
        opened(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_no_config_is_a_sentence(copy, content):
    folder = copy()
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        opened(folder)


def test_weights_that_are_missing_broken_or_foreign_are_a_sentence(copy, saved):
    folder = copy()
    file = folder / "model.safetensors"
    whole = load_file(file)
    save_file({name: value.to(torch.int64) for name, value in whole.items()}, file)
    with pytest.raises(UserError, match=r"model\.safetensors does not fit its config\.json: ."):
        opened(folder)
    for content in (b"", b"\x80\x04", (saved / "dual" / "model.safetensors").read_bytes()[:-9]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            opened(folder)
    shutil.copy(saved / "ensemble" / "model.safetensors", file)
    with pytest.raises(UserError, match=r"model\.safetensors does not fit its config\.json: ."):
        opened(folder)
    file.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        opened(folder)


@pytest.mark.parametrize("options", [{"checkpoint_path": "a.pth"}, {"pretrained": True}, {"img_size": "x"}, []])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:some/body", "local-dir:.", "../x"])
def test_a_timm_backbone_is_a_name_and_a_size(copy, name, options):
    folder = copy()
    change(folder, "image.spec", {"library": "timm", "name": name, "options": options})
    with pytest.raises(UserError, match=r"config\.json"):
        opened(folder)


def test_code_that_a_folder_brings_is_never_imported(copy, tmp_path):
    folder, mark = copy("language"), tmp_path / "ran"
    (folder / "code_of_mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    change(folder, "auto_map", {"AutoModelForCausalLM": "code_of_mine.Model", "AutoConfig": "code_of_mine.Config"})
    change(folder, "model_type", "of-mine")
    with pytest.raises(UserError, match="no language model at"):
        opened(folder)
    assert not mark.exists()
    assert not any("code_of_mine" in name for name in sys.modules)
