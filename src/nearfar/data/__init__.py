"""Data: sources of records, the batches made of them, and the embedded world.

`open_source` opens anything by one word; `folder`, `table`, `shards` and `hub` are the same by kind. `Loader` turns a
source into batches. Names are imported when first used, so `import nearfar.data` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "open_source": "opening",
    "folder": "image_folder",
    "table": "tables",
    "shards": "tar_shards",
    "hub": "datasets_hub",
    "vqa": "vqa_files",
    "Source": "source",
    "Stream": "source",
    "Records": "source",
    "Record": "source",
    "concat": "source",
    "Skipped": "skipped",
    "Loader": "loader",
    "Views": "views",
    "Preset": "views",
    "BadImage": "images",
    "load_image": "images",
    "train_tokenizer": "text",
    "tokenize": "text",
    "clean_caption": "text",
    "AltTextFilter": "filters",
    "CaptionSwapper": "swaps",
    "with_hard_captions": "hard_captions",
    "mine_hard_images": "neighbours",
}
_MODULES = ("batch", "images", "loader", "scenes", "source", "text", "views", "world")
__all__ = [*_LAZY, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"nearfar.data.{_LAZY[name]}"), name)
    if name in _MODULES:
        return import_module(f"nearfar.data.{name}")
    raise AttributeError(f"module 'nearfar.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
