"""The grid of an image tower, and embeddings of its cells."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.tower_configs import BERT, CLIP_VISION, CONVNEXT, IMAGES, SMALL, VIT
from nearfar.errors import UserError
from nearfar.models import create
from nearfar.models.towers import image_map, naflex
from nearfar.models.towers.backbones import image_tower

KEEPS_PLACES = ("vit", "deit", "dinov2-registers", "clip", "siglip", "convnext", "swin")
"""Families whose fresh weights let a cell be changed most by the pixels under it; batch norm mixes more."""


def tower_of(config, image_size=32, **options):
    torch.manual_seed(0)
    return image_tower(config, image_size=image_size, **options)[0].eval()


@pytest.mark.parametrize("name", IMAGES)
def test_the_mean_over_cells_is_the_summary_of_a_tower_that_averages(name):
    config, _, _, patches = IMAGES[name]
    tower = tower_of(config, pooling="mean")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        cells, tokens = tower.encode_image_map(pixels), tower(pixels)
    side = int(patches**0.5)
    assert cells.shape == (2, tower.width, side, side)
    torch.testing.assert_close(cells.mean((2, 3)), tokens[:, 0])
    for i, j in ((0, 1), (1, 0), (side - 1, side - 1)):
        assert torch.equal(cells[:, :, i, j], tokens[:, 1 + i * side + j])


@pytest.mark.parametrize("name", KEEPS_PLACES)
def test_a_cell_moves_with_the_part_of_the_picture_under_it(name):
    tower = tower_of(IMAGES[name][0])
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = tower.encode_image_map(pixels)
        for i, j in ((0, 3), (3, 0), (1, 2)):
            other = pixels.clone()
            other[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = torch.randn(3, 8, 8)
            moved = (tower.encode_image_map(other) - before).norm(dim=1)[0]
            assert divmod(int(moved.argmax()), 4) == (i, j)


@pytest.mark.parametrize("name", ["convnext", "resnet", "efficientnet"])
def test_oblong_pictures_give_oblong_maps(name):
    tower = tower_of(IMAGES[name][0])
    side = int(IMAGES[name][3] ** 0.5)
    assert tower.encode_image_map(torch.randn(1, 3, 32, 64)).shape == (1, tower.width, side, 2 * side)


def test_a_sides_remainder_is_cut_or_filled_as_the_tower_does():
    swin = tower_of(IMAGES["swin"][0], image_size=40)  # 10 x 10 patches, merged to 5 x 5
    assert swin.encode_image_map(torch.randn(1, 3, 40, 40)).shape[2:] == (5, 5)
    filled = tower_of(IMAGES["swin"][0], image_size=36)  # 9 x 9 patches, filled up and merged
    assert filled.encode_image_map(torch.randn(1, 3, 36, 36)).shape[2:] == (5, 5)


@pytest.mark.parametrize("name", ["siglip", "convnext"])
def test_of_a_picture_of_one_cell_the_cells_summary_is_the_pictures(name):
    tower = tower_of(IMAGES[name][0], image_size=8)
    pixels = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        cells, tokens = tower.summary_map(pixels), tower(pixels)
    assert (tower.pooling, cells.shape[2:]) == ("tower", (1, 1))
    torch.testing.assert_close(cells[:, :, 0, 0], tokens[:, 0])
    assert not torch.allclose(cells, tower.encode_image_map(pixels))


def test_a_norm_that_follows_pooling_goes_over_each_cell():
    pixels = torch.randn(2, 3, 32, 32)
    for config, norm in ((CLIP_VISION, "post_layernorm"), (CONVNEXT, "layernorm")):
        tower = tower_of(config)
        layer = getattr(tower.backbone, norm)
        nn.init.normal_(layer.bias)
        with torch.no_grad():
            cells = tower.encode_image_map(pixels)
            expected = layer(cells.movedim(1, -1)).movedim(-1, 1)
            torch.testing.assert_close(tower.summary_map(pixels), expected)


@pytest.mark.parametrize(
    "config", [VIT, IMAGES["dinov2"][0], {**VIT, "model_type": "beit"}], ids=["vit", "dinov2", "beit"]
)
def test_poolers_on_the_class_token_or_the_mean_go_over_each_cell(config):
    tower = tower_of(config, pooling="tower")
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        cells, summaries = tower.encode_image_map(pixels), tower.summary_map(pixels)
        part = getattr(tower.backbone, "pooler", None)
        for i, j in ((0, 0), (2, 1)):
            cell = cells[:, :, i, j]
            expected = cell if part is None else part(torch.stack([cell, cell], 1))
            torch.testing.assert_close(summaries[:, :, i, j], expected)


def test_cells_are_projected_into_the_shared_space(tokenizer):
    torch.manual_seed(0)
    model = create(image=VIT, text=BERT, image_size=32, tokenizer=tokenizer, image_pooling="mean", embed_dim=24).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        cells = model.encode_image_map(pixels)
        assert cells.shape == (2, 24, 4, 4)
        torch.testing.assert_close(cells.mean((2, 3)), model.encode_image(pixels))
        torch.testing.assert_close(cells[:, :, 1, 2], model.image_projection(model.image_tokens(pixels)[:, 1 + 4 + 2]))
        unit = model.encode_image_map(pixels, normalize=True)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2, 4, 4))
    assert model.encode_image_map(pixels).requires_grad


def test_one_of_several_heads(tokenizer):
    model = create("tiny", tokenizer=tokenizer, image_heads=3).eval()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        heads = [model.encode_image_map(pixels, normalize=True, head=head) for head in range(3)]
        assert model.encode_image_map(pixels).shape == (1, model.embed_dim, 2, 3)
        torch.testing.assert_close(model.encode_image_map(pixels), torch.stack(heads).mean(0))


def test_pixels_of_another_shape_are_refused(tokenizer):
    model = create(image=VIT, text=BERT, image_size=32, tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"pixels are \[B, 3, 32, 32\] here .*; these are \[1, 3, 32, 40\]"):
        model.encode_image_map(torch.randn(1, 3, 32, 40))
    with pytest.raises(UserError, match="channels come second"):
        model.encode_image_map(torch.randn(1, 32, 32, 3))


class Latents(nn.Module):
    """Sixteen tokens that stand nowhere in the picture."""


def test_tokens_that_are_no_grid_are_refused_by_name():
    with pytest.raises(UserError, match="Latents makes 16 tokens of a picture of 32 x 32 pixels, which are no grid"):
        image_map.as_map(Latents(), torch.randn(1, 16, 8), 0, torch.randn(1, 3, 32, 32))


class WholeGrid(nn.Module):
    """A pooling with a weight for each place."""

    def forward_head(self, features, pre_logits):
        return nn.functional.linear(features.flatten(1), torch.ones(5, 8 * 4 * 4))


def test_a_pooling_over_the_whole_grid_is_refused_by_name():
    grid = torch.randn(2, 8, 4, 4)
    for backbone, pooled in ((WholeGrid(), grid.mean((2, 3))), (Latents(), grid[:, :, 0, 0]), (Latents(), None)):
        with pytest.raises(UserError, match=f"{type(backbone).__name__} pools its whole grid at once"):
            image_map.summaries(backbone, pooled, grid, 0, grid)


def test_pictures_of_any_shape_have_maps_of_their_shape():
    config = {"model_type": "siglip2_vision_model", **SMALL, "num_patches": 16, "patch_size": 8}
    tower = tower_of(config)
    wide = naflex.packed(torch.randn(1, 3, 16, 64), 8, 16)
    flat = naflex.packed(torch.randn(1, 3, 8, 40), 8, 16)  # 5 patches, filled up to 16
    with torch.no_grad():
        assert tower.encode_image_map(wide).shape == (1, 32, 2, 8)
        assert tower.summary_map(flat).shape == (1, 32, 1, 5)
        both = tower.encode_image_map(torch.cat([flat, flat]))
    assert torch.equal(both[0], both[1])
    with pytest.raises(UserError, match=r"2 shapes in patches \(\(1, 5\), \(2, 8\)\)"):
        tower.encode_image_map(torch.cat([wide, flat]))
