from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models import DualEncoder, create

TEXTS = ["a red fox", "the ship at sea runs", "cat"]


def test_embeddings_have_the_stated_shapes_and_lengths(model):
    pixels = model.preprocess([Image.new("RGB", (40, 50), colour) for colour in ("red", "blue")])
    tokens = model.tokenize(TEXTS)
    assert pixels.shape == (2, 3, 32, 32)
    assert model.image_tokens(pixels).shape == (2, 1 + 16, 32)
    assert model.text_tokens(tokens).shape == (*tokens["input_ids"].shape, 48)
    assert model.encode_image(pixels).shape == (2, 16)
    assert model.encode_text(tokens).shape == (3, 16)
    torch.testing.assert_close(model.encode_text(tokens, normalize=True), F.normalize(model.encode_text(tokens), dim=1))
    torch.testing.assert_close(model.encode_image(pixels, normalize=True).norm(dim=1), torch.ones(2))


def test_embedding_is_the_projected_summary(model):
    pixels, tokens = torch.randn(2, 3, 32, 32), model.tokenize(TEXTS)
    torch.testing.assert_close(model.encode_image(pixels), model.image_projection(model.image_tokens(pixels)[:, 0]))
    torch.testing.assert_close(model.encode_text(tokens), model.text_projection(model.text_tokens(tokens)[:, 0]))


def test_padding_does_not_change_an_embedding(model):
    alone = model.encode_text(model.tokenize(TEXTS[2:]))
    among = model.encode_text(model.tokenize(TEXTS))[2:]
    torch.testing.assert_close(alone, among)


def test_every_parameter_gets_a_gradient(model):
    image, text = model(torch.randn(2, 3, 32, 32), model.tokenize(TEXTS[:2]))
    (image * text).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["linear", "linear-no-bias", "mlp"])
def test_projection_kinds_round_trip(kind, vit, bert, tokenizer, tmp_path):
    model = create(image=vit, text=bert, tokenizer=tokenizer, embed_dim=8, projection=kind)
    model.save_pretrained(tmp_path)
    again = DualEncoder.from_pretrained(tmp_path)
    assert_same(model, again)
    assert (kind == "linear-no-bias") == (
        not any("bias" in name for name, _ in model.image_projection.named_parameters())
    )


def test_without_projection_the_tower_decides_the_width(vit, bert, tokenizer):
    model = create(image=vit, text=bert, tokenizer=tokenizer, image_projection="none")  # as in ALIGN
    assert model.embed_dim == 32
    assert model.encode_text(model.tokenize(TEXTS)).shape == (3, 32)
    with pytest.raises(UserError, match=r"32 wide and the embedding 20.*embed_dim=32"):
        create(image=vit, text=bert, tokenizer=tokenizer, image_projection="none", embed_dim=20)
    with pytest.raises(UserError, match="text tower is 48 wide"):
        create(image=vit, text=bert, tokenizer=tokenizer, projection="none")


def test_frozen_tower_survives_train_and_learns_nothing(model):
    model.freeze("image").train()
    assert not model.image.training
    assert model.text.training
    assert model.image_projection.training
    before = copy.deepcopy(model.state_dict())
    image, text = model(torch.randn(2, 3, 32, 32), model.tokenize(TEXTS[:2]))
    (image * text).sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("image.") for name in moved)
    assert any(name.startswith("image_projection.") for name in moved)
    model.unfreeze("image").train()
    assert model.image.training
    assert all(p.requires_grad for p in model.parameters())
    assert model.frozen == ()


def test_lora_starts_as_the_model_and_trains_only_adapters(model):
    pixels, tokens = torch.randn(2, 3, 32, 32), model.tokenize(TEXTS)
    image, text = model.encode_image(pixels), model.encode_text(tokens)
    model.add_lora(rank=2, targets=("q_proj", "v_proj", "query", "value"))
    torch.testing.assert_close(model.encode_image(pixels), image)
    torch.testing.assert_close(model.encode_text(tokens), text)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name or "projection" in name for name in trainable)


def test_merged_lora_gives_the_same_embeddings(model):
    tokens = model.tokenize(TEXTS)
    names = set(model.state_dict())
    model.add_lora("text", rank=2)
    randomise(model)
    adapted = model.encode_text(tokens)
    model.merge_lora()
    torch.testing.assert_close(model.encode_text(tokens), adapted)
    assert set(model.state_dict()) == names


def test_save_and_load_bit_equal_with_adapters_and_frozen_parts(model, tmp_path):
    model.freeze("image")
    model.add_lora("text", rank=2, alpha=4, targets=("query",))
    randomise(model)
    model.save_pretrained(tmp_path)
    again = DualEncoder.from_pretrained(tmp_path)
    assert_same(model, again)
    assert again.frozen == ("image",)
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.encode_image(pixels), again.encode_image(pixels))
    assert torch.equal(model.encode_text(model.tokenize(TEXTS)), again.encode_text(again.tokenize(TEXTS)))
    files = {file.name for file in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert not any(name.startswith(".") for name in files)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)


def test_precision_is_kept(model, tmp_path):
    model.bfloat16().save_pretrained(tmp_path)
    again = DualEncoder.from_pretrained(tmp_path)
    assert_same(model, again)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}


def test_saving_over_an_old_model_leaves_other_files_alone(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    model.save_pretrained(tmp_path)
    randomise(model)
    model.save_pretrained(tmp_path)
    assert_same(model, DualEncoder.from_pretrained(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_interrupted_saving_leaves_the_old_weights(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 4
    randomise(model)
    written = []

    def fail(state, file, **settings):
        written.append(file)
        if len(written) == 3:
            raise OSError("disk full")
        save_file(state, file, **settings)

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before


def test_damaged_folders_are_reported(model, tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        DualEncoder.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    weights = tmp_path / "image" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        DualEncoder.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        DualEncoder.from_pretrained(tmp_path)
    (tmp_path / "nearfar.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        DualEncoder.from_pretrained(tmp_path)


def test_weights_of_another_model_are_reported(model, vit, bert, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "a")
    create(image=vit, text=bert, tokenizer=tokenizer, embed_dim=8).save_pretrained(tmp_path / "b")
    for name in ("text/2_Dense/model.safetensors", "text/model.safetensors"):
        (tmp_path / "b" / name).replace(tmp_path / "a" / name)
        with pytest.raises(UserError, match=r"does not go with its text/model\.safetensors"):
            DualEncoder.from_pretrained(tmp_path / "a")
    (tmp_path / "b" / "image" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"image/model\.safetensors is missing"):
        DualEncoder.from_pretrained(tmp_path / "b")


def test_weights_of_another_width_are_reported(model, tmp_path):
    model.save_pretrained(tmp_path)
    ours = tmp_path / "nearfar.json"
    ours.write_text(ours.read_text().replace('"embed_dim": 16', '"embed_dim": 8'))
    with pytest.raises(UserError, match="does not fit"):
        DualEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 3, 40, 40), "image_size=40"), ((2, 1, 32, 32), "B, 3, 32, 32"), ((2, 32, 32, 3), "channels come second")],
)
def test_wrong_pixels_are_explained(model, shape, message):
    with pytest.raises(UserError, match=message):
        model.encode_image(torch.zeros(shape))
    with pytest.raises(UserError, match="floating point"):
        model.encode_image(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


def test_wrong_texts_are_explained(model):
    with pytest.raises(UserError, match="list of texts"):
        model.tokenize("a fox")
    with pytest.raises(UserError, match="list of pictures"):
        model.preprocess(Image.new("RGB", (8, 8)))
    with pytest.raises(UserError, match="max_length=16"):
        model.encode_text({"input_ids": torch.ones(1, 17, dtype=torch.long)})
    assert model.tokenize(["fox " * 40])["input_ids"].shape == (1, 16)


def test_unknown_parts_and_towers_are_explained(model):
    with pytest.raises(UserError, match="choose among image"):
        model.freeze("vision")
    with pytest.raises(UserError, match="'image' or 'text'"):
        model.add_lora("vision")
    with pytest.raises(UserError, match="choose among"):
        model.add_lora("text", targets=("q_proj",))


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite0-deep"])
def test_a_tower_that_adapters_do_not_fit_is_explained_and_stays_as_it_is(name):
    model = create(image=name, text="minilm", image_size=32, pretrained=False)
    with pytest.raises(UserError, match="adapters fit no layer of EfficientNet: LoRA adapts linear layers, or plain"):
        model.add_lora("image", rank=2)
    assert model.adapters == {}
    assert all(parameter.requires_grad for parameter in model.image.parameters())


def test_deep_copy_is_independent(model):
    twin = copy.deepcopy(model)
    randomise(twin)
    tokens = model.tokenize(TEXTS)
    assert not torch.allclose(model.encode_text(tokens), twin.encode_text(tokens))


def test_importing_the_package_brings_no_heavy_library():
    code = (
        "import sys, nearfar.models; "
        "sys.exit(bool({'transformers', 'peft', 'tokenizers', 'safetensors', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def assert_same(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


def randomise(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


def test_pictures_of_another_size_are_kept_in_the_folder(model, tmp_path):
    from dataclasses import replace

    model.pixels = replace(model.pixels, resize=36)
    model.resize_images(64)
    assert (model.image_size, model.pixels.resize) == (64, 72)
    picture = Image.new("RGB", (100, 80), "red")
    pixels = model.preprocess([picture])
    assert pixels.shape == (1, 3, 64, 64)
    model.save_pretrained(tmp_path)
    again = DualEncoder.from_pretrained(tmp_path)
    assert again.image_size == 64
    assert torch.equal(again.encode_image(again.preprocess([picture])), model.encode_image(pixels))
