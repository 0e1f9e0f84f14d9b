from __future__ import annotations

import pytest
import torch

from models.tower_configs import BERT, CONVNEXT, IMAGES, SMALL, TEXTS, VIT
from nearfar.errors import UserError
from nearfar.models import DualEncoder, create, load
from nearfar.models.towers.backbones import LITE_DEEP, image_tower, text_tower
from nearfar.models.towers.tower import longest_text


@pytest.mark.parametrize("name", IMAGES)
def test_image_towers_from_configs(name):
    config, pooling, prefix, patches = IMAGES[name]
    tower, _ = image_tower(config, image_size=32)
    tower.eval()
    pixels = torch.randn(2, 3, 32, 32)
    tokens = tower(pixels)
    assert (tower.pooling, tower.prefix, tower.patches) == (pooling, prefix, patches)
    assert tokens.shape == (2, 1 + patches, tower.width)
    torch.testing.assert_close(tower(pixels[:1]), tokens[:1], atol=2e-5, rtol=1e-4)
    output = tower.backbone(pixel_values=pixels)
    if pooling == "tower":
        torch.testing.assert_close(tokens[:, 0], output.pooler_output)
    if pooling == "cls":
        torch.testing.assert_close(tokens[:, 0], output.last_hidden_state[:, 0])
        torch.testing.assert_close(tokens[:, 1:], output.last_hidden_state[:, prefix:])
    if pooling == "mean":
        torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1))


@pytest.mark.parametrize("name", IMAGES)
def test_any_tower_looks_at_larger_pictures_from_here_on(name):
    """Where it still looks at the old size it gives what it gave; the new number of patches follows the size."""
    config, _, prefix, patches = IMAGES[name]
    tower, _ = image_tower(config, image_size=32)
    tower.eval()
    pixels = torch.randn(2, 3, 32, 32)
    before = tower(pixels)
    tower.resize(64)
    assert (tower.image_size, tower.patches, tower.prefix) == (64, 4 * patches, prefix)
    assert tower(torch.randn(1, 3, 64, 64)).shape == (1, 1 + 4 * patches, tower.width)
    tower.resize(32)
    assert torch.equal(tower(pixels), before)


def test_positions_are_interpolated_bicubically():
    """A ViT's patch positions at twice the size, against torch's own interpolation of the old ones."""
    tower, _ = image_tower(VIT, image_size=32)
    tower.eval()
    with torch.no_grad():
        tower.backbone.embeddings.patch_embeddings.projection.weight.zero_()
    tower.resize(64)
    actual = tower.backbone.embeddings(torch.zeros(1, 3, 64, 64), interpolate_pos_encoding=True)[0, 1:]
    grid = tower.backbone.embeddings.position_embeddings[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    larger = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False)
    bias = tower.backbone.embeddings.patch_embeddings.projection.bias
    torch.testing.assert_close(actual, larger[0].flatten(1).t() + bias)


def test_a_tower_that_keeps_its_size_says_so():
    tower, _ = image_tower(VIT, image_size=32)
    with pytest.raises(UserError, match="ViTModel cannot take pictures of 4 pixels"):
        tower.resize(4)
    assert tower.image_size == 32
    assert tower(torch.zeros(1, 3, 32, 32)).shape[1] == 17


@pytest.mark.parametrize("name", TEXTS)
def test_text_towers_from_configs(name, tokenizer):
    config, pooling = TEXTS[name]
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3} if name != "roberta" else {}
    tower, none = text_tower({**config, "vocab_size": len(tokenizer), **special})
    tower.eval()
    assert none is None
    assert tower.pooling == pooling
    tokens = tokenizer(["a red fox", "the ship at sea runs on"], padding=True, return_tensors="pt")
    tokens = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    states = tower(tokens)
    assert states.shape == (*tokens["input_ids"].shape, tower.width)
    alone = tower({key: value[:1, :5] for key, value in tokens.items()})
    torch.testing.assert_close(alone[:, 0], states[:1, 0], atol=1e-5, rtol=1e-4)
    if name == "clip":  # the same with a tokenizer whose end it knows
        torch.testing.assert_close(states[:, 0], tower.backbone(**tokens).pooler_output)
    states[:, 0].sum().backward()
    assert [n for n, p in tower.named_parameters() if p.grad is None] == []


def test_pooling_of_text(tokenizer):
    tokens = dict(tokenizer(["a red fox", "the ship at sea runs on"], padding=True, return_tensors="pt"))
    tokens.pop("token_type_ids", None)
    tower, _ = text_tower({**BERT, "vocab_size": len(tokenizer)}, pooling="mean")
    tower.eval()
    hidden = tower.backbone(**tokens).last_hidden_state
    torch.testing.assert_close(tower(tokens)[0, 0], hidden[0, :5].mean(0))
    tower.pooling = "eos"
    torch.testing.assert_close(tower(tokens)[:, 0], torch.stack([hidden[0, 4], hidden[1, 7]]))
    left = {
        "input_ids": torch.tensor([[0, 0, 2, 5, 3]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1]]),
    }
    torch.testing.assert_close(tower(left)[0, 0], tower.backbone(**left).last_hidden_state[0, 4])


def test_vit_takes_another_size_by_interpolation(tokenizer):
    vit = {**VIT, "image_size": 32}
    from transformers import AutoConfig

    model = create(image=AutoConfig.for_model(**vit), text=BERT, tokenizer=tokenizer, image_size=48)
    assert model.image.patches == 36
    assert model.encode_image(torch.randn(1, 3, 48, 48)).shape == (1, 256)


def test_convolutional_towers_take_any_size(tokenizer):
    model = create(image=CONVNEXT, text=BERT, tokenizer=tokenizer, image_size=32)
    assert model.encode_image(torch.randn(1, 3, 48, 64)).shape == (1, 256)


def test_half_of_a_clip_config_is_the_tower_asked_for(tokenizer):
    from transformers import CLIPConfig

    clip = CLIPConfig(
        text_config={**SMALL, "vocab_size": 20}, vision_config={**SMALL, "image_size": 32, "patch_size": 8}
    )
    assert image_tower(clip)[0].backbone.config.model_type == "clip_vision_model"
    assert text_tower(clip)[0].backbone.config.model_type == "clip_text_model"


def test_a_module_is_taken_as_it_is(tokenizer, tmp_path):
    from transformers import AutoConfig, AutoModel

    vit = AutoModel.from_config(AutoConfig.for_model(**VIT))
    bert = AutoModel.from_config(AutoConfig.for_model(**BERT, vocab_size=20))
    model = create(image=vit, text=bert, tokenizer=tokenizer).eval()
    assert model.image.backbone is vit
    model.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(DualEncoder.from_pretrained(tmp_path).encode_image(pixels), model.encode_image(pixels))


def test_a_folder_is_a_tower_with_its_weights(tokenizer, tmp_path):
    from transformers import AutoConfig, AutoModel

    bert = AutoModel.from_config(AutoConfig.for_model(**BERT, vocab_size=20)).eval()
    bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tower, own = text_tower(str(tmp_path))
    assert len(own) == len(tokenizer)
    tokens = {"input_ids": torch.tensor([[2, 6, 7, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    torch.testing.assert_close(tower.eval()(tokens), bert(**tokens).last_hidden_state)
    fresh, _ = text_tower(str(tmp_path), pretrained=False)
    assert not torch.allclose(fresh.eval()(tokens), tower(tokens))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": "no/such/tower-anywhere", "text": BERT}, "no vision tower"),
        ({"image": {"hidden_size": 3}, "text": BERT}, "model_type"),
        ({"image": {"model_type": "vitt"}, "text": BERT}, "no model_type 'vitt'"),
        ({"image": {**VIT, "hidden_size": "wide"}, "text": BERT}, "no model_type 'vit' with these settings"),
        ({"image": 3, "text": BERT}, "this is a int"),
        ({"image": VIT}, "both image"),
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"image": VIT, "text": BERT, "image_pooling": "max"}, "choose one of cls"),
        ({"image": CONVNEXT, "text": BERT, "image_size": 32, "image_pooling": "cls"}, "no class token"),
        ({"image": VIT, "text": BERT, "text_pooling": "last"}, "choose one of cls"),
        ({"image": VIT, "text": {**BERT, "vocab_size": 7}}, "vocab_size=20"),
        ({"image": VIT, "text": BERT, "projection": "conv"}, "choose one of linear"),
    ],
)
def test_mistakes_are_explained(arguments, message, tokenizer, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        create(tokenizer=tokenizer, **arguments)


def test_a_missing_tokenizer_is_explained():
    with pytest.raises(UserError, match="train_tokenizer"):
        create("tiny")


def test_the_deep_tower_adds_the_last_blocks_to_the_last_map(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    (plain, _), (deep, _) = (image_tower(name, image_size=64) for name in ("efficientnet-lite0", LITE_DEEP))
    outputs = {}
    for number in (14, 15):
        block = plain.backbone._blocks[number]
        block.register_forward_hook(lambda _, __, out, number=number: outputs.update({number: out}))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last, both = plain.eval()(pixels), deep.eval()(pixels)
    assert both.shape == (2, 1 + 4, 1280 + 192 + 320)
    beside = [outputs[number].flatten(2).transpose(1, 2) for number in (14, 15)]
    torch.testing.assert_close(both[:, 1:], torch.cat([last[:, 1:], *beside], dim=2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[:, 0], both[:, 1:].mean(1), rtol=1e-4, atol=1e-4)
    model = create(image=LITE_DEEP, text="minilm", image_size=64, embed_dim=8).eval()
    again = load(model.save_pretrained(tmp_path))
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))


def test_folded_batch_norms_change_nothing():
    pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    tower, _ = image_tower(LITE_DEEP, image_size=64)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        fast = tower.for_inference()
        torch.testing.assert_close(fast(pixels), tower.eval()(pixels), rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    assert not any(p.requires_grad for p in fast.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    vit, _ = image_tower(VIT)
    assert vit.for_inference() is vit


def test_a_class_token_beside_the_map_is_none_of_its_cells():
    """CvT's: the first cell of the map was taken for it."""
    config = {"model_type": "cvt", "embed_dim": [8, 16, 24], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}
    tower, _ = image_tower(config, image_size=32)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = tower.eval().backbone(pixels).last_hidden_state.mean((2, 3))
        torch.testing.assert_close(tower(pixels)[:, 0], expected)


def test_a_tower_that_hides_parts_at_random_is_refused():
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    with pytest.raises(UserError, match=r"hides a part of each picture at random.*ViTModel\.from_pretrained"):
        image_tower({"model_type": "vit_mae", **small, "image_size": 32, "patch_size": 8})


@pytest.mark.parametrize("kind", ["AltCLIPText", "ClapText", "Data2VecText", "IBert"])
def test_positions_that_begin_behind_the_padding_are_fewer(kind):
    """As in RoBERTa: a text of all that are left is read, and no longer one."""
    import transformers

    settings = {"max_position_embeddings": 24, "pad_token_id": 1, "vocab_size": 50, "num_hidden_layers": 1}
    settings |= {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    longest = longest_text(config)
    assert longest == 22
    model(input_ids=torch.full((1, longest), 7))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 7))
