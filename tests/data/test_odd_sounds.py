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
from nearfar.data.sound.mp3_links import mp3_links
from nearfar.data.sound.ogg_links import ogg_links
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


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("rate", [16000, 8000])
def test_sounds_joined_in_one_ogg_file_are_read_to_the_end(tmp_path, subtype, rate):
    """A radio's recording is a chain of streams, each with its rate and channels; libsndfile reads the first."""
    stereo = np.stack([tone(rate, 880.0), 0.5 * tone(rate, 880.0)], axis=1)
    links = [
        as_file(tone(), 16000, "OGG", subtype),
        as_file(stereo, rate, "OGG", subtype),
        as_file(tone(hertz=220.0), 16000, "OGG", subtype),
    ]
    (tmp_path / "a.ogg").write_bytes(b"".join(links))
    for sound in (b"".join(links), tmp_path / "a.ogg"):
        whole = read_sound(sound)
        assert (whole.rate, len(whole.samples), sound_seconds(sound)) == (16000, 12000, 0.75)
        for place, hertz, height in ((0, 440, 0.5), (4000, 880, 0.375), (8000, 220, 0.5)):
            spectrum = np.abs(np.fft.rfft(whole.samples[place + 800 : place + 3200].numpy())) / 1200
            assert spectrum.argmax() * 16000 / 2400 == pytest.approx(hertz, abs=7)
            assert spectrum.max() == pytest.approx(height, rel=0.1)
        part = read_sound(sound, start=0.3, seconds=0.35).samples
        assert len(part) == 5600
        # Where it is cut at another rate, the filter takes what is beyond as silence.
        assert part[64:].numpy() == pytest.approx(whole.samples[4864:10400].numpy(), abs=0.02)
    with pytest.raises(BadSound, match="it holds no sound after 9 seconds"):
        read_sound(links[0] + links[1], start=9.0)
    with pytest.raises(BadSound, match="not a sound that can be read"):
        read_sound(links[0] + links[2][: len(links[2]) * 9 // 10])
    noise = as_file(np.random.default_rng(0).normal(0, 0.1, 32000), kind="OGG")
    with pytest.raises(BadSound, match="one of the 2 sounds that are joined in it is broken"):
        read_sound(links[0] + noise[: len(noise) // 3])


def test_mp3_files_written_one_behind_the_other_are_read_to_the_end(tmp_path):
    """The first states its length, by which libsndfile ends."""
    tags, last = b"ID3\4\0\0" + bytes([0, 0, 1, 22]) + bytes(150), b"TAG" + bytes(125)
    links = [
        as_file(tone(), kind="MP3") + last,
        tags + as_file(tone(hertz=880.0), kind="MP3"),
        as_file(tone(8000, 220.0), 8000, "MP3"),
    ]
    (tmp_path / "a.mp3").write_bytes(b"".join(links))
    for sound in (b"".join(links), tmp_path / "a.mp3"):
        whole = read_sound(sound)
        apart = [read_sound(link, 16000).samples for link in links]
        assert torch.equal(whole.samples, torch.cat(apart))
        assert sound_seconds(sound) == pytest.approx(0.75, abs=0.02)
        part = read_sound(sound, start=0.3, seconds=0.1).samples
        assert part.numpy() == pytest.approx(whole.samples[4800:6400].numpy(), abs=1e-4)
    assert mp3_links(links[0]) == mp3_links(links[1]) == mp3_links(links[0] + bytes(128)) == []


def test_one_stream_is_not_taken_for_a_chain():
    long = as_file(np.random.default_rng(0).normal(0, 0.1, 64000), kind="OGG")
    assert long.count(b"OggS") > 3
    assert ogg_links(long) == ogg_links(as_file(tone())) == ogg_links(b"OggS") == []
    assert len(read_sound(long).samples) == 64000


@pytest.mark.parametrize(
    ("subtype", "step"),
    [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-24), ("FLOAT", 2**-24)],
)
def test_samples_of_any_width_have_one_scale_and_silence_is_zero(subtype, step):
    wave = np.concatenate([[0.0, 0.5, -0.5, 0.25, -1.0], np.zeros(5)])
    read = read_sound(as_file(wave, subtype=subtype)).samples.numpy()
    assert read == pytest.approx(wave, abs=step)
    assert (read[wave == 0] == 0).all()
    assert read_sound(as_file(np.zeros(8), subtype=subtype)).is_silent


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
