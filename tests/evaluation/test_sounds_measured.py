"""A model of sounds is measured as one of pictures is, and its report draws what was heard."""

import numpy as np
import pytest
import torch

from nearfar.data import Records, train_tokenizer
from nearfar.embedding import embed
from nearfar.evaluation import evaluate
from nearfar.evaluation.needs import missing_in_model, missing_in_source
from nearfar.evaluation.report.retrieval_gallery import both_ways
from nearfar.models import sound_encoder


def tone(hertz, rate=16000):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(rate // 5) / rate), rate


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    records = [
        {"audio": tone(hertz + i, rate), "text": f"a {name} tone {i}", "label": label}
        for label, (name, hertz) in enumerate((("low", 250), ("high", 2000)))
        for i, rate in enumerate((16000, 22050, 8000, 44100))
    ]
    source = Records(records, name="tones", classes=["low", "high"])
    model = sound_encoder(tokenizer=train_tokenizer(source.texts(), 300), width=16, layers=1, heads=2).eval()
    return model, source


@pytest.mark.parametrize("protocol", ["retrieval", "zero_shot", "knn", "linear_probe", "few_shot", "clustering"])
def test_nothing_speaks_against_the_protocols_of_pictures(made, protocol):
    model, source = made
    assert missing_in_source(protocol, source) is None
    assert missing_in_model(protocol, model, source) is None


def test_figures_are_those_of_the_vectors(made):
    model, source = made
    results = evaluate(model, source)
    assert {"retrieval", "zero_shot", "geometry"} <= results.keys()
    with torch.no_grad():
        audio = model.encode_audio(model.preprocess_audio([r["audio"] for r in source]), normalize=True)
        text = model.encode_text(model.tokenize([r["text"] for r in source]), normalize=True)
    right = (text @ audio.T).argmax(1) == torch.arange(8)
    assert results["retrieval"]["text_to_image_R@1"] == pytest.approx(right.double().mean().item())


def test_vectors_of_sounds_are_called_sounds(made):
    data = embed(*made)
    assert (data.picture_side, data.medium, data.counted) == ("audio", "sound", "8 sounds, 8 different captions")
    assert data.image.shape == (8, 128)


def test_the_gallery_draws_spectrograms(made):
    model, source = made
    note, *examples = both_ways(embed(model, source), source)
    assert "the sounds nearest to each" in str(note)
    assert "spectrogram" in str(note)
    assert examples[0].examples[0].pictures[0].url.startswith("data:image/webp;base64,")
