"""What a thing may do in a short video: nine motions, two orders of events, and which of them only time tells apart.

Of two opposites the one is the other backwards, so that both show the very same frames: no single frame, and no mean
over frames, can tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable

Pose = tuple[int, int, int, int]
"""Centre x and y and the side, in thousandths of the frame, and quarter turns anticlockwise."""

Motion = Callable[[int, int], Pose]
"""The pose at frame `t` of the frames from 0 to `last`."""


def backwards(motion: Motion) -> Motion:
    """The same poses from the last to the first."""
    return lambda t, last: motion(last - t, last)


def _to_the_right(t: int, last: int) -> Pose:
    return 260 + 480 * t // last, 500, 380, 0


def _down(t: int, last: int) -> Pose:
    return 500, 260 + 480 * t // last, 380, 0


def _growing(t: int, last: int) -> Pose:
    return 500, 500, 220 + 620 * t // last, 0


def _turning(t: int, last: int) -> Pose:
    return 500, 500, 460, t


def _hop_and_swell(t: int, last: int) -> Pose:
    """In the first half up and back, in the second larger and back; of an odd number of frames one rests between."""
    half = (last + 1) // 2
    if half <= t < last + 1 - half:
        return 500, 500, 380, 0
    place = min(t, last - t)
    far = 1000 * min(place + 1, half - place) // ((half + 1) // 2)
    return (500, 500 - 250 * far // 1000, 380, 0) if t < half else (500, 500, 380 + 460 * far // 1000, 0)


MOTIONS: dict[str, Motion] = {
    "moving to the left": backwards(_to_the_right),
    "moving to the right": _to_the_right,
    "moving up": backwards(_down),
    "moving down": _down,
    "growing": _growing,
    "shrinking": backwards(_growing),
    "turning to the left": _turning,
    "turning to the right": backwards(_turning),
    "standing still": lambda t, last: (500, 500, 460, 0),
}
"""What things do in videos, unless it is said otherwise."""

EVENTS: dict[str, Motion] = {
    "hopping and then swelling": _hop_and_swell,
    "swelling and then hopping": backwards(_hop_and_swell),
}
"""Two events, one after the other."""

ALL = MOTIONS | EVENTS
ONLY_IN_TIME = tuple(name for name in ALL if name != "standing still")
"""The motions of which each has an opposite that shows the same frames in another order."""

_OPPOSITE = {
    "moving to the left": "moving to the right",
    "moving up": "moving down",
    "growing": "shrinking",
    "turning to the left": "turning to the right",
    "hopping and then swelling": "swelling and then hopping",
}
OPPOSITE = _OPPOSITE | {back: forth for forth, back in _OPPOSITE.items()} | {"standing still": "moving to the left"}
"""What is false of a video instead."""
