"""Commands to a house, spoken by flite: sounds with words and intents, made when they are first wanted and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nearfar import console, files, lookup
from nearfar.data.sound.command_grammar import sentences
from nearfar.data.sound.flite_speech import speak
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError, at_least

VOICES = {"train": ("rms", "slt"), "val": ("kal16",), "test": ("awb",)}
"""The speakers of each split. kal and kal16 are one speaker, and never on two sides."""

PITCH = {"awb": 120.0, "kal": 105.0, "kal16": 105.0, "rms": 100.0, "slt": 175.0}
"""The voices' own pitch, about, in Hz, which is varied."""

RATE = 16000
VERSION = 1
"""Of the sounds: another number makes them anew."""


def commands(
    split: str = "train",
    *,
    each: int = 40,
    voices: Sequence[str] | None = None,
    noise: float = 0.005,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Source:
    """Spoken commands, `each` of every intent: `audio`, `text`, `label` (the intent), `domain` (the voice).

    Each is a sentence of `nearfar.data.sound.command_grammar`, drawn at random, in one of the split's voices, with a
    speed and a pitch of its own and mild noise. The voices of val and test are in no other split; their sentences may
    be. The same arguments give the same sounds, made once and kept in a folder.

    Args:
        split: "train", "val" or "test"; "all" for all three.
        each: sounds of each intent, of each of the splits.
        voices: other voices of flite than the split's.
        noise: standard deviation of white noise, the full scale is 1; 0 for none.
        seed: of all chance.
        cache: the folder where sounds are kept; by default `nearfar/commands` in the user's cache.

    Raises:
        UserError: flite is not installed (`apt install flite`), no such split or voice.
    """
    at_least(1, each=each)
    if not 0 <= noise < 1:
        raise UserError(f"noise={noise}: choose a number from 0 to below 1")
    lookup.check("split", [split], (*VOICES, "all"))
    folder = Path(cache) if cache is not None else _users_cache()
    chosen = [split] if split != "all" else list(VOICES)
    plan = [_Command(name, own, voices, each, noise, seed) for name in chosen for own in range(len(sentences()) * each)]
    missing = [one for one in plan if not (folder / one.file).is_file()]
    for one in console.track(missing, "speaking commands", None):
        files.write(folder / one.file, one.wave())
    return _Commands(plan, folder, name=f"world/commands:{split}")


def _users_cache() -> Path:
    """Where sounds are kept: below `XDG_CACHE_HOME`, by default `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nearfar" / "commands"


class _Command:
    """One sound as it is to be: all chance of it follows from its numbers."""

    def __init__(
        self, split: str, number: int, voices: Sequence[str] | None, each: int, noise: float, seed: int
    ) -> None:
        intents = list(sentences())
        self.label, self.place = number // each, number % each
        chance = np.random.default_rng([seed, list(VOICES).index(split), self.label, self.place])
        texts = sentences()[intents[self.label]]
        self.text = texts[int(chance.integers(len(texts)))]
        self.voice = str(chance.choice(list(voices or VOICES[split])))
        self.stretch = round(float(chance.uniform(0.8, 1.25)), 3)
        self.pitch = round(PITCH.get(self.voice, 120.0) * float(chance.uniform(0.85, 1.2)), 1)
        self.noise, self.noise_seed = noise, int(chance.integers(2**31))
        words = f"{VERSION}|{self.text}|{self.voice}|{self.stretch}|{self.pitch}|{noise}|{self.noise_seed}"
        self.file = f"{self.voice}-{hashlib.sha256(words.encode()).hexdigest()[:20]}.wav"

    def wave(self) -> bytes:
        """The sound as a WAV file, mono, 16 bits."""
        import io
        import wave

        import torch

        from nearfar.data.sound.resampling import resample

        samples, rate = speak(self.text, self.voice, stretch=self.stretch, pitch=self.pitch)
        sound = resample(torch.from_numpy(samples.astype(np.float32) / 2**15), rate, RATE).numpy()
        sound = sound + np.random.default_rng(self.noise_seed).normal(0, self.noise, len(sound))
        sink = io.BytesIO()
        with wave.open(sink, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((sound.clip(-1, 1) * (2**15 - 1)).round().astype("<i2").tobytes())
        return sink.getvalue()


class _Commands(Source):
    """What `commands` returns."""

    columns = ("audio", "text", "label", "domain", "intent", "voice")

    def __init__(self, plan: list[_Command], folder: Path, *, name: str) -> None:
        self.plan, self.folder, self.name = plan, folder, name
        self.classes: list[str] = list(sentences())
        self.domains: list[str] = sorted({one.voice for one in plan})

    def __len__(self) -> int:
        return len(self.plan)

    def record(self, index: int) -> Record:
        one = self.plan[index]
        made: dict[str, Any] = {"audio": str(self.folder / one.file), "text": one.text, "label": one.label}
        return made | {
            "domain": self.domains.index(one.voice),
            "intent": self.classes[one.label],
            "voice": one.voice,
        }
