"""timm models, made from configs, as image towers."""

from __future__ import annotations

import pytest
import torch

from nearfar.errors import UserError
from nearfar.models import DualEncoder, create
from nearfar.models.towers.backbones import image_tower

timm = pytest.importorskip("timm")

# name, size, tokens before the patches, patches
MODELS = {
    "vit": ("vit_tiny_patch16_224", 64, 1, 16),
    "registers": ("vit_small_patch14_reg4_dinov2", 56, 5, 16),
    "no class token": ("vit_medium_patch16_gap_256", 64, 0, 16),
    "deit distilled": ("deit_tiny_distilled_patch16_224", 64, 2, 16),
    "channels last": ("swin_tiny_patch4_window7_224", 64, 0, 4),
    "convnext": ("convnext_atto", 64, 0, 4),
    "efficientnet": ("efficientnet_b0", 64, 0, 4),
    "resnet": ("resnet18", 64, 0, 4),
}
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "cat": 2, "dog": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.parametrize("kind", MODELS)
def test_the_map_is_timms_grid_and_its_pooling_goes_over_each_cell(kind):
    name, size, _, patches = MODELS[kind]
    tower, _ = image_tower(f"timm:{name}", image_size=size, pretrained=False)
    tower.eval()
    pixels, side = torch.randn(2, 3, size, size), int(patches**0.5)
    with torch.no_grad():
        cells, tokens, summaries = tower.encode_image_map(pixels), tower(pixels), tower.summary_map(pixels)
        norm = getattr(tower.backbone, "fc_norm", torch.nn.Identity())
        norm = tower.backbone.head.norm if kind == "convnext" else norm
        mean, expected = cells.mean((2, 3)), cells
        if kind == "convnext":
            mean, expected = norm(mean[:, :, None, None])[:, :, 0, 0], norm(cells)
        elif kind == "no class token":
            mean, expected = norm(mean), norm(cells.movedim(1, -1)).movedim(-1, 1)
    assert cells.shape == (2, tower.width, side, side)
    assert torch.equal(cells[:, :, 0, side - 1], tokens[:, side])
    if not tower.prefix:
        torch.testing.assert_close(mean, tokens[:, 0])
    torch.testing.assert_close(summaries, expected)


@pytest.mark.parametrize("kind", MODELS)
def test_summary_is_timms_own_and_the_rest_are_patches(kind):
    name, size, prefix, patches = MODELS[kind]
    tower, prepare = image_tower(f"timm:{name}", image_size=size, pretrained=False)
    tower.eval()
    pixels = torch.randn(2, 3, size, size)
    tokens = tower(pixels)
    assert tokens.shape == (2, 1 + patches, tower.width)
    assert tower.prefix == prefix
    torch.testing.assert_close(tokens[:, 0], tower.backbone(pixels))
    features = tower.backbone.forward_features(pixels)
    if features.ndim == 3:
        assert torch.equal(tokens[:, 1:], features[:, prefix:])
    else:
        corner = features[:, 0, -1] if kind == "channels last" else features[:, :, 0, -1]
        size = corner.abs().max()  # small, of fresh weights; pixels lie channels last in the tower alone
        torch.testing.assert_close(tokens[:, int(patches**0.5)] / size, corner / size, atol=1e-4, rtol=1e-4)
    assert prepare.mean == tuple(tower.backbone.pretrained_cfg["mean"])


@pytest.mark.parametrize("kind", ["vit", "convnext"])
@pytest.mark.parametrize("tower_as", ["name", "module"])
def test_in_a_dual_encoder_it_is_saved_and_opened_again(kind, tower_as, tokenizer, tmp_path):
    name, size, *_ = MODELS[kind]
    options = {"img_size": size} if kind == "vit" else {}
    image = f"timm:{name}" if tower_as == "name" else timm.create_model(name, num_classes=7, **options)
    model = create(image=image, text=BERT, tokenizer=tokenizer, image_size=size, embed_dim=8, pretrained=False).eval()
    if tower_as == "module":
        assert model.image.backbone is image
    model.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, size, size)
    again = DualEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))


@pytest.mark.parametrize("kind", ["vit", "no class token", "convnext"])
def test_looks_at_larger_pictures_and_is_opened_again(kind, tokenizer, tmp_path):
    name, size, _, patches = MODELS[kind]
    settings = {"text": BERT, "tokenizer": tokenizer, "image_size": size, "embed_dim": 8, "pretrained": False}
    model = create(image=f"timm:{name}", **settings).eval().resize_images(2 * size)
    assert model.image.patches == 4 * patches
    model.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 2 * size, 2 * size)
    again = DualEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))


MASKS = pytest.mark.xfail(
    raises=RuntimeError, strict=True, reason="timm's Swin makes the masks of its attention in float32"
)
PRECISE = [(kind, torch.float32) for kind in MODELS]
PRECISE += [pytest.param(kind, torch.bfloat16, marks=MASKS if kind == "channels last" else ()) for kind in MODELS]


@pytest.mark.parametrize(("kind", "dtype"), PRECISE)
def test_adapters_and_precision_are_kept(kind, dtype, tokenizer, tmp_path):
    name, size, *_ = MODELS[kind]
    settings = {"text": BERT, "tokenizer": tokenizer, "image_size": size, "embed_dim": 8, "pretrained": False}
    model = create(image=f"timm:{name}", **settings).add_lora("image", rank=2).freeze("image_projection").to(dtype)
    pixels = torch.randn(2, 3, size, size)
    model.encode_image(pixels).float().square().sum().backward()
    assert [n for n, p in model.image.named_parameters() if p.requires_grad and p.grad is None] == []
    again = DualEncoder.from_pretrained(model.eval().save_pretrained(tmp_path))
    assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
    assert {p.dtype for p in again.parameters()} == {dtype}


def test_every_weight_learns(tokenizer):
    model = create(image="timm:vit_tiny_patch16_224", text=BERT, tokenizer=tokenizer, image_size=64, pretrained=False)
    model.encode_image(torch.randn(2, 3, 64, 64)).sum().backward()
    assert [name for name, p in model.image.named_parameters() if p.grad is None] == []


def test_an_unknown_name_is_explained(tokenizer):
    with pytest.raises(UserError, match="no timm model 'resnot18'"):
        create(image="timm:resnot18", text=BERT, tokenizer=tokenizer)
