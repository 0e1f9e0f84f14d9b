"""Sounds as samples: kinds of files, rates, channels, scales; what is broken, and what is said of it."""

import io
import math
import struct

import numpy as np
import pytest
import torch

from nearfar.data import BadSound, read_sound
from nearfar.data.sound.resampling import resample
from nearfar.data.sound.sound_files import sound_seconds
from nearfar.errors import UserError

soundfile = pytest.importorskip("soundfile", reason="needs soundfile: pip install 'nearfar[speech]'")


def tone(rate, hertz=440.0, seconds=0.25, height=0.5):
    return height * np.sin(2 * math.pi * hertz * np.arange(round(seconds * rate)) / rate)


def as_file(samples, rate, kind="WAV", subtype=None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 8e-3),
        ("WAV", "PCM_16", 4e-5),
        ("WAV", "PCM_24", 2e-7),
        ("WAV", "PCM_32", 1e-7),
        ("WAV", "FLOAT", 1e-7),
        ("WAV", "DOUBLE", 1e-7),
        ("FLAC", "PCM_16", 4e-5),
        ("OGG", "VORBIS", 0.1),
        ("AIFF", "PCM_16", 4e-5),
    ],
)
def test_every_kind_of_file_holds_the_same_sound(kind, subtype, tolerance):
    samples = tone(22050)
    waveform = read_sound(as_file(samples, 22050, kind, subtype))
    assert (waveform.rate, waveform.samples.dtype) == (22050, torch.float32)
    assert waveform.seconds == pytest.approx(0.25, abs=1e-3)
    assert waveform.samples.numpy() == pytest.approx(samples, abs=tolerance)


def test_channels_are_averaged_and_parts_read():
    left, right = tone(8000, 440), tone(8000, 660)
    both = np.stack([left, right], axis=1)
    assert read_sound(as_file(both, 8000, subtype="FLOAT")).samples.numpy() == pytest.approx(
        (left + right) / 2, abs=1e-6
    )
    part = read_sound(as_file(left, 8000, subtype="FLOAT"), start=0.1, seconds=0.05)
    assert part.samples.numpy() == pytest.approx(left[800:1200], abs=1e-6)
    assert torch.equal(read_sound((left, 8000), start=0.1, seconds=0.05).samples, part.samples)
    assert sound_seconds(as_file(left, 8000)) == sound_seconds((left, 8000)) == 0.25


def test_paths_dicts_and_arrays_of_every_scale(tmp_path):
    samples = tone(16000)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    whole = read_sound(tmp_path / "a.wav").samples
    for same in (
        str(tmp_path / "a.wav"),
        {"path": str(tmp_path / "a.wav"), "bytes": None},
        {"bytes": (tmp_path / "a.wav").read_bytes()},
        {"array": samples, "sampling_rate": 16000},
    ):
        assert torch.equal(read_sound(same).samples, whole)
    integers = np.round(samples * 2**15).astype(np.int16)
    assert read_sound((integers, 16000)).samples.numpy() == pytest.approx(samples, abs=4e-5)
    unsigned = np.round(samples * 127 + 128).astype(np.uint8)
    assert read_sound((unsigned, 16000)).samples.numpy() == pytest.approx(samples, abs=8e-3)


def test_silence_clipping_and_floats_beyond_the_scale():
    assert read_sound((np.zeros(100), 16000)).is_silent
    assert read_sound((np.full(100, 0.25), 16000)).is_silent  # an offset is no sound
    assert not read_sound((tone(16000), 16000)).is_silent
    assert read_sound((np.clip(tone(16000, height=4.0), -1, 1), 16000)).clipped > 0.5
    assert read_sound((tone(16000), 16000)).clipped == 0
    loud = read_sound(as_file(tone(16000, height=2.0), 16000, subtype="FLOAT")).samples
    assert loud.max() == pytest.approx(2.0, abs=0.01)  # left as it is


def damaged_rate(rate):
    data = bytearray(as_file(tone(16000), 16000))
    data[24:28] = struct.pack("<I", rate)
    return bytes(data)


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        (None, "there is none"),
        (b"", "it is empty"),
        (b"RIFF and no more", "not a sound that can be read: write it anew as .wav or .flac"),
        ("https://example.org/a.wav", "an address, not a file: download the sounds first"),
        (np.zeros(8), r"samples need their rate: a pair \(samples, rate\)"),
        ((np.zeros((2, 2, 2)), 16000), r"samples of shape \(2, 2, 2\)"),
        ((np.zeros(8), None), "its rate is None"),
        ((np.zeros(8), 7), "a rate of 7 samples a second is none of sounds"),
        ((np.zeros(0), 16000), "it holds no sound"),
        ((np.array([0.0, np.nan]), 16000), "no numbers"),
    ],
)
def test_what_is_wrong_with_a_sound(sound, words):
    with pytest.raises(BadSound, match=words):
        read_sound(sound)


def test_what_is_wrong_with_a_file(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("these are words, not samples")
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    for name, words in (
        ("empty.wav", "the file is empty"),
        ("text.wav", "not a sound that can be read"),
        ("nothing.wav", "it holds no sound"),
        ("nan.wav", "no numbers"),
        ("gone.wav", "no such file"),
        (".", "not a regular file"),
    ):
        with pytest.raises(BadSound, match=words):
            read_sound(tmp_path / name)
    with pytest.raises(BadSound, match="after 2 seconds"):
        read_sound((tone(16000), 16000), start=2)
    with pytest.raises(BadSound, match="a rate of 900000000 samples"):
        read_sound(damaged_rate(900_000_000))


def test_a_file_that_was_cut_off_gives_what_it_holds(tmp_path):
    whole = as_file(tone(16000), 16000)
    part = read_sound(whole[: len(whole) // 2]).samples
    assert 0.4 < len(part) / 4000 < 0.6
    assert part.numpy() == pytest.approx(tone(16000)[: len(part)], abs=4e-5)


def test_without_soundfile_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match=r'pip install "nearfar\[speech\]"'):
        read_sound(b"RIFF")
    assert len(read_sound((tone(16000), 16000), 8000).samples) == 2000  # samples need nothing


def slow_resample(samples, old, new):
    """The sum over all samples, one by one, in float64."""
    stretch = max(1.0, old / new)
    made = []
    for n in range(-(-len(samples) * new // old)):
        distance = (np.arange(len(samples)) - n * old / new) / stretch
        inside = np.clip(1 - (distance / 32) ** 2, 0, None)
        window = np.where(np.abs(distance) < 32 - 1e-9, np.i0(8.6 * np.sqrt(inside)) / np.i0(8.6), 0)
        made.append((samples * np.sinc(0.92 * distance) * window).sum() * 0.92 / stretch)
    return np.array(made)


@pytest.mark.parametrize(
    ("old", "new"), [(44100, 16000), (8000, 16000), (16000, 8000), (11025, 16000), (7, 5), (16001, 16000)]
)
def test_resampling_is_the_sum_that_it_is(old, new):
    samples = np.random.default_rng(0).normal(size=301)
    assert resample(torch.from_numpy(samples), old, new).numpy() == pytest.approx(
        slow_resample(samples, old, new), abs=1e-9
    )


def test_a_tone_keeps_its_height_and_what_cannot_be_held_goes():
    middle = slice(400, -400)
    for old in (8000, 11025, 22050, 44100, 48000):
        hertz = 0.8 * min(old, 16000) / 2
        made = resample(torch.from_numpy(tone(old, hertz, 0.5)).float(), old, 16000).numpy()
        assert made[middle] == pytest.approx(tone(16000, hertz, 0.5)[: len(made)][middle], abs=1e-3)
    aliased = resample(torch.from_numpy(tone(44100, 8200, 0.5)), 44100, 16000)
    assert aliased[middle].abs().max() < 1e-4 * 0.5  # -80 dB
    assert torch.equal(resample(torch.ones(5), 16000, 16000), torch.ones(5))
