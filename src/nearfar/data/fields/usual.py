"""The usual fields by the settings that models, methods and recipes name: pictures, captions, negatives, answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from nearfar.data.boxes.boxes_field import BoxesField
from nearfar.data.fields.answers_field import AnswersField
from nearfar.data.fields.caption_choice import Caption, check_caption
from nearfar.data.fields.field import Field
from nearfar.data.fields.negatives_field import NegativesField
from nearfar.data.fields.text_field import FieldTokenizer, ReadTexts, TextField
from nearfar.data.pictures.image_field import ImageField
from nearfar.data.pictures.views import ViewPreset
from nearfar.data.sources.record_text import captions
from nearfar.data.sources.source import Source, Stream
from nearfar.data.texts.caption_lengths_field import CaptionLengths, CaptionLengthsField
from nearfar.data.texts.label_texts_field import LabelTexts, LabelTextsField
from nearfar.data.texts.text_views import TextViewPreset
from nearfar.data.texts.text_views_field import TextViewsField
from nearfar.data.video.frame_choice import FrameChoice
from nearfar.data.video.video_field import VideoField
from nearfar.errors import UserError

OF_A_MODEL = ("image_size", "mean", "std", "tokenizer", "max_length", "frame_choice")
"""Settings that a model gives by attributes of these names; it gets no pictures, or no texts, where it lacks them."""


class FieldOptions(TypedDict, total=False):
    """The settings of `usual_fields`, each optional."""

    image_size: int | None
    mean: Sequence[float]
    std: Sequence[float]
    tokenizer: Any
    views: str | ViewPreset
    n_views: int
    small_views: int
    small_size: int | None
    max_length: int | None
    pad_to: int | None
    caption: Caption | None
    caption_lengths: CaptionLengths | None
    negatives: int | None
    answers: bool
    text_pairs: bool
    text_views: str | TextViewPreset | None
    label_texts: LabelTexts | None
    boxes: bool
    picture_pairs: bool
    frame_choice: FrameChoice | None


def usual_fields(
    source: Source | Stream,
    *,
    shuffle: bool = True,
    image_size: int | None = None,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    tokenizer: Any = None,
    views: str | ViewPreset = "clip",
    n_views: int = 1,
    small_views: int = 0,
    small_size: int | None = None,
    max_length: int | None = None,
    pad_to: int | None = None,
    caption: Caption | None = None,
    caption_lengths: CaptionLengths | None = None,
    negatives: int | None = None,
    answers: bool = False,
    text_pairs: bool = False,
    text_views: str | TextViewPreset | None = None,
    label_texts: LabelTexts | None = None,
    boxes: bool = False,
    picture_pairs: bool = False,
    frame_choice: FrameChoice | None = None,
) -> list[Field]:
    """The fields that a loader of pictures, or videos, and texts has.

    Args:
        source: what they will read.
        shuffle: whether it is read in a new order each epoch, which makes `random` the default of `caption`.
        image_size: side of the pictures in pixels; None leaves pictures out.
        mean, std: what the model's pixels are normalised with.
        tokenizer: any tokenizer of `transformers`; None leaves texts out.
        views: a preset of `nearfar.data.pictures.views`, or a `ViewPreset`.
        n_views: augmented views of each picture.
        small_views, small_size: further views, small crops of each picture, and their side; see `ImageField`.
        max_length: tokens a caption is cut to (default: what the tokenizer says).
        pad_to: pad to a fixed length.
        caption: one of a record's captions at `random`, always its `first`, each in `turn`, epoch after epoch, or the
            share of draws that take the first.
        caption_lengths: take a short caption and a long one of each record; see `CaptionLengthsField`.
        negatives: hard negative captions a sample, by default as many as the first record has.
        answers: give the answers of each question (the record's `text`) with their shares; a record without an answer
            is unusable.
        text_pairs: give the second text of each pair (the record's `text2`) where the source has one, and as many hard
            negatives as each record has: `negatives` at most, by default as many as the record with most.
        text_views: make two views of each text, a pair, by a preset of `nearfar.data.texts.text_views` or a
            `TextViewPreset`; goes with `text_pairs`.
        label_texts: which texts are labels of each text, its own words or others; see `LabelTextsField`.
        boxes: give the boxes of the things in each picture, and what they are called, by the source's classes.
        picture_pairs: give the second picture of each pair, the record's `image2`, prepared as the first is, its text
            `text2`, and their `prompt` where the source has one.
        frame_choice: read videos in the place of pictures, these frames of each; random ones in training (`shuffle`).

    Raises:
        UserError: negatives are wanted of a source without `negative_text`, or answers without a tokenizer; text views
            of pairs, or where nothing reads pairs; pairs of pictures of a source without them.
    """
    fields: list[Field] = []
    caption = check_caption(("random" if shuffle else "first") if caption is None else caption)
    count = count_negatives(source, negatives, ragged=text_pairs)
    if text_views is not None:
        _check_text_views(source, read=text_pairs and tokenizer is not None)
    if tokenizer is not None:
        tokens = FieldTokenizer(tokenizer, max_length, pad_to)
        of_text = text_fields(tokens, caption=caption, negatives=count, answers=answers, ragged=text_pairs)
        if caption_lengths is not None:
            of_text[0] = CaptionLengthsField(tokens, caption_lengths, caption=caption)
        if text_views is not None:
            of_text[0] = TextViewsField(tokens, text_views, caption=caption)
        fields += of_text
        fields += [TextField(tokens, caption=caption, key="text2")] if text_pairs and "text2" in source.columns else []
        if label_texts is not None:
            fields.append(LabelTextsField(tokens, label_texts, caption=caption, classes=source.classes))
    elif answers:
        raise UserError("answers=True needs a tokenizer: pass tokenizer=...")
    if boxes:
        fields.append(BoxesField(source.classes))
    if picture_pairs:
        check_picture_pairs(source)
        if tokenizer is not None:
            fields.append(TextField(tokens, caption=caption, key="text2"))
            fields += [TextField(tokens, caption="first", key="prompt")] if "prompt" in source.columns else []
        if image_size:
            fields.append(ImageField(image_size, mean=mean, std=std, views=views, key="image2"))
    if image_size and frame_choice is not None:
        video = VideoField(image_size, frame_choice, mean=mean, std=std, views=views, random=shuffle, n_views=n_views)
        fields.append(video)
    elif image_size:
        fields.append(
            ImageField(
                image_size,
                mean=mean,
                std=std,
                views=views,
                n_views=n_views,
                small_views=small_views,
                small_size=small_size,
            )
        )
    return fields


def check_picture_pairs(source: Source | Stream) -> None:
    """Refuse data whose records are no pairs of pictures.

    Raises:
        UserError: there is no second picture, or no text of it.
    """
    for key, what in (("image2", "second picture"), ("text2", "text of a second picture")):
        if key not in source.columns:
            raise UserError(
                f"{source.name} has no {what}, {key!r}, and pairs of pictures are to be read; its columns are: "
                f"{', '.join(source.columns)}. Name the columns of the table image, image2, text and text2"
            )


def _check_text_views(source: Source | Stream, *, read: bool) -> None:
    if not read:
        raise UserError(
            "text_views makes pairs of texts, and nothing reads them: take a model of texts and a method on pairs, "
            "such as simcse (text_pairs=True)"
        )
    if "text2" in source.columns:
        raise UserError(
            f"text_views makes a second text of each, and {source.name} has one, its text2: leave text_views out"
        )


def text_fields(
    tokens: FieldTokenizer,
    read: ReadTexts | None = None,
    *,
    caption: Caption,
    negatives: int,
    answers: bool,
    ragged: bool = False,
) -> list[Field]:
    """The fields of texts: a caption, `negatives` hard ones where that is above 0, and answers.

    Args:
        tokens: how texts become tokens.
        read: what a batch holds of captions where it is not tokens; answers, which are to be produced, always are.
        caption, negatives, answers: as for `usual_fields`.
        ragged: as for `NegativesField`.
    """
    read = tokens if read is None else read
    return [
        TextField(read, caption=caption),
        *([NegativesField(read, negatives, caption=caption, ragged=ragged)] if negatives else []),
        *([AnswersField(tokens)] if answers else []),
    ]


def settings_of(model: Any) -> dict[str, Any]:
    """The settings that a model gives, for what it reads.

    >>> from types import SimpleNamespace
    >>> settings_of(SimpleNamespace(tokenizer="its tokenizer", max_length=32))
    {'tokenizer': 'its tokenizer', 'max_length': 32}
    """
    return {name: getattr(model, name) for name in OF_A_MODEL if hasattr(model, name)}


def count_negatives(source: Source | Stream, count: int | None, *, ragged: bool = False) -> int:
    """How many hard captions a sample has: `count`, or as many as the first record, or, where records may differ in it
    (`ragged`), as the record of a `Source` with most; 0 where there are none."""
    if "negative_text" not in source.columns:
        if count:
            raise UserError(f"{source.name} has no 'negative_text', of which negatives={count} are to be taken")
        return 0
    if count is not None:
        return count
    if ragged and isinstance(source, Source):
        return max((len(captions(wrong)) for wrong in source.column("negative_text")), default=0)
    return len(captions(next(iter(source), {}).get("negative_text")))
