"""Log-mel features: equal to transformers' extractors, known values of both scales, lengths, silence."""

import numpy as np
import pytest
import torch

from nearfar.data import LogMel
from nearfar.data.sound.log_mel import from_mel, mel_filters, to_mel
from nearfar.errors import UserError


def noise(samples=16000, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, samples)).float()


@pytest.mark.parametrize("mels", [80, 128])
def test_whispers_features(mels):
    from transformers import WhisperFeatureExtractor

    sound = noise(5 * 16000)
    theirs = WhisperFeatureExtractor(feature_size=mels, chunk_length=6)(sound.numpy(), sampling_rate=16000)
    ours = LogMel.whisper(mels)(torch.cat([sound, torch.zeros(16000)]))  # it pads to its chunk
    assert ours.shape == (600, mels)
    assert ours.T.numpy() == pytest.approx(theirs["input_features"][0], abs=2e-5)


def test_speech_t5s_features():
    from transformers import SpeechT5FeatureExtractor

    extractor = SpeechT5FeatureExtractor()
    sound = noise()
    theirs = extractor(audio_target=sound.numpy(), sampling_rate=16000)["input_values"][0]
    setting = LogMel(window=1024, hop=256, low=80, high=7600, power=1.0, normalise="none")
    assert setting(sound).numpy() == pytest.approx(theirs, abs=2e-4)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("area", [True, False])
def test_filters(scale, area):
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(257, 40, 20.0, 7000.0, 16000, "slaney" if area else None, scale)
    ours = mel_filters(512, 40, 16000, low=20.0, high=7000.0, scale=scale, area=area)
    assert ours.T.numpy() == pytest.approx(theirs, abs=1e-6)


def test_the_two_scales():
    hertz = torch.tensor([1000.0, 4000.0])
    assert to_mel(hertz, "htk").tolist() == pytest.approx([999.9855, 2146.0645], abs=1e-4)
    assert to_mel(hertz, "slaney").tolist() == pytest.approx([15.0, 35.1638], abs=1e-4)
    for scale in ("htk", "slaney"):
        places = torch.linspace(0, 8000, 50)
        assert from_mel(to_mel(places, scale), scale).tolist() == pytest.approx(places.tolist(), abs=1e-3)


def test_frames_with_and_without_centring():
    """16,000 samples, window 400, hop 160: 101 frames centred, 98 not."""
    for setting, frames in (
        (LogMel(), 101),
        (LogMel(centred=False), 98),
        (LogMel.whisper(), 100),
        (LogMel(padding="zeros"), 101),
    ):
        assert setting(noise()).shape == (frames, 80)
        for samples in (1, 3, 160, 161, 200, 201, 399, 400, 401, 1000):
            features = setting(noise(samples))
            assert features.shape == (setting.count(samples), 80)
            assert features.isfinite().all()


def test_silence_has_features_and_they_are_numbers():
    for normalise in ("none", "loudest", "bands"):
        assert LogMel(normalise=normalise)(torch.zeros(1600)).isfinite().all()
    bands = LogMel(normalise="bands")(noise())
    assert bands.mean(0).abs().max() < 1e-4
    assert bands.std(0, correction=0) == pytest.approx(np.ones(80), abs=1e-3)
    louder = LogMel(normalise="bands")(10 * noise())
    assert louder.numpy() == pytest.approx(bands.numpy(), abs=1e-3)  # loudness goes
    natural = LogMel(normalise="none", log="ln")(noise())
    assert (natural / LogMel(normalise="none")(noise())).mean() == pytest.approx(np.log(10), abs=1e-4)


def test_a_configuration_holds_every_setting():
    setting = LogMel(mels=40, scale="htk", area=False, power=1.0, centred=False)
    assert LogMel(**setting.settings()) == setting
    assert {"scale", "area", "power", "floor", "centred", "padding", "log"} <= setting.settings().keys()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mels": 0}, "mels is 0"),
        ({"rate": 7}, "rate=7: choose one of 4,000 to 768,000"),
        ({"fft": 100}, "fft=100 is shorter than window=400"),
        ({"high": 9000}, "high=9000: must rise, from 0 to 8000 at most"),
        ({"low": 8000}, "low=8000 and high=8000"),
        ({"floor": 0}, "must be above 0"),
        ({"scale": "mel"}, "scale='mel': choose one of slaney, htk"),
        ({"normalise": "all"}, "choose one of none, loudest, bands"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(UserError, match=words):
        LogMel(**settings)
