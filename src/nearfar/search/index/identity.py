"""Is this the model the index was made with?

A name is no proof: the same path may hold other weights tomorrow, and one model has many names. So an index remembers
how its model saw a probe picture (or heard a probe sound) and a probe sentence, and a model that sees them otherwise is
another one. That works for any encoder, and lets through what makes no difference: a copy, another device, a faster
kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.embedding.embed_source import embed_images, embed_media, embed_texts, embeds
from nearfar.errors import UserError
from nearfar.search.index.damage import damaged

if TYPE_CHECKING:
    from PIL.Image import Image

    from nearfar.search.index.manifest import Manifest

PROBES = {"image": "picture", "video": "picture", "audio": "sound"}
"""What a model is shown of the first of these sides that it embeds."""

SENTENCE = "a red apple and a blue car under a green tree"
TOLERANCE = 1e-3
"""Greatest 1 - cosine at which two models are held to be the same: above half-precision noise, below any training."""


def fingerprint(encoder: Any) -> list[list[float]]:
    """How the encoder sees the probe picture (as a video of one frame where it takes videos alone), or hears the probe
    sound, and the probe sentence: two unit vectors, or one where it takes only pictures, sounds or texts."""
    sides = embeds(encoder)
    vectors = [*embed_images(encoder, [probe_picture()])] if "image" in sides else []
    vectors += [*embed_media(encoder, "video", [[probe_picture()]])] if "video" in sides and not vectors else []
    vectors += [*embed_media(encoder, "audio", [probe_sound()])] if "audio" in sides and not vectors else []
    vectors += [*embed_texts(encoder, [SENTENCE])] if "text" in sides else []
    if not vectors:
        raise UserError(
            f"a {type(encoder).__name__} embeds neither pictures, sounds nor texts: there is nothing to search by"
        )
    return [[round(x, 6) for x in vector.tolist()] for vector in vectors]


def check_model(manifest: Manifest, encoder: Any, *, where: str) -> None:
    """Raise UserError unless the encoder is the one that made the index."""
    now, then = fingerprint(encoder), manifest.probe
    remedy = f"search it with that model, or make a new index with this one (the index: {where})"
    if len(now[0]) != manifest.dim:
        raise UserError(
            f"the model gives {len(now[0])}-d embeddings and the index holds {manifest.dim}-d ones "
            f"of the model {manifest.model!r}: {remedy}"
        )
    if [len(vector) for vector in then] not in ([manifest.dim], [manifest.dim] * 2):
        raise damaged(where, f"probe in manifest.json is not two vectors of {manifest.dim} numbers")
    if len(now) != len(then):
        raise UserError(
            f"the index was made with a model of {_sides(then)} ({manifest.model!r}), and this one takes "
            f"{_sides(now)}: {remedy}"
        )
    sides = embeds(encoder)
    medium = next((PROBES[side] for side in PROBES if side in sides), "sentence")
    names = (medium, "sentence") if len(now) == 2 else (medium,)
    for probe, a, b in zip(names, now, then, strict=True):
        cosine = float(np.dot(a, b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
        if not cosine > 1 - TOLERANCE:
            raise UserError(
                f"this is not the model that made the index ({manifest.model!r}, perhaps with other weights): "
                f"its embedding of the probe {probe} has cosine {cosine:.3f} with the index's own; {remedy}"
            )


def _sides(probe: list[list[float]]) -> str:
    return "texts and pictures or sounds" if len(probe) == 2 else "one of texts, pictures and sounds"


def probe_picture(size: int = 96) -> Image:
    """Colour ramps with a disc and a bar: something for every filter, and no dependence on an image codec.

    >>> probe_picture().size
    (96, 96)
    """
    from PIL import Image

    y, x = np.mgrid[0:size, 0:size]
    picture = np.stack([x * 255 // (size - 1), y * 255 // (size - 1), (x + y) * 255 // (2 * size - 2)], axis=-1)
    picture[(x - size // 3) ** 2 + (y - size // 3) ** 2 < (size // 5) ** 2] = (220, 30, 30)
    picture[size * 2 // 3 : size * 3 // 4, size // 8 : -size // 8] = (20, 40, 200)
    return Image.fromarray(picture.astype(np.uint8))


def probe_sound() -> tuple[np.ndarray, int]:
    """A tone that rises from 100 to 4,000 Hz within half a second, and its rate: something for every band, and no
    dependence on files.

    >>> len(probe_sound()[0])
    8000
    """
    seconds = np.arange(8000) / 16000
    return 0.5 * np.sin(2 * np.pi * (100 * seconds + 3900 * seconds**2)), 16000
