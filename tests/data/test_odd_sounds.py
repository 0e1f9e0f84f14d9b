"""Sounds as machines and people leave them: headers and names that lie, channels that cancel, parts of a file. Each is
read for what it is, or refused in one sentence."""

import io
import math
import struct
from functools import cache

import numpy as np
import pytest
import torch

from nearfar.data import BadSound, LogMel, read_sound
from nearfar.data.sound.sound_field import features_of
from nearfar.data.sound.sound_files import RUN_UP, sound_seconds
from nearfar.errors import UserError

soundfile = pytest.importorskip("soundfile", reason="needs soundfile: pip install 'nearfar[speech]'")


def tone(rate=16000, hertz=440.0, seconds=0.25, height=0.5):
    return height * np.sin(2 * math.pi * hertz * np.arange(round(seconds * rate)) / rate)


def as_file(samples, rate=16000, kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def stated(size):
    """A WAV file of 4,000 samples whose header states so many bytes of them."""
    data = bytearray(as_file(tone()))
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", size)
    return bytes(data)


@pytest.mark.parametrize(("size", "samples"), [(2**32 - 1, 4000), (10**9, 4000), (8000, 4000), (100, 50), (101, 50)])
def test_a_header_that_lies_about_its_length(size, samples):
    """A pipe does not know its length and states the largest; a stated length that is shorter than the file holds, as
    what follows may be no sound."""
    assert read_sound(stated(size)).samples.numpy() == pytest.approx(tone()[:samples], abs=4e-5)
    assert sound_seconds(stated(size)) == samples / 16000


def test_a_header_that_was_never_finished(tmp_path):
    (tmp_path / "a.wav").write_bytes(stated(0))
    for sound in (stated(0), tmp_path / "a.wav"):
        with pytest.raises(BadSound, match="its header was never finished and says that it holds no sound: write it"):
            read_sound(sound)
    with pytest.raises(BadSound, match=r"bytes: it holds no sound$"):
        read_sound(as_file(np.zeros(0)))  # finished, and empty


@pytest.mark.parametrize(
    ("name", "kind", "tolerance"),
    [
        ("a.wav", "FLAC", 4e-5),
        ("a.flac", "WAV", 4e-5),
        ("a.mp3", "WAV", 4e-5),
        ("a.wav", "MP3", 0.03),
        ("a", "OGG", 0.1),
    ],
)
def test_a_file_is_what_it_holds_whatever_its_name(tmp_path, name, kind, tolerance):
    (tmp_path / name).write_bytes(as_file(tone(), kind=kind))
    assert read_sound(tmp_path / name).samples.numpy() == pytest.approx(tone(), abs=tolerance)


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
def test_opus_keeps_its_rate_and_its_tone(rate):
    """Ogg holds Vorbis or Opus; Opus decodes at 48,000, and the file says what was recorded."""
    waveform = read_sound(as_file(tone(rate, seconds=1), rate, "OGG", "OPUS"))
    assert (waveform.rate, len(waveform.samples)) == (rate, rate)
    strengths = np.abs(np.fft.rfft(waveform.samples.numpy()[rate // 4 : rate // 2]))
    assert strengths.argmax() * 4 == 440


def test_six_channels_are_averaged():
    six = np.stack([tone(height=0.1 * (k + 1), hertz=200 * (k + 1)) for k in range(6)], axis=1)
    mono = read_sound(as_file(six, subtype="FLOAT")).samples.numpy()
    assert mono == pytest.approx(six.mean(axis=1), abs=1e-6)
    assert torch.equal(read_sound((six, 16000)).samples, torch.from_numpy(six.mean(axis=1)).float())


def test_channels_that_cancel_are_refused():
    """One side of a microphone wired the other way round: the mean would be silence, or the rounding of it."""
    for sound in (as_file(np.stack([tone(), -tone()], axis=1)), (np.stack([tone(), -tone()], axis=1), 16000)):
        with pytest.raises(BadSound, match="its channels cancel each other out: keep one of them"):
            read_sound(sound)
    apart = np.stack([tone(), -0.99 * tone()], axis=1)
    assert read_sound((apart, 16000)).samples.numpy() == pytest.approx(0.005 * tone(), abs=1e-7)
    assert read_sound((np.zeros((8, 2)), 16000)).is_silent  # nothing there to cancel


def test_axes_the_other_way_round_are_refused():
    with pytest.raises(
        BadSound, match=r"samples of shape \(2, 4000\) have more channels than samples: give \[T, channels\]"
    ):
        read_sound((np.stack([tone(), tone()]), 16000))
    assert len(read_sound((np.zeros((3, 6)), 16000)).samples) == 3  # few samples, but channels that a file may have


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_is_silence_at_every_rate(rate, level):
    """A constant at another rate rings at its ends, and would pass for a sound."""
    with pytest.raises(BadSound, match="it is silent from end to end"):
        features_of((np.full(rate // 4, level), rate), LogMel())
    assert features_of((tone(rate), rate), LogMel()).shape == (26, 80)


@pytest.mark.parametrize("height", [1e11, 1e30, 1e300, np.nan])
def test_samples_beyond_all_scales_are_refused(height):
    with pytest.raises(BadSound, match="some of its samples are no numbers, infinite, or beyond 4e"):
        read_sound((tone() * height, 16000))
    assert features_of((tone() * 2**31, 16000), LogMel()).isfinite().all()  # floats on the scale of integers


@pytest.mark.parametrize("features", [LogMel(), LogMel.whisper(), LogMel(centred=False), LogMel(normalise="bands")])
def test_two_samples_have_features(features):
    shortest = features_of((np.array([0.5, -0.5]), 16000), features)
    assert shortest.shape == (features.count(2), 80)
    assert shortest.isfinite().all()


@cache
def sweep(kind, subtype):
    """A rising tone as a file, and what it holds."""
    rising = 0.5 * np.sin(2 * np.pi * np.cumsum(np.linspace(100, 3000, 40000)) / 16000)
    content = as_file(rising, 16000, kind, subtype)
    return content, read_sound(content).samples


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    # An Opus decoder comes near after a seek, and is the same only in the end (RFC 7845).
    [("WAV", None, 0), ("FLAC", None, 0), ("OGG", "VORBIS", 1e-6), ("MP3", None, 1e-6), ("OGG", "OPUS", 5e-3)],
)
@pytest.mark.parametrize("begin", [300, 7001, RUN_UP + 5, 30000])
def test_a_part_is_the_whole_s_part(kind, subtype, tolerance, begin):
    """After a seek an MP3 begins without the bits of the frames before: its first thousands of samples are others."""
    content, whole = sweep(kind, subtype)
    part = read_sound(content, start=begin / 16000, seconds=0.5).samples
    assert len(part) == 8000
    assert part.numpy() == pytest.approx(whole[begin : begin + 8000].numpy(), abs=tolerance)


@pytest.mark.parametrize("sound", [(tone(), 16000), as_file(tone())])
def test_a_part_begins_within_the_sound(sound):
    for start in (-1.0, math.nan):
        with pytest.raises(UserError, match="must be 0 or more seconds"):
            read_sound(sound, start=start)


@pytest.mark.parametrize(("kind", "words"), [("FLAC", "broken: write it anew"), ("OGG", "it holds no sound")])
def test_what_was_cut_off_and_cannot_be_read_is_refused(kind, words):
    content = as_file(np.random.default_rng(0).normal(0, 0.1, 32000), kind=kind)
    with pytest.raises(BadSound, match=words):
        read_sound(content[: len(content) // 3])
