"""Speech made by flite, a small synthesiser of English, which is a tool of the system and no part of this package."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from nearfar.errors import UserError

TOOL = "flite"
SPEEDS, PITCHES = (0.5, 2.0), (50.0, 400.0)
"""What a duration may be stretched by, and the mean of the fundamental frequency in Hz."""


@lru_cache(maxsize=1)
def voices() -> tuple[str, ...]:
    """The voices that the flite of this machine has, without those that tell the time alone.

    Raises:
        UserError: flite is not installed.
    """
    listed = _run(["-lv"]).decode("ascii", "replace").partition(":")[2].split()
    return tuple(sorted(name for name in listed if not name.endswith("_time")))


def speak(text: str, voice: str, *, stretch: float = 1.0, pitch: float | None = None) -> tuple[np.ndarray, int]:
    """What a voice says, int16 `[T]`, and its samples a second: 16,000, of the voice kal 8,000.

    flite takes the name of a voice that it does not have without complaint, and speaks with another one: so the name is
    checked first.

    Args:
        text: English words.
        voice: one of `voices()`.
        stretch: how much longer than usual it takes, 0.5 to 2.
        pitch: the mean fundamental frequency, 50 to 400 Hz; None leaves the voice its own.

    Raises:
        UserError: flite is not installed, no such voice, no words, or a number out of its range.
    """
    if voice not in voices():
        raise UserError(f"flite has no voice {voice!r}: choose one of {', '.join(voices())}")
    if not any(letter.isalnum() for letter in text) or text.startswith("-"):
        raise UserError(f"{text[:60]!r} holds no words that can be spoken")
    if not SPEEDS[0] <= stretch <= SPEEDS[1]:
        raise UserError(f"stretch={stretch}: choose a number from {SPEEDS[0]} to {SPEEDS[1]}")
    if pitch is not None and not PITCHES[0] <= pitch <= PITCHES[1]:
        raise UserError(f"pitch={pitch}: choose from {PITCHES[0]:g} to {PITCHES[1]:g} Hz")
    import wave

    settings = ["--setf", f"duration_stretch={stretch:g}"]
    settings += [] if pitch is None else ["--setf", f"int_f0_target_mean={pitch:g}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        _run(["-voice", voice, *settings, "-t", text, "-o", str(path)])
        try:
            with wave.open(str(path)) as file:
                rate, content = file.getframerate(), file.readframes(file.getnframes())
        except (OSError, EOFError, wave.Error) as error:
            raise UserError(f"flite said nothing for {text[:60]!r}: try its voice with 'flite -t'") from error
    return np.frombuffer(content, dtype="<i2"), rate


def _run(arguments: list[str]) -> bytes:
    path = shutil.which(TOOL)
    if path is None:
        raise UserError("spoken commands are made by flite, which is not installed: `apt install flite`")
    try:
        return subprocess.run([path, *arguments], check=True, capture_output=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"flite failed: try {' '.join(['flite', *arguments[:2]])!r} by hand") from error
