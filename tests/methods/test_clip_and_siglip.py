"""The two plainest methods: which switch does what, and that temperatures stay within their bounds."""

import pytest
import torch

from nearfar.losses.functional import info_nce, sigmoid_loss
from nearfar.methods.image_text.clip import CLIP
from nearfar.methods.image_text.negclip import NegCLIP
from nearfar.methods.image_text.siglip import SigLIP


class Identity(torch.nn.Module):
    def encode_image(self, pixels, normalize=False):
        return pixels

    def encode_text(self, tokens, normalize=False):
        return tokens


@pytest.fixture
def batch():
    image, text = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    return {"image": image, "text": text, "group": torch.tensor([7, 7, 1, 2, 3])}


@pytest.mark.parametrize("exclude", [True, False])
def test_clip_leaves_duplicates_out_where_it_should(exclude, batch):
    out = CLIP(Identity(), temperature=0.3, exclude_duplicates=exclude)(batch)
    group = batch["group"] if exclude else None
    torch.testing.assert_close(out["loss"], info_nce(batch["image"], batch["text"], temperature=0.3, group=group))
    assert out["temperature"].item() == pytest.approx(0.3)


def test_clip_s_settings_reach_its_loss(batch):
    method = CLIP(Identity(), temperature=0.3, learn_temperature=False, label_smoothing=0.2)
    expected = info_nce(batch["image"], batch["text"], temperature=0.3, label_smoothing=0.2)
    torch.testing.assert_close(method(batch)["loss"], expected)
    assert [p for p in method.parameters() if p.requires_grad] == []


@pytest.mark.parametrize("share", [True, False])
def test_siglip_counts_duplicates_as_positives_where_it_should(share, batch):
    out = SigLIP(Identity(), temperature=0.3, bias=-2.0, share_duplicates=share)(batch)
    group = batch["group"] if share else None
    expected = sigmoid_loss(batch["image"], batch["text"], temperature=0.3, bias=-2.0, group=group)
    torch.testing.assert_close(out["loss"], expected)
    assert (out["temperature"].item(), out["bias"].item()) == pytest.approx((0.3, -2.0))


@pytest.mark.parametrize("make", [CLIP, NegCLIP])
def test_a_step_brings_the_scale_back_within_1_and_100_as_released(make):
    method = make(Identity())
    for log_scale, tau in ((50.0, 0.01), (-50.0, 1.0)):
        with torch.no_grad():
            method.loss.temperature.value.fill_(log_scale)
        method.after_step(1)
        assert method.loss.temperature().item() == pytest.approx(tau)
