"""X-CLIP as transformers has it: its own logits and embeddings, from an instance and from a folder."""

import json

import pytest
import torch

import nearfar
from nearfar.errors import UserError
from nearfar.models import VideoEncoder

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TEXTS = ["a red fox", "the ship at sea runs", "cat"]


def xclip(tokenizer, **changes):
    from transformers import XCLIPConfig, XCLIPModel

    vision = {**SMALL, "num_hidden_layers": 3, "image_size": 16, "patch_size": 8, "num_frames": 4}
    vision |= {"mit_hidden_size": 24, "mit_intermediate_size": 96, "mit_num_attention_heads": 3} | changes
    config = XCLIPConfig(
        text_config={**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config=vision,
        projection_dim=24,
        prompt_num_attention_heads=2,
        prompt_layers=3,
    )
    model = XCLIPModel(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # far from the small start, so that every part shows
            parameter.normal_(std=0.3)
        model.logit_scale.fill_(4.0)
    return model


def logits(theirs, video, tokens):
    with torch.no_grad():
        return theirs(pixel_values=video, **tokens)


def test_the_logits_and_embeddings_are_its_own(end_is_last):
    theirs = xclip(end_is_last)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours = nearfar.load(theirs, tokenizer=end_is_last)
    assert isinstance(ours, VideoEncoder)
    assert (ours.frame_choice.frames, ours.image_size, ours.embed_dim) == (4, 16, 24)
    assert ours.mean == pytest.approx((0.485, 0.456, 0.406))
    video, tokens = torch.randn(3, 4, 3, 16, 16), ours.tokenize(TEXTS)
    own = logits(theirs, video, tokens)
    with torch.no_grad():
        torch.testing.assert_close(ours(video, tokens), own.logits_per_video * ours.temperature, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.encode_video(video, normalize=True), own.video_embeds, rtol=0, atol=1e-5)
        features = theirs.get_text_features(**tokens).pooler_output
        torch.testing.assert_close(ours.encode_text(tokens), features, rtol=1e-5, atol=1e-5)
    assert ours.temperature == pytest.approx(torch.tensor(-4.0).exp().item())
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())


def test_a_folder_with_its_processor(end_is_last, tmp_path):
    theirs = xclip(end_is_last)
    theirs.save_pretrained(tmp_path)
    end_is_last.save_pretrained(tmp_path)
    processor = {"image_processor_type": "VideoMAEImageProcessor", "do_resize": True, "do_center_crop": True}
    processor |= {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}, "resample": 2}
    processor |= {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.2], "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    ours = nearfar.load(tmp_path)
    assert (ours.pixels.resize, ours.pixels.resample) == (18, "bilinear")
    assert ours.mean == pytest.approx((0.4, 0.5, 0.6))
    video, tokens = torch.randn(2, 4, 3, 16, 16), ours.tokenize(TEXTS)
    with torch.no_grad():
        own = logits(theirs, video, tokens).logits_per_video * ours.temperature
        torch.testing.assert_close(ours(video, tokens), own, rtol=0, atol=1e-5)


def test_other_numbers_of_frames_are_taken(end_is_last):
    """There a different number of frames fails."""
    ours = nearfar.load(xclip(end_is_last), tokenizer=end_is_last)
    assert ours.encode_video(torch.randn(2, 6, 3, 16, 16)).shape == (2, 24)


def test_what_is_not_followed_is_refused(end_is_last, monkeypatch):
    theirs = xclip(end_is_last)
    with pytest.raises(UserError, match="tokenizer"):
        nearfar.load(theirs)
    from nearfar.models.video import xclip_checkpoint

    monkeypatch.setattr(xclip_checkpoint, "_copy_attention", lambda *a: None)
    with pytest.raises(UserError, match="its logits for a probe are others"):
        nearfar.load(theirs, tokenizer=end_is_last)
