"""The batch: a plain dict of tensors with fixed keys. This is the one place that lists nearfar's own.

| key | shape and dtype | meaning |
|---|---|---|
| `image` | `[B, 3, H, W]` float | the picture, augmented and normalised as the model wants it (the first view) |
| `images`, `image_count` | `[B, T, 3, H, W]` float, `[B]` long | the pictures of each text in their order, and how many there are; the others are 0 (`nearfar.methods.COSMO`) |
| `paired` | `[B]` long | 1 where a text is the caption of one picture, 0 where it is a document of several |
| `image2` | `[B, 3, H, W]` float | the second picture of a pair, augmented as `image` is; its text is `text2` (`picture_pairs`) |
| `prompt` | dict of `[B, L]` long | what stands before both texts of a pair of pictures, where the data have it |
| `views` | `[V, B, 3, H, W]` float | all views, when `n_views` is above 1; `views[0]` is `image` |
| `small_views` | `[M, B, 3, h, w]` float | small crops (multi-crop), where `small_views` is above 0 |
| `geometry` | `[V, B, 3, 3]` float | maps source pixels, homogeneous, to the pixels of that view |
| `picture_size` | `[B, 2]` float | width and height of the picture itself, in pixels |
| `video` | `[B, T, 3, H, W]` float | T frames of each video, augmented alike and normalised (the first view) |
| `video_views` | `[V, B, T, 3, H, W]` float | all views of a video: selections of frames, and crops of these; `video_views[0]` is `video` |
| `frame_number`, `frame_time` | `[B, T]` long, float | which frames `video` shows, from 0, and when they begin, in seconds |
| `audio` | dict of `[B, F, M]` float, `[B, F]` long | log-mel features of sounds, `input_features`, F frames of M bands, and their `attention_mask`, 0 where a shorter sound is padded |
| `text` | dict of `[B, L]` long | `input_ids`, `attention_mask` of one caption a sample |
| `image`, `text` | `[B, W]` float | what a frozen tower gave, where `nearfar.training.precompute` ran it before; for a `FusionModel` `image` is `[B, 1 + P, W]` |
| `negative_text` | dict of `[B * K, L]` long | K hard negative captions a sample, sample-major |
| `has_negative` | `[B]` long | 0 where a sample has no hard negative, and its K texts are empty |
| `negative_count` | `[B]` long | how many of a sample's K are real, where samples have different numbers (`text_pairs`) |
| `text2` | dict of `[B, L]` long | the second text of a pair, for methods on pairs of texts |
| `negation_changed` | `[B]` long | 1 where a view of the text that leaves words out has other negations than the text (`text_views`) |
| `long_text` | dict of `[B, L]` long | a long caption of each sample, where `text` is a short one (`caption_lengths`) |
| `has_text`, `has_long_text` | `[B]` long | 0 where a sample has no short caption, or no long one, and an empty text stands there |
| `label_text` | dict of `[B * K, L]` long | K texts that are labels of a sample, its own words among them; empty ones where it has fewer (`label_texts`) |
| `label_key` | `[B, 64]` long | a number for each of a sample's labels, 0 where there are no more: which labels are the same |
| `answers` | dict of `[B * K, L]` long | K answers a question (the question is `text`), sample-major; empty ones where a question has fewer |
| `answer_weight` | `[B, K]` float | each answer's share among those its question got; 0 for the empty ones |
| `stand_in` | `[B, D]` float | unit vectors of texts that stand for pictures (`nearfar.methods.CLOSE`) |
| `targets` | dict of `[B * K, L]` long | K texts that are to be written of a sample, sample-major; empty ones where it has fewer |
| `target_count` | `[B]` long | how many of a sample's K are real |
| `question` | list of B texts | what is asked of each sample |
| `boxes`, `box_label` | `[B, M, 4]` float, `[B, M]` long | left, top, right and bottom of up to M things, in pixels of the picture itself, and the class of each, -1 where there are fewer |
| `index` | `[B]` long | the record's stable id: its own `index`, or its place in the source where it has none |
| `group` | `[B]` long | equal for samples that match one another (rows of one picture, one concept in five styles): never negatives of each other; see `nearfar.data.sources.record_groups` |
| `label` | `[B]` long | class |
| `domain` | `[B]` long | drawing style, corpus, sensor |
| `weight` | `[B]` float | the sample's weight |

A field (`nearfar.data.fields.field`) adds keys of its own and says how they lie by a `BatchKey`. What nobody declared lies
along dimension 0 with one row a sample, and is one number a sample where it is a tensor `[B]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nearfar.errors import UserError


@dataclass(frozen=True)
class BatchKey:
    """How the samples of a batch lie in the value of a key.

    Attributes:
        axis: the dimension along which they lie.
        per_sample: whether the value is one number a sample, `[B]`: what an objective may read beside the embeddings.
        many: whether a sample has several rows, one after the other (sample-major), so that the number of rows does
            not say how many samples there are.
    """

    axis: int = 0
    per_sample: bool = False
    many: bool = False


_UNDECLARED = BatchKey()
_KEYS = {
    **dict.fromkeys(("index", "group", "label", "domain", "weight", "has_negative"), BatchKey(per_sample=True)),
    **dict.fromkeys(("negative_count", "negation_changed", "has_text", "has_long_text"), BatchKey(per_sample=True)),
    **dict.fromkeys(("target_count", "image_count", "paired"), BatchKey(per_sample=True)),
    **dict.fromkeys(("image", "text", "text2", "label_key", "answer_weight", "picture_size"), BatchKey()),
    **dict.fromkeys(
        ("boxes", "box_label", "image2", "images", "prompt", "long_text", "stand_in", "question"), BatchKey()
    ),
    **dict.fromkeys(("video", "frame_number", "frame_time", "audio"), BatchKey()),
    **dict.fromkeys(("views", "small_views", "geometry", "video_views"), BatchKey(axis=1)),
    **dict.fromkeys(("negative_text", "label_text", "answers", "targets"), BatchKey(many=True)),
}


def declare(name: str, key: BatchKey) -> None:
    """Say how the samples lie in the batches' key `name`, for all batches from here on. A `Loader` does it for its
    fields; call it for batches that come from elsewhere.

    Raises:
        UserError: the name is declared already, in another way.
    """
    if _KEYS.setdefault(name, key) != key:
        raise UserError(
            f"batch key {name!r} is declared as {_KEYS[name]} already, not {key}: give it another name, or start Python "
            "anew if its field was changed"
        )


def key(name: str) -> BatchKey:
    """How the samples lie in the key `name`.

    >>> key("views").axis, key("label").per_sample, key("anything else").axis
    (1, True, 0)
    """
    return _KEYS.get(name, _UNDECLARED)


def per_sample(batch: Mapping[str, Any], keys: Iterable[str] | None = None) -> dict[str, Any]:
    """What of a batch holds one number a sample, `[B]`; or, of any kind, what `keys` name and the batch has.

    >>> import torch
    >>> batch = {"image": torch.zeros(2, 3, 8, 8), "index": torch.arange(2), "loudness": torch.zeros(2)}
    >>> sorted(per_sample(batch)), sorted(per_sample(batch, ["image"]))
    (['index', 'loudness'], ['image'])
    """
    if keys is not None:
        return {name: batch[name] for name in keys if name in batch}
    return {name: value for name, value in batch.items() if _is_number(name, value, batch)}


def size(batch: Mapping[str, Any]) -> int:
    """Number of samples in a batch, read off `index`, else the first key that is declared, else the first of all.
    Keys with several rows a sample are passed over.

    Raises:
        UserError: no key says it.

    >>> import torch
    >>> size({"audio": torch.zeros(5, 16000)}), size({"views": torch.zeros(2, 3, 3, 8, 8)})
    (5, 3)
    """
    for name in ("index", *(n for n in batch if n in _KEYS), *batch):
        if not key(name).many and (count := _length(batch.get(name), key(name).axis)) is not None:
            return count
    raise UserError(f"a batch of {', '.join(batch) or 'nothing'} does not say how many samples it has: add 'index'")


def rows(batch: Mapping[str, Any], start: int, stop: int, total: int) -> dict[str, Any]:
    """Samples `start:stop` of a batch of `total` samples, with all their rows, cut along each key's own dimension.
    Scalars, and lists that do not hold one entry a sample, belong to the whole batch and stay as they are.

    Raises:
        UserError: the samples do not divide a tensor's rows.

    >>> import torch
    >>> rows({"index": torch.arange(4), "negative_text": {"input_ids": torch.arange(8)[:, None]}}, 1, 2, 4)
    {'index': tensor([1]), 'negative_text': {'input_ids': tensor([[2],
            [3]])}}
    """

    def cut(name: str, value: Any, axis: int) -> Any:
        if isinstance(value, Mapping):
            return {inner: cut(f"{name}.{inner}", each, axis) for inner, each in value.items()}
        if isinstance(value, list | tuple) and len(value) == total:
            return value[start:stop]
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if value.ndim <= axis or value.shape[axis] % total:
            raise UserError(
                f"batch key {name!r} of shape {list(value.shape)} cannot be cut: along dimension {axis} it needs rows "
                f"for each of {total} samples. nearfar.data.batch.declare says along which dimension they lie"
            )
        each = value.shape[axis] // total
        return value.narrow(axis, start * each, (stop - start) * each)

    return {name: cut(name, value, key(name).axis) for name, value in batch.items()}


def _is_number(name: str, value: Any, batch: Mapping[str, Any]) -> bool:
    if name in _KEYS:
        return _KEYS[name].per_sample
    return isinstance(value, Tensor) and value.ndim == 1 and len(value) == size(batch)


def _length(value: Any, axis: int) -> int | None:
    """Rows along a dimension; of a dict, those of its first entry that has any."""
    if isinstance(value, Mapping):
        return next((n for each in value.values() if (n := _length(each, axis)) is not None), None)
    return value.shape[axis] if isinstance(value, Tensor) and value.ndim > axis else None
