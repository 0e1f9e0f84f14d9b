from __future__ import annotations

import logging
import math

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import nearfar
from models.tower_configs import EFFICIENTNET
from nearfar.errors import UserError
from nearfar.models import DualEncoder, create, load

TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXTS = ["a red fox", "the ship at sea runs", "cat"]


def clip(tokenizer):
    from transformers import CLIPConfig, CLIPModel

    text = {**TOWER, "vocab_size": 20, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()


def siglip(tokenizer):
    from transformers import SiglipConfig, SiglipModel

    text = {**TOWER, "vocab_size": 20, "max_position_embeddings": 16, "pad_token_id": 0}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.0)
    return model


def align(tokenizer):
    from transformers import AlignConfig, AlignModel

    text = {**TOWER, "vocab_size": 20, "pad_token_id": 0}
    vision = {name: value for name, value in EFFICIENTNET.items() if name != "model_type"} | {"hidden_dim": 24}
    return AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()


MODELS = {"clip": clip, "siglip": siglip, "align": align}


@pytest.mark.parametrize("name", MODELS)
def test_whole_checkpoints_give_the_logits_of_transformers(name, tokenizer):
    theirs = MODELS[name](tokenizer)
    ours = load(theirs, tokenizer=tokenizer)
    pixels = torch.randn(2, 3, 32, 32)
    tokens = ours.tokenize(TEXTS)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    if name == "siglip":  # trained on texts padded to the full length, without a mask
        ids, mask = F.pad(ids, (0, 16 - ids.shape[1])), None
    expected = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits_per_image
    cosine = ours.encode_image(pixels, normalize=True) @ ours.encode_text(tokens, normalize=True).T
    logits = cosine / ours.temperature + (ours.bias or 0.0)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    raw = theirs.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(ours.encode_image(pixels), raw)


def test_temperature_is_a_divisor_everywhere(tokenizer):
    assert load(clip(tokenizer), tokenizer=tokenizer).temperature == pytest.approx(math.exp(-2.6592))
    assert load(siglip(tokenizer), tokenizer=tokenizer).temperature == pytest.approx(math.exp(-2.0))
    assert load(siglip(tokenizer), tokenizer=tokenizer).bias == -3.0
    assert load(align(tokenizer), tokenizer=tokenizer).temperature == 1.0


def test_training_goes_on_from_scale_and_bias_of_a_checkpoint(tokenizer):
    from nearfar.methods import SigLIP

    ours = load(siglip(tokenizer), tokenizer=tokenizer)
    method = SigLIP(ours)
    assert method.loss.temperature().item() == pytest.approx(math.exp(-2.0))
    assert method.loss.bias.item() == -3.0
    method.loss.bias.data.fill_(-6.5)
    method.hand_over()
    assert ours.bias == -6.5


@pytest.mark.parametrize("name", MODELS)
def test_loaded_checkpoints_can_be_adapted_saved_and_opened_again(name, tokenizer, tmp_path):
    ours = load(MODELS[name](tokenizer), tokenizer=tokenizer).add_lora("text", rank=2).freeze("image").eval()
    ours.save_pretrained(tmp_path)
    again = load(tmp_path)
    pixels, tokens = torch.randn(1, 3, 32, 32), ours.tokenize(TEXTS)
    assert torch.equal(again.encode_image(pixels), ours.encode_image(pixels))
    assert torch.equal(again.encode_text(tokens), ours.encode_text(tokens))
    assert (again.temperature, again.bias, again.frozen) == (ours.temperature, ours.bias, ours.frozen)


def test_folder_of_transformers(tokenizer, tmp_path):
    from transformers import CLIPImageProcessorPil

    theirs = clip(tokenizer)
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    ours = nearfar.load(str(tmp_path))
    assert not ours.training
    assert ours.pixels.resize == 40
    pixels = ours.preprocess([Image.new("RGB", (60, 50), "red")])
    expected = theirs.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(ours.encode_image(pixels), expected)


def test_a_runs_folder_stands_for_its_model(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text("model: tiny")
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(load(tmp_path).encode_image(pixels), model.encode_image(pixels))


def test_encoders_pass_through(model):
    assert load(model) is model


def test_towers_come_pretrained_from_packages():
    towers = load("towers")
    assert isinstance(towers, DualEncoder)
    assert (towers.image.width, towers.text.width, towers.text.pooling) == (1280, 384, "mean")
    near, far = (
        towers.text(towers.tokenize(["a small cat", "a kitten"]))[:, 0],
        towers.text(towers.tokenize(["a stock exchange"]))[:, 0],
    )
    assert F.cosine_similarity(near[:1], near[1:]) > 0.6 > F.cosine_similarity(near[:1], far) + 0.2
    white = towers.preprocess([Image.new("RGB", (112, 112), "white")])
    torch.testing.assert_close(white, torch.ones_like(white))  # (255 - 127) / 128


def test_lite_classifies_as_its_package_does():
    from efficientnet_lite_pytorch import EfficientNet

    from nearfar.models.towers.backbones import image_tower

    tower, _ = image_tower("efficientnet-lite0", image_size=64)
    pixels = torch.randn(1, 3, 64, 64)
    lite = EfficientNet.from_name("efficientnet-lite0").eval()
    lite.load_state_dict({**lite.state_dict(), **tower.backbone.state_dict()})
    expected = lite.extract_features(pixels).mean((2, 3))
    torch.testing.assert_close(tower.eval()(pixels)[:, 0], expected)
    assert expected.std() > 0.1  # trained weights, not a fresh network's near-constant output


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no/such/model-anywhere", "no model"),
        ("tiny", "starts from scratch"),
        ("tiny-resnet", r"starts from scratch.*image_encoder\('tiny-resnet'\)"),
        (torch.nn.Linear(2, 2), "cannot make an encoder of a Linear"),
    ],
)
def test_what_cannot_be_loaded_is_explained(what, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        load(what)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch, caplog):
    """The hub's client logs each of its attempts."""
    hub = logging.getLogger("huggingface_hub.utils._http")

    def unreachable(*args, **settings):
        hub.warning("thrown while requesting HEAD: retrying in 1 s")
        raise OSError("We couldn't connect to the hub\nand said so at length") from ConnectionError("no route")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    for make in (load, lambda name: create("tiny", image=name)):
        with pytest.raises(UserError, match="the hub cannot be reached, and nothing of this name is kept") as error:
            make("nobody/nothing")
        assert "\n" not in str(error.value)
    assert not caplog.records
    hub.warning("as before")
    assert [record.message for record in caplog.records] == ["as before"]


def test_what_reads_neither_texts_nor_pictures_is_no_encoder(tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    shape = {"conv_dim": (4, 4), "conv_stride": (2, 2), "conv_kernel": (2, 2), "num_conv_pos_embeddings": 2}
    shape |= {"num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}
    Wav2Vec2Model(Wav2Vec2Config(**shape, **TOWER)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no encoder of texts, of pictures, or of both"):
        load(tmp_path)


class FakeOpenClip(torch.nn.Module):
    """The interface of an open_clip model; the real ones are tested in the comparison environment."""

    def __init__(self):
        super().__init__()
        self.visual = torch.nn.Linear(3, 4)
        self.visual.image_size, self.visual.image_mean, self.visual.image_std = (8, 8), (0.5,) * 3, (0.5,) * 3
        self.words = torch.nn.Embedding(20, 4)
        self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(10.0)))

    def encode_image(self, image, normalize=False):
        features = self.visual(image.mean((2, 3)))
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text, normalize=False):
        features = self.words(text).mean(1)
        return F.normalize(features, dim=-1) if normalize else features


def test_open_clip_models_stay_as_they_are(tmp_path):
    from safetensors.torch import load_file

    inner = FakeOpenClip()

    def tokenize(texts):
        return torch.tensor([[1, len(text) % 20, 0, 0] for text in texts])

    def transform(picture):
        return torch.full((3, 8, 8), picture.getpixel((0, 0))[0] / 255)

    encoder = load(inner, tokenizer=tokenize, preprocess=transform)
    assert encoder.model is inner
    assert (encoder.embed_dim, encoder.image_size, encoder.mean) == (4, 8, (0.5, 0.5, 0.5))
    assert encoder.temperature == pytest.approx(0.1)
    tokens = encoder.tokenize(["a cat", "fox"])
    assert torch.equal(tokens["attention_mask"], torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]]))
    assert torch.equal(encoder.tokenizer(["a cat"], padding=True, max_length=5)["input_ids"], tokens["input_ids"][:1])
    image, text = encoder(encoder.preprocess([Image.new("RGB", (8, 8))] * 2), tokens)
    assert image.shape == text.shape == (2, 4)
    encoder.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "open_clip_model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in inner.state_dict().items())
    with pytest.raises(UserError, match="get_tokenizer"):
        load(inner)


def test_a_processor_stands_for_its_tokenizer_and_its_image_processor(tokenizer):
    from types import SimpleNamespace

    from transformers import CLIPImageProcessorPil

    pictures = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    processor = SimpleNamespace(tokenizer=tokenizer, image_processor=pictures)
    for parts in ({"tokenizer": processor}, {"tokenizer": tokenizer, "preprocess": processor}):
        ours = load(clip(tokenizer), **parts)
        assert (ours.pixels.resize, ours.tokenizer) == (40, tokenizer)


def test_adapters_without_their_model_are_named_as_such(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds adapters of peft alone: .*PeftModel\.from_pretrained\(MODEL, "):
        load(tmp_path)
