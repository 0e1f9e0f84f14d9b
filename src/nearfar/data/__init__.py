"""Data: sources of records, the batches made of them, and the embedded world.

`open_source` opens anything by one word; `folder`, `table`, `shards` and `hub` are the same by kind. `Loader` turns a
source into batches. Names are imported when first used, so `import nearfar.data` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "open_source": "sources.open_source",
    "folder": "sources.image_folder",
    "table": "tables.table_files",
    "shards": "sources.tar_shards",
    "sts": "tables.sts_files",
    "senteval": "tables.senteval_files",
    "hub": "sources.datasets_hub",
    "vqa": "sources.vqa_files",
    "videos": "video.video_folder",
    "Source": "sources.source",
    "Stream": "sources.source",
    "Records": "sources.source",
    "Record": "sources.source",
    "concat": "sources.source",
    "SceneDescription": "descriptions.scene_description",
    "ObjectDescription": "descriptions.scene_description",
    "Skipped": "sources.skipped",
    "Loader": "batches.loader",
    "hold_out": "batches.held_out",
    "hold_out_of_stream": "batches.held_out_stream",
    "ClassOrder": "batches.class_order",
    "PairedOrder": "batches.paired_order",
    "ClusterOrder": "batches.cluster_order",
    "ClusterBatchSampler": "batches.cluster_order",
    "SourceOrder": "batches.order",
    "StreamOrder": "batches.order",
    "Field": "fields.field",
    "BatchKey": "batches.batch",
    "Views": "pictures.views",
    "ViewPreset": "pictures.views",
    "PhraseField": "fields.phrase_field",
    "VideoField": "video.video_field",
    "FrameChoice": "video.frame_choice",
    "class_tasks": "rehearsal.class_tasks",
    "Task": "rehearsal.task_source",
    "task_source": "rehearsal.task_source",
    "known_so_far": "rehearsal.task_source",
    "RehearsalOrder": "rehearsal.rehearsal_order",
    "RehearsalMemory": "rehearsal.rehearsal_memory",
    "RehearsalBatchSampler": "rehearsal.rehearsal_batches",
    "sounds": "sound.sound_folder",
    "read_sound": "sound.sound_files",
    "BadSound": "sound.sound_files",
    "LogMel": "sound.log_mel",
    "SoundField": "sound.sound_field",
    "read_frames": "video.video_frames",
    "BadVideo": "video.bad_video",
    "BadImage": "pictures.images",
    "load_image": "pictures.images",
    "train_tokenizer": "fields.text",
    "tokenize": "fields.text",
    "clean_caption": "fields.text",
    "AltTextFilter": "mining.filters",
    "curated": "mining.kept_pairs",
    "CaptionSwapper": "mining.swaps",
    "with_hard_captions": "mining.hard_captions",
    "mine_hard_images": "mining.hard_images",
    "cluster_codes": "mining.clusters",
    "combine_codes": "mining.clusters",
}
_MODULES = {
    "batch": "batches.batch",
    "images": "pictures.images",
    "loader": "batches.loader",
    "scenes": "scenes",
    "source": "sources.source",
    "text": "fields.text",
    "views": "pictures.views",
    "world": "world",
}
__all__ = [*_LAZY, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"nearfar.data.{_LAZY[name]}"), name)
    if name in _MODULES:
        return import_module(f"nearfar.data.{_MODULES[name]}")
    raise AttributeError(f"module 'nearfar.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
