"""A sound for people: its first seconds as a small file that browsers play, and the picture of its frequencies."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.data.sound.log_mel import LogMel
from nearfar.data.sound.sound_files import read_sound
from nearfar.errors import need

if TYPE_CHECKING:
    from PIL.Image import Image

SECONDS = 15.0
"""How much of a sound a preview holds."""


def preview(sound: Any, *, seconds: float = SECONDS) -> bytes:
    """The beginning of a sound as an Ogg Vorbis file, mono at 16,000 samples a second.

    Raises:
        BadSound: it cannot be read.
        UserError: soundfile is not installed.
    """
    soundfile = need("soundfile", "speech")
    waveform = read_sound(sound, 16000, seconds=seconds)
    sink = io.BytesIO()
    soundfile.write(sink, waveform.samples.clamp(-1, 1).numpy(), waveform.rate, format="OGG", subtype="VORBIS")
    return sink.getvalue()


def spectrogram(sound: Any, *, width: int = 256, height: int = 128) -> Image:
    """The picture of a sound's log-mel features, RGB, low frequencies at the bottom, time from left to right."""
    from PIL import Image

    setting = LogMel(mels=height)
    features = setting(read_sound(sound, setting.rate, seconds=SECONDS).samples).T.flip(0).numpy()
    spread = max(float(np.ptp(features)), 1e-6)
    grey = ((features - features.min()) / spread * 255).astype(np.uint8)
    return Image.fromarray(255 - grey).convert("RGB").resize((width, height))
