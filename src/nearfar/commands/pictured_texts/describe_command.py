"""`nearfar describe`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from nearfar.data.descriptions.description_text import Form, Join
from nearfar.signatures.data_columns import Columns, of

if TYPE_CHECKING:
    from nearfar.data.descriptions.description_table import DescriptionReport, TextSettings

REDACTED = "[redacted]"


def describe(
    model: str,
    source: str,
    *,
    out: Path = Path("descriptions.jsonl"),
    encoder: str | None = None,
    tokens: int | None = None,
    join: Join = "scene-first",
    form: Form = "phrases",
    redact: Path | None = None,
    scene_tokens: int = 200,
    objects_tokens: int = 400,
    limit: int | None = None,
    split: str | None = None,
    batch_size: int = 8,
    max_skipped: float = 0.1,
    **columns: Unpack[Columns],
) -> None:
    """Write down what is in each picture, as data and as a text that is searched in its place (LexiCLIP).

    The file is a table of picture, text and scene: the scene in words and its objects, as JSON. nearfar index ENCODER
    descriptions.jsonl makes an index of it that needs no pictures. Beside it, under the same name with .answers, stands
    what the model wrote: a run that was stopped goes on, and a picture is described once, whatever its name. A text
    that was edited in the table stays as it is.

    Args:
        model: a vision-language model: a folder that nearfar saved, a run of one, or a folder or name of one of
            transformers.
        source: pictures: a file, a folder, a table, .tar shards, hub:NAME or world/scenes.
        out: the .jsonl file.
        encoder: the encoder of texts that will read them: texts are cut to what it reads, at whole words and objects.
        tokens: with --encoder, so many of its tokens at most (the paper has 256).
        join: where a text is too long, scene-first leaves objects out, halves keeps half of the tokens for them.
        form: phrases, or the scene's json.
        redact: a file of regular expressions, one a line: what fits one is replaced by [redacted] before it is kept.
        scene_tokens: tokens of the model's answer about the scene, at most.
        objects_tokens: tokens of its list of objects, at most.
        limit: use the first so many pictures.
        split: which split of the source.
        batch_size: pictures at a time.
        max_skipped: share of unreadable pictures above which this stops.
    """
    from nearfar.commands.pictured_texts.write_command import open_pictures, stamp_of_model
    from nearfar.data.descriptions.describe_pictures import SceneDescriber
    from nearfar.data.descriptions.description_table import describe_source
    from nearfar.data.sources.skipped import Skipped
    from nearfar.errors import UserError, at_least
    from nearfar.models import load_captioner

    at_least(1, limit=limit, batch_size=batch_size, tokens=tokens)
    at_least(1, scene_tokens=scene_tokens, objects_tokens=objects_tokens)
    if out.suffix != ".jsonl":
        raise UserError(f"--out {out}: descriptions are written as .jsonl; name the file {out.stem}.jsonl")
    texts = text_settings(encoder, tokens, join, form)
    changed = None if redact is None else redaction(redact)
    data = open_pictures(source, split, of(dict(columns)))
    captioner: Any = load_captioner(model)
    if not hasattr(captioner, "caption"):
        kind = type(captioner).__name__
        raise UserError(f"{model} holds a {kind}, which writes of no pictures: name a vision-language model")
    describer = SceneDescriber(captioner, scene_tokens=scene_tokens, objects_tokens=objects_tokens, redact=changed)
    skipped = Skipped()
    report = describe_source(
        describer,
        data,
        out,
        model=stamp_of_model(model),
        texts=texts,
        limit=limit,
        batch_size=batch_size,
        max_skipped=max_skipped,
        skipped=skipped,
    )
    print(f"{report.rows:,} pictures described in {out}")
    for sentence in remarks(report):
        print(sentence, file=sys.stderr)
    if listed := skipped.listed_in(out.with_suffix(".skipped.txt")):
        print(listed, file=sys.stderr)


def text_settings(encoder: str | None, tokens: int | None, join: Join, form: Form) -> TextSettings:
    """How texts are made for an encoder, cut to what it reads or to fewer tokens.

    Raises:
        UserError: tokens of no encoder.
    """
    from nearfar.data.descriptions.description_table import TextSettings
    from nearfar.data.descriptions.description_text import token_counter
    from nearfar.errors import UserError
    from nearfar.models import load

    if encoder is None:
        if tokens is not None:
            raise UserError("--tokens are those of an encoder of texts: name it with --encoder")
        return TextSettings(form, join)
    reader = load(encoder)
    count = token_counter(reader)
    limits = [each for each in (tokens, getattr(reader, "max_length", None)) if each is not None]
    return TextSettings(form, join, min(limits, default=None), count)


def redaction(file: Path) -> Callable[[str], str]:
    """Replaces what fits a regular expression of a file, one a line.

    Raises:
        UserError: no such file, no expression in it, or one that is none, with its line.
    """
    from nearfar.errors import UserError

    try:
        lines = file.read_text("utf-8").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text: save it as UTF-8, a regular expression a line") from None
    expressions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            expressions.append(re.compile(line.removesuffix("\r")))
        except re.error as error:
            raise UserError(f"{file}, line {number} is no regular expression from character {error.pos}") from None
    if not expressions:
        raise UserError(f"{file} holds no regular expression: write one a line")

    def changed(text: str) -> str:
        for expression in expressions:
            text = expression.sub(REDACTED, text)
        return text

    return changed


def remarks(report: DescriptionReport) -> list[str]:
    """What a user should know of a run, a sentence each."""
    made = [f"{report.described:,} of {report.rows:,} met the model, the others were described before"]
    sentences = made if report.described < report.rows else []
    if report.edited:
        sentences.append(f"{report.edited:,} texts were edited by hand, and stay as they are")
    if report.cut:
        sentences.append(
            f"{report.cut:,} texts were cut: {report.words_left_out:,} words of scenes and "
            f"{report.objects_left_out:,} objects are not searched; --join halves divides the tokens otherwise"
        )
    if report.lists["repaired"]:
        sentences.append(f"{report.lists['repaired']:,} lists of objects were no whole JSON, and were mended")
    if report.lists["none"]:
        sentences.append(f"{report.lists['none']:,} lists of objects could not be read: there the scene is all")
    return sentences
