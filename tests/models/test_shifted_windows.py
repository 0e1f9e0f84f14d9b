"""The windowed transformer of DITO, its pyramid and its head over regions."""

import pytest
import torch

from nearfar.errors import UserError
from nearfar.models import image_encoder
from nearfar.models.detection.feature_pyramid import SimpleFeaturePyramid
from nearfar.models.detection.region_head import RegionHead, text_logits
from nearfar.models.detection.shifted_windows import (
    ShiftedWindowEncoder,
    merge_windows,
    resized_positions,
    rolled,
    split_windows,
)


@pytest.fixture(scope="module")
def vit():
    config = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    config |= {"intermediate_size": 32, "patch_size": 4, "initializer_range": 0.2}
    torch.manual_seed(0)
    return image_encoder(image=config, image_size=32).image.backbone.eval()


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_a_roll_and_back():
    grid = torch.arange(16).view(1, 1, 4, 4)
    assert rolled(grid, 1)[0, 0].tolist() == [[7, 4, 5, 6], [11, 8, 9, 10], [15, 12, 13, 14], [3, 0, 1, 2]]
    assert torch.equal(rolled(rolled(grid, 1), -1), grid)


def test_windows_are_cut_and_put_together_again():
    tokens = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = split_windows(tokens, 2)
    assert windows.shape == (12, 4, 1)
    assert windows[1, :, 0].tolist() == [2, 3, 8, 9]
    assert torch.equal(merge_windows(windows, 2, 4, 6), tokens)


@torch.no_grad()
def test_without_windows_it_is_the_transformer_without_its_class_token(vit, pixels):
    embeddings = vit.embeddings
    tokens = embeddings.patch_embeddings(pixels) + embeddings.position_embeddings[:, 1:]
    for layer in vit.layers:
        tokens = layer(tokens)
    plain = vit.layernorm(tokens).transpose(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(ShiftedWindowEncoder(vit, window=None)(pixels), plain)


@torch.no_grad()
def test_attention_stays_within_its_window(vit, pixels):
    # All layers but the last see windows: with that one taken away no token knows of another window.
    encoder = ShiftedWindowEncoder(vit, window=4, shift=0, global_layers="last")
    encoder.global_at = set()
    other = pixels.clone()
    other[:, :, :16, :16] = 0
    changed = (encoder(pixels) - encoder(other)).abs().amax(1) > 1e-6
    assert changed[:, :4, :4].all()
    assert not changed[:, 4:].any()
    assert not changed[:, :, 4:].any()


@torch.no_grad()
def test_the_second_pass_changes_windows_alone(vit, pixels):
    shifted = ShiftedWindowEncoder(vit, window=4, global_layers="last")
    assert shifted.shift == 2
    plain = ShiftedWindowEncoder(vit, window=4, shift=0, global_layers="last")
    assert not torch.allclose(shifted(pixels), plain(pixels), atol=1e-3)
    kept = vit.embeddings.position_embeddings.data.clone()
    try:
        vit.embeddings.position_embeddings.data.zero_()
        # Full attention does not care for the order of tokens; windows do.
        for shift in (1, 3):
            whole = ShiftedWindowEncoder(vit, window=4, shift=shift, global_layers="all")
            none = ShiftedWindowEncoder(vit, window=4, shift=0, global_layers="all")
            torch.testing.assert_close(whole(pixels), none(pixels), atol=1e-5, rtol=0)
        assert not torch.allclose(shifted(pixels), plain(pixels), atol=1e-3)
    finally:
        vit.embeddings.position_embeddings.data.copy_(kept)


@torch.no_grad()
def test_positions_before_the_roll_are_another_method(vit, pixels):
    before = ShiftedWindowEncoder(vit, window=4, shift=2, global_layers="all", positions="before")
    none = ShiftedWindowEncoder(vit, window=4, shift=0, global_layers="all")
    after = ShiftedWindowEncoder(vit, window=4, shift=2, global_layers="all")
    torch.testing.assert_close(before(pixels), none(pixels), atol=1e-5, rtol=0)
    assert not torch.allclose(after(pixels), none(pixels), atol=1e-3)


def test_the_last_layer_of_each_quarter_is_global(vit):
    from nearfar.models.detection.shifted_windows import _global_at

    assert _global_at(12, "quarters") == {2, 5, 8, 11}
    assert _global_at(24, "quarters") == {5, 11, 17, 23}
    assert _global_at(12, "last") == {11}
    assert _global_at(2, "quarters") == {0, 1}
    assert ShiftedWindowEncoder(vit, window=4).global_at == {0, 1, 2, 3}


def test_positions_follow_the_grid():
    positions = torch.arange(5.0).view(1, 5, 1)  # a class token, then 2 x 2
    assert resized_positions(positions, 2, 2)[0, 0].tolist() == [[1, 2], [3, 4]]
    assert resized_positions(positions, 4, 4)[0, 0, 0].tolist() == pytest.approx([1, 1.25, 1.75, 2])
    assert torch.equal(resized_positions(positions[:, 1:], 2, 2), resized_positions(positions, 2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"global_layers": "some"}, "choose quarters, last, all"),
        ({"positions": "under"}, "choose after or before"),
    ],
)
def test_settings_out_of_range(vit, settings, message):
    with pytest.raises(UserError, match=message):
        ShiftedWindowEncoder(vit, **settings)


def test_a_map_that_windows_do_not_divide(vit, pixels):
    with pytest.raises(UserError, match="8 x 8 tokens is not divided by windows of 3 x 3"):
        ShiftedWindowEncoder(vit, window=3)(pixels)


def test_another_network_is_named():
    with pytest.raises(UserError, match="a Linear is no vision transformer"):
        ShiftedWindowEncoder(torch.nn.Linear(2, 2))


def test_a_pyramid_of_some_levels():
    grids = SimpleFeaturePyramid(8, out=4, levels=(5, 3))(torch.rand(1, 8, 4, 4))
    assert {level: tuple(grid.shape) for level, grid in grids.items()} == {3: (1, 4, 8, 8), 5: (1, 4, 2, 2)}
    with pytest.raises(UserError, match="some of 2, 3, 4 and 5"):
        SimpleFeaturePyramid(8, levels=(4, 4))


def test_the_level_as_fine_as_the_map_reads_no_cell_farther_than_its_kernel():
    pyramid = SimpleFeaturePyramid(8, out=4, levels=(4,)).eval()
    grid = torch.rand(1, 8, 6, 6)
    other = grid.clone()
    other[..., 5, 5] += 1
    changed = (pyramid(grid)[4] - pyramid(other)[4]).abs().amax(1)[0] > 1e-7
    assert changed.nonzero().amin(0).tolist() == [4, 4]


def test_classes_of_regions_are_cosines_with_rows():
    head = RegionHead(4, 6, size=3, convolutions=1, hidden=8)
    features = torch.rand(5, 8)
    torch.testing.assert_close(head.embeddings(3 * features), head.embeddings(features))
    with torch.no_grad():
        before = head.embeddings(features)
        head.classes.weight.mul_(2)
    torch.testing.assert_close(head.embeddings(features), before)
    assert before.abs().max() <= 1


def test_texts_are_classes_in_any_order_and_of_any_length():
    regions, texts = torch.randn(4, 8), torch.randn(5, 8)
    order = torch.randperm(5)
    logits = text_logits(regions, texts, 0.01)
    torch.testing.assert_close(text_logits(regions, texts[order], 0.01), logits[:, order])
    torch.testing.assert_close(text_logits(7 * regions, 0.2 * texts, 0.01), logits, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(("shift", "passes"), [(0, 1), (2, 2), (None, 2)])
@torch.no_grad()
def test_without_a_shift_there_is_one_pass(vit, pixels, shift, passes):
    calls = []
    hook = vit.layers[0].register_forward_hook(lambda *_: calls.append(1))
    ShiftedWindowEncoder(vit, window=4, shift=shift)(pixels)
    hook.remove()
    assert len(calls) == passes
