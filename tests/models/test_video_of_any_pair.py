"""A video encoder starts from the weights of any dual encoder: of every family that opens here, of presets and of
folders. Without what is added it is the mean of that model's frames."""

import pytest
import torch
from torch.nn import functional as F

import nearfar
from models.dual_families import WORK
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import FrameMean, create, video_encoder

MEAN = {"messages": False, "integration_layers": 0, "prompt_layers": 0}
NAMES = ["moving up", "moving down", "growing"]


def check(pair, frames):
    """The mean of frames is the pair's, and every part that is added learns from a loss."""
    videos = torch.randn(2, frames, 3, pair.image_size, pair.image_size)
    mean = FrameMean(pair).encode_video(videos)
    tokens = pair.tokenize(NAMES)
    plain = video_encoder(pair, frames=frames, **MEAN).eval()
    torch.testing.assert_close(plain.encode_video(videos), mean, rtol=1e-4, atol=1e-5)
    texts = F.normalize(pair.encode_text(tokens), dim=1)
    torch.testing.assert_close(plain(videos, tokens), F.normalize(mean, dim=1) @ texts.T, rtol=0, atol=1e-5)
    messages = pair.image.prefix > 0
    if not messages:
        with pytest.raises(UserError, match="class token"):
            video_encoder(pair, frames=frames)
    model = video_encoder(pair, frames=frames, messages=messages)
    model(videos, tokens).var().backward()
    silent = [name for name, parameter in model.added() if parameter.grad is None or not parameter.grad.any()]
    # A bias of keys moves no attention, and every weight of the last layer's message is read through it.
    assert [name for name in silent if "bias" not in name] == []


@pytest.mark.parametrize("family", sorted(WORK))
def test_families_of_transformers(family, tokenizer, end_is_last):
    torch.manual_seed(0)
    own = end_is_last if family.startswith("OWL") else tokenizer
    check(nearfar.load(WORK[family]().eval(), tokenizer=own).eval(), 3)


@pytest.mark.parametrize("preset", ["tiny", "tiny-vit"])
def test_presets_and_their_folders(preset, tmp_path):
    torch.manual_seed(0)
    pair = create(preset, tokenizer=train_tokenizer(NAMES, 300), image_size=32).eval()
    check(pair, 2)
    pair.save_pretrained(tmp_path / "pair")
    again = video_encoder(tmp_path / "pair", frames=2, **MEAN).eval()
    videos = torch.randn(1, 2, 3, 32, 32)
    torch.testing.assert_close(again.encode_video(videos), FrameMean(pair).encode_video(videos), rtol=1e-5, atol=1e-6)
