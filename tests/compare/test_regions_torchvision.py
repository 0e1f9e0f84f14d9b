"""RoIAlign beside torchvision's: its form in plain torch, as its operators fit only the build of torch they are for.

That form lacks the operator's rule that samples more than a cell outside count nothing: boxes here stay nearer, and a
slow loop in `tests/ops/test_regions.py` holds the rule.
"""

import pytest
import torch

pytest.importorskip("torchvision")

from torchvision.ops.roi_align import _roi_align

from nearfar.models.detection.shifted_windows import ShiftedWindowEncoder
from nearfar.ops.regions import roi_align, sample_random_boxes


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize(("size", "stride"), [(7, 8), (1, 16), (3, 5)])
def test_roi_align(aligned, ratio, size, stride):
    maps = torch.randn(3, 4, 9, 12, dtype=torch.float64)
    boxes = sample_random_boxes(3, 6, size=(0.02, 0.9)).double() * torch.tensor([11, 8, 11, 8]) * stride
    rows = torch.cat([torch.arange(3.0).repeat_interleave(6)[:, None].double(), boxes.flatten(0, 1)], 1)
    with torch.compiler.set_stance("force_eager"):  # it would compile itself for half a minute
        expected = _roi_align(maps, rows, 1 / stride, size, size, ratio, aligned)
    cut = roi_align(maps, boxes, size, stride=stride, sampling_ratio=ratio, aligned=aligned)
    torch.testing.assert_close(cut.flatten(0, 1), expected)


def test_windows_around_a_transformer_of_timm():
    timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4, embed_dim=24, num_heads=2).eval()
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        plain = vit.patch_embed(pixels) + vit.pos_embed[:, 1:]
        for block in vit.blocks:
            plain = block(plain)
        whole = ShiftedWindowEncoder(vit, window=None)(pixels)
        torch.testing.assert_close(whole.flatten(2).transpose(1, 2), vit.norm(plain))
        assert ShiftedWindowEncoder(vit, window=2)(pixels).shape == (1, 24, 4, 4)
