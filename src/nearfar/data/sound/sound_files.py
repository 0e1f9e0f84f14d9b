"""A sound as its samples: wav, flac, ogg and what else libsndfile reads, mono at a rate, or the reason why not."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearfar import files
from nearfar.data.pictures.images import describe
from nearfar.data.sound.mp3_links import mp3_links
from nearfar.data.sound.ogg_links import ogg_links
from nearfar.data.sound.resampling import resample
from nearfar.data.sources.skipped import BadRecord
from nearfar.errors import UserError, need

RATES = (4_000, 768_000)
"""Sample rates that a file may state; others come from damaged headers."""

REMEDY = "write it anew as .wav or .flac"

FULL = 0.999
"""From this share of the full scale on a sample counts as clipped."""

MOST_CHANNELS = 64
"""Samples with more are taken to have their axes the other way round."""

LARGEST = 2.0**32
"""No sample is beyond; energies of larger ones leave float32."""

CANCELLED = 1e-8
"""Channels whose mean holds no more than this share of their energy cancel each other."""

RUN_UP = 10 * 1152
"""Samples that are decoded before a part of an MP3 and thrown away. After a seek libsndfile 1.2.2 lacks the bits that
lie in the frames before, and the first thousands of samples are then others than those of the whole."""


class BadSound(BadRecord):
    """A sound that cannot be used. The message says which and why."""


@dataclass(frozen=True, eq=False)
class Waveform:
    """Samples of a sound.

    Attributes:
        samples: float32 `[T]`, the full scale from -1 to 1; what a floating point file holds beyond stays as it is.
        rate: samples a second.
    """

    samples: torch.Tensor
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    @property
    def is_silent(self) -> bool:
        """Whether no sample differs from the others: digital silence, or a channel that was not connected."""
        return not len(self.samples) or bool((self.samples == self.samples[0]).all())

    @property
    def clipped(self) -> float:
        """The share of samples at the full scale: above a thousandth or so a recording was too loud.

        >>> Waveform(torch.tensor([0.5, 1.0, 1.0, -1.0]), 16000).clipped
        0.75
        """
        return float((self.samples.abs() >= FULL).float().mean()) if len(self.samples) else 0.0


def read_sound(sound: Any, rate: int | None = None, *, start: float = 0.0, seconds: float | None = None) -> Waveform:
    """The samples of a sound, of several channels their mean.

    Args:
        sound: a path, the bytes of a file, a pair of samples (`[T]` or `[T, channels]`, integers or floats) and their
            rate, or a dict with `bytes` or `path`, or with `array` and `sampling_rate` (as `datasets` has them).
        rate: resample to so many samples a second; None keeps the sound's own rate.
        start: seconds into the sound at which to begin.
        seconds: read no more than so many; None reads to the end.

    Raises:
        BadSound: a missing, empty or broken file, one that is no sound, or one with samples that are no numbers.
        UserError: soundfile is not installed (`pip install "nearfar[speech]"`), or `start` is below 0.

    >>> tone = np.sin(np.arange(8000) / 5)
    >>> read_sound((tone, 8000), 16000).samples.shape
    torch.Size([16000])
    """
    if not start >= 0:
        raise UserError(f"start={start}: must be 0 or more seconds")
    where = describe_sound(sound)
    content = _content(sound, where)
    if isinstance(content, tuple):
        whole, own = content
        begin = round(start * own)
        samples = whole[begin : None if seconds is None else begin + round(seconds * own)]
    elif links := _links(content):
        samples, own = _chained(links, where, start, seconds)
    else:
        samples, own = _decoded(content, where, start, seconds)
    if not len(samples):
        if not start and is_unfinished(content):
            raise BadSound(f"{where}: its header was never finished and says that it holds no sound: {REMEDY}")
        raise BadSound(f"{where}: it holds no sound" + (f" after {start:g} seconds" if start else ""))
    mono = _mono(samples, where)
    if not (np.abs(mono) < LARGEST).all():  # nor where it is NaN
        raise BadSound(f"{where}: some of its samples are no numbers, infinite, or beyond {LARGEST:.0e}: {REMEDY}")
    waveform = torch.from_numpy(np.ascontiguousarray(mono, dtype=np.float32))
    return Waveform(waveform if rate is None else resample(waveform, own, rate), own if rate is None else rate)


def _mono(samples: np.ndarray, where: str) -> np.ndarray:
    """The mean of the channels. Raises `BadSound` where they cancel: a microphone wired the other way round."""
    if samples.ndim == 1 or samples.shape[1] == 1:
        return samples.reshape(-1)
    mono = np.asarray(samples.mean(axis=1, dtype=np.float64))
    energy = np.square(samples, dtype=np.float64).mean()
    if energy > 0 and np.square(mono).mean() < CANCELLED * energy:
        raise BadSound(f"{where}: its channels cancel each other out: keep one of them")
    return mono


def sound_seconds(sound: Any) -> float:
    """How long a sound is, in seconds, by its header. Raises `BadSound`."""
    where = describe_sound(sound)
    content = _content(sound, where)
    if isinstance(content, tuple):
        return len(content[0]) / content[1]
    parts: list[Path | bytes] = [*_links(content)] or [content]
    return sum(_seconds_of(part, where) for part in parts)


def _seconds_of(content: Path | bytes, where: str) -> float:
    with _opened(content, where) as file:
        return float(file.frames / file.samplerate)


def describe_sound(sound: Any) -> str:
    """A few words that say which sound this is."""
    if isinstance(sound, bytes | bytearray | memoryview):
        return f"sound of {len(sound)} bytes"
    name = describe(sound) if isinstance(sound, str | os.PathLike | dict) else "sound"
    return "sound" if name == "image" else name


def _content(sound: Any, where: str) -> Path | bytes | tuple[np.ndarray, int]:
    if isinstance(sound, dict):
        if sound.get("array") is not None:
            sound = (sound["array"], sound.get("sampling_rate"))
        else:
            sound = sound["bytes"] if sound.get("bytes") is not None else sound.get("path")
    if sound is None or (isinstance(sound, str) and not sound):
        raise BadSound(f"{where}: there is none")
    if isinstance(sound, tuple) and len(sound) == 2:
        return _scaled(sound[0], where), _rate(sound[1], where)
    if isinstance(sound, bytes | bytearray | memoryview):
        if not len(sound):
            raise BadSound(f"{where}: it is empty")
        return bytes(sound)
    if not isinstance(sound, str | os.PathLike):
        raise BadSound(f"{where}: samples need their rate: a pair (samples, rate)")
    if files.is_address(os.fspath(sound)):
        raise BadSound(f"{where}: an address, not a file: download the sounds first")
    path = Path(sound)
    if not path.exists():
        raise BadSound(f"{where}: no such file")
    if not path.is_file():  # a pipe or device would be waited for, or read, without end
        raise BadSound(f"{where}: not a regular file")
    if path.stat().st_size == 0:
        raise BadSound(f"{where}: the file is empty")
    return path


def is_unfinished(content: Path | bytes | tuple[np.ndarray, int]) -> bool:
    """Whether it is a WAV file with samples whose header says 0 bytes of them: a recording that was broken off.

    >>> is_unfinished(b"RIFF....WAVEfmt ....data" + bytes(4) + b"samples")
    True
    """
    if isinstance(content, tuple):
        return False
    if isinstance(content, Path):
        with content.open("rb") as file:
            head = file.read(4096)
    else:
        head = content[:4096]
    place = head.find(b"data")
    return head[:4] == b"RIFF" and place > 0 and head[place + 4 : place + 8] == bytes(4) and len(head) > place + 8


def _opened(content: Path | bytes, where: str) -> Any:
    soundfile = need("soundfile", "speech")
    try:
        file = soundfile.SoundFile(io.BytesIO(content) if isinstance(content, bytes) else os.fspath(content))
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError) as error:
        raise BadSound(f"{where}: not a sound that can be read: {REMEDY}") from error
    _rate(file.samplerate, where)
    return file


def _decoded(content: Path | bytes, where: str, start: float, seconds: float | None) -> tuple[np.ndarray, int]:
    with _opened(content, where) as file:
        try:
            begin = min(round(start * file.samplerate), file.frames)
            early = min(begin, RUN_UP) if file.format == "MP3" else 0
            file.seek(begin - early)
            # A damaged header may state more than there is memory for; reading in parts ends where the file ends.
            left = early + (file.frames if seconds is None else round(seconds * file.samplerate))
            parts = []
            while left > 0 and len(part := file.read(min(left, 1 << 22), dtype="float32", always_2d=True)):
                parts.append(part)
                left -= len(part)
        except Exception as error:  # decoders meet broken data with several kinds of exception
            raise BadSound(f"{where}: broken: {REMEDY}") from error
        return (np.concatenate(parts) if parts else np.zeros((0, 1), np.float32))[early:], file.samplerate


def _links(content: Path | bytes) -> list[bytes]:
    """The sounds that are joined in an Ogg or MP3 file; empty where it is one."""
    return ogg_links(content) or mp3_links(content)


def _chained(links: list[bytes], where: str, start: float, seconds: float | None) -> tuple[np.ndarray, int]:
    """Sounds that are joined in a file one after the other, each the mean of its channels, at the rate of the first."""
    with _opened(links[0], where) as file:
        rate = int(file.samplerate)
    parts = []
    for link in links:
        skipped = min(start, _seconds_of(link, where))
        start -= skipped
        if start > 0 or (seconds is not None and seconds <= 0):
            continue
        samples, own = _decoded(link, where, skipped, seconds)
        if not len(samples) and not skipped:
            raise BadSound(f"{where}: one of the {len(links)} sounds that are joined in it is broken: {REMEDY}")
        parts.append(resample(torch.from_numpy(_mono(samples, where).astype(np.float32)), own, rate).numpy())
        seconds = None if seconds is None else seconds - len(samples) / own
    return np.concatenate(parts or [np.zeros(0, np.float32)]), rate


def _scaled(samples: Any, where: str) -> np.ndarray:
    """Samples of an array on the scale from -1 to 1."""
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise BadSound(f"{where}: samples of shape {array.shape} and {array.dtype}: give numbers [T] or [T, channels]")
    if array.ndim == 2 and array.shape[1] > max(array.shape[0], MOST_CHANNELS):
        raise BadSound(f"{where}: samples of shape {array.shape} have more channels than samples: give [T, channels]")
    if array.dtype.kind == "f":
        return array
    half = 2.0 ** (8 * array.dtype.itemsize - 1)
    return (array.astype(np.float64) - (half if array.dtype.kind == "u" else 0)) / half


def _rate(rate: Any, where: str) -> int:
    try:
        number = int(rate)
    except (TypeError, ValueError):
        raise BadSound(f"{where}: its rate is {rate!r}: give samples a second") from None
    if not RATES[0] <= number <= RATES[1]:
        raise BadSound(f"{where}: a rate of {number} samples a second is none of sounds: {REMEDY}")
    return number


def check_rate(rate: int) -> int:
    """A rate that sounds may be resampled to.

    Raises:
        UserError: it is none of 4,000 to 768,000 samples a second.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"rate={rate}: choose one of {RATES[0]:,} to {RATES[1]:,} samples a second, such as 16000")
    return rate
