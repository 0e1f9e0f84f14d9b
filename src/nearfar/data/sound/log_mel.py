"""Log-mel features: how loud each band of a mel scale is from frame to frame. One setting holds all that is chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.data.sound.sound_files import check_rate
from nearfar.errors import UserError, at_least

Scale = Literal["slaney", "htk"]


@dataclass(frozen=True)
class LogMel:
    """How a sound becomes a picture of its frequencies. Two mel scales and two heights of the filters go by one name
    elsewhere, and so do frames with and without padding; here each is a setting, and a model's folder holds them all.

    Args:
        rate: samples a second that sounds are resampled to.
        mels: bands.
        window, hop: length of a frame and steps from one to the next, in samples.
        fft: length of the Fourier transform, by default `window`.
        low, high: from which frequency to which, in Hz; by default to half the rate.
        scale: "slaney" (linear up to 1,000 Hz) or "htk".
        area: filters of equal area (Slaney's), or of equal height.
        power: 2.0 of energies, 1.0 of magnitudes.
        log: "log10" or "ln".
        floor: the least value before the logarithm.
        centred: frames lie around the multiples of `hop`, the sound padded by half a frame; else frames begin there.
        padding: what that pad is, "reflect" or "zeros".
        last: keep the last frame (Whisper drops it).
        normalise: "none"; "loudest" (Whisper: no less than 8 below the loudest, plus 4, over 4); "bands" (each band
            of a sound with mean 0 and standard deviation 1 over its frames).

    Raises:
        UserError: a setting out of its range.

    >>> LogMel(mels=40)(torch.zeros(16000)).shape
    torch.Size([101, 40])
    """

    rate: int = 16000
    mels: int = 80
    window: int = 400
    hop: int = 160
    fft: int | None = None
    low: float = 0.0
    high: float | None = None
    scale: Scale = "slaney"
    area: bool = True
    power: float = 2.0
    log: Literal["log10", "ln"] = "log10"
    floor: float = 1e-10
    centred: bool = True
    padding: Literal["reflect", "zeros"] = "reflect"
    last: bool = True
    normalise: Literal["none", "loudest", "bands"] = "loudest"

    def __post_init__(self) -> None:
        check_rate(self.rate)
        at_least(1, mels=self.mels, window=self.window, hop=self.hop)
        if self.fft is not None and self.fft < self.window:
            raise UserError(f"fft={self.fft} is shorter than window={self.window}: leave it out, or make it longer")
        if not 0 <= self.low < self.top <= self.rate / 2:
            raise UserError(f"low={self.low:g} and high={self.top:g}: must rise, from 0 to {self.rate / 2:g} at most")
        if self.power <= 0 or self.floor <= 0:
            raise UserError(f"power={self.power} and floor={self.floor} must be above 0")
        for name, value, choices in (
            ("scale", self.scale, ("slaney", "htk")),
            ("log", self.log, ("log10", "ln")),
            ("padding", self.padding, ("reflect", "zeros")),
            ("normalise", self.normalise, ("none", "loudest", "bands")),
        ):
            if value not in choices:
                raise UserError(f"{name}={value!r}: choose one of {', '.join(choices)}")

    @classmethod
    def whisper(cls, mels: int = 80) -> LogMel:
        """Whisper's features; over a sound that is padded with zeros to 30 seconds they are those of its extractor."""
        return cls(mels=mels, last=False)

    @property
    def top(self) -> float:
        return self.rate / 2 if self.high is None else self.high

    @property
    def length(self) -> int:
        """Of the Fourier transform."""
        return self.window if self.fft is None else self.fft

    def count(self, samples: int) -> int:
        """How many frames a sound of so many samples has.

        >>> LogMel().count(16000), LogMel(centred=False).count(16000)
        (101, 98)
        """
        samples = max(samples, self._least)
        frames = (samples if self.centred else samples - self.length) // self.hop + 1
        return max(1, frames - (not self.last))

    @property
    def _least(self) -> int:
        """Samples without which there is no frame, or nothing to reflect."""
        if not self.centred:
            return self.length
        return self.length // 2 + 1 if self.padding == "reflect" else 1

    def settings(self) -> dict[str, Any]:
        """All settings, as a configuration holds them."""
        return asdict(self)

    def __call__(self, samples: Tensor) -> Tensor:
        """Features of one sound.

        Args:
            samples: float `[T]`, at `rate`.

        Returns:
            float32 `[frames, mels]`.
        """
        samples = samples.float()
        half = self.length // 2
        samples = F.pad(samples, (0, max(0, self._least - len(samples))))  # a shorter sound ends in silence
        if self.centred:
            mode = "reflect" if self.padding == "reflect" else "constant"
            samples = F.pad(samples[None], (half, half), mode=mode)[0]
        window = torch.hann_window(self.window, dtype=samples.dtype)
        spectrum = torch.stft(samples, self.length, self.hop, self.window, window, center=False, return_complex=True)
        energy = spectrum.abs().pow(self.power)  # [length / 2 + 1, frames]
        energy = energy if self.last or energy.shape[1] == 1 else energy[:, :-1]
        filters = _filters(self.length, self.mels, self.rate, self.low, self.top, self.scale, self.area)
        bands = (filters @ energy).clamp_min(self.floor)
        logs = (bands.log10() if self.log == "log10" else bands.log()).T
        if self.normalise == "loudest":
            return (logs.maximum(logs.max() - 8) + 4) / 4
        if self.normalise == "bands":
            return (logs - logs.mean(0)) / (logs.std(0, correction=0) + 1e-5)
        return logs


def to_mel(hertz: Tensor, scale: Scale = "slaney") -> Tensor:
    """Frequencies on a mel scale, of any shape, in float64.

    >>> to_mel(torch.tensor([1000.0, 4000.0])).tolist(), to_mel(torch.tensor([1000.0]), "htk").tolist()
    ([15.0, 35.1637...], [999.9855...])
    """
    hertz = hertz.double()
    if scale == "htk":
        return 2595 * torch.log10(1 + hertz / 700)
    above = 15 + 27 * torch.log(hertz.clamp_min(1000) / 1000) / torch.log(torch.tensor(6.4, dtype=torch.float64))
    return torch.where(hertz < 1000, hertz * 3 / 200, above)


def from_mel(mels: Tensor, scale: Scale = "slaney") -> Tensor:
    """Frequencies in Hz of places on a mel scale, of any shape, in float64."""
    mels = mels.double()
    if scale == "htk":
        return 700 * (10 ** (mels / 2595) - 1)
    return torch.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels.clamp_min(15) - 15) / 27))


def mel_filters(
    length: int, mels: int, rate: int, *, low: float = 0.0, high: float, scale: Scale = "slaney", area: bool = True
) -> Tensor:
    """Triangles on a mel scale over the bins of a Fourier transform of `length`: float32 `[mels, length / 2 + 1]`, each
    of height 1, or with `area` of area 1."""
    bottom, top = to_mel(torch.tensor([low, high]), scale).tolist()
    edges = from_mel(torch.linspace(bottom, top, mels + 2, dtype=torch.float64), scale)
    bins = torch.linspace(0, rate / 2, length // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = rising.minimum(falling).clamp_min(0)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None] if area else triangles).float()


@lru_cache(maxsize=8)
def _filters(length: int, mels: int, rate: int, low: float, high: float, scale: Scale, area: bool) -> Tensor:
    return mel_filters(length, mels, rate, low=low, high=high, scale=scale, area=area)
