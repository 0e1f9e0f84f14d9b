from __future__ import annotations

import pytest
import torch

from nearfar.errors import UserError
from nearfar.models import FusionClassifier, create, load

TEXTS = ["a red fox", "the ship at sea runs on"]


@pytest.fixture
def base(vit, bert, tokenizer):
    bert["num_hidden_layers"] = 3
    return create(image=vit, text=bert, tokenizer=tokenizer, embed_dim=16, text_layers=1).eval()


def test_goes_on_from_a_model_and_is_saved(base, tmp_path):
    base.freeze("image")
    made = FusionClassifier.of(base, classes=4)
    assert made.frozen == ("image",)
    assert not made.training
    pixels, tokens = torch.randn(2, 3, 32, 32), made.tokenize(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(made.encode_image(pixels), base.encode_image(pixels))
        logits = made.classify(pixels, tokens)
        fused = base.text.multimodal(tokens, base.image_tokens(pixels))[:, 0]
        torch.testing.assert_close(logits, made.classifier(fused))
    assert logits.shape == (2, 4)
    made.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, FusionClassifier)
    with torch.no_grad():
        assert torch.equal(again.classify(pixels, tokens), logits)


def test_copies_the_weights(base):
    made = FusionClassifier.of(base)
    with torch.no_grad():
        made.matching.linear.weight.zero_()
    assert base.matching.linear.weight.abs().sum() > 0
    with pytest.raises(UserError, match="at least 2"):
        FusionClassifier.of(base, classes=1)
