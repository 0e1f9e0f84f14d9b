"""A table of descriptions: a row a picture, each described once, whatever happens to the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from nearfar import console, files
from nearfar.data.descriptions.describe_pictures import SceneDescriber
from nearfar.data.descriptions.description_text import DescriptionText, Form, Join, description_text
from nearfar.data.descriptions.scene_description import SceneDescription
from nearfar.data.pictures.images import BadImage, load_image, reading_size
from nearfar.data.sources.skipped import Skipped
from nearfar.data.tables.appended_lines import AppendedLines
from nearfar.errors import UserError


@dataclass(frozen=True)
class TextSettings:
    """How `description_text` makes the text of a description."""

    form: Form = "phrases"
    join: Join = "scene-first"
    tokens: int | None = None
    count: Callable[[str], int] | None = None

    def of(self, description: SceneDescription) -> DescriptionText:
        """The text of a description."""
        return description_text(description, form=self.form, join=self.join, tokens=self.tokens, count=self.count)


@dataclass
class DescriptionReport:
    """What a run did: rows written, pictures that met the model, texts that were cut, words and objects that this cost,
    lists of objects by how they were read, texts that were edited by hand and stayed."""

    rows: int = 0
    described: int = 0
    cut: int = 0
    words_left_out: int = 0
    objects_left_out: int = 0
    edited: int = 0
    lists: Counter[str] = field(default_factory=Counter)


class Described(NamedTuple):
    """A record's number, its picture's file where it is one, a digest of the picture, and what is known of it."""

    row: int
    image: str | None
    picture: str
    scene: SceneDescription
    how: str


def describe_source(
    describer: SceneDescriber,
    data: Any,
    out: Path | str,
    *,
    model: str,
    texts: TextSettings | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    max_skipped: float = 0.1,
    skipped: Skipped | None = None,
) -> DescriptionReport:
    """Describe the pictures of a source in the table `out`, JSON lines of `row`, `image` (the file), `text`, `scene`
    (JSON, too), `digest`, of the picture, and `written`, of the text.

    What the model wrote is kept in `answers_beside(out)` as soon as it is there, by the picture, the model and the
    prompts: a run that is killed goes on, and one with other settings of the text needs no model. A text that was
    edited in `out` stays; a run that does not read its picture writes nothing.

    Args:
        describer: writes of pictures.
        data: records with `image`.
        out: the table.
        model: a name of the model's weights, or a digest.
        texts: how texts are made.
        limit: use the first so many records.
        batch_size: pictures at a time.
        max_skipped: share of unreadable pictures above which this stops.
        skipped: collects what could not be read.

    Raises:
        UserError: `out` holds other rows, or edited texts of pictures that are not read; another process writes it;
            too many pictures cannot be read.
    """
    out, texts = Path(out), texts or TextSettings()
    skipped = Skipped() if skipped is None else skipped
    before, report, rows = edited_texts(out), DescriptionReport(), list[dict[str, Any]]()
    with AppendedLines(answers_beside(out), "describing pictures for") as answers:
        for each in _described(describer, data, answers, model, limit, batch_size, skipped, max_skipped, report):
            # Once more, as what was kept by an earlier run may not have met this redaction.
            scene = each.scene if describer.redact is None else each.scene.mapped(describer.redact)
            made = texts.of(scene)
            text, written = before.get(each.picture, (made.text, digest(made.text.encode())))
            rows.append(
                {
                    "row": each.row,
                    "image": each.image,
                    "text": text,
                    "scene": scene.to_json(),
                    "digest": each.picture,
                    "written": written,
                }
            )
            report.edited += each.picture in before
            report.lists[each.how] += 1
            if each.picture not in before:
                report.cut += made.is_cut
                report.words_left_out += made.words_left_out
                report.objects_left_out += made.objects_left_out
    if not rows:
        raise UserError(f"{data.name} holds no picture that can be read")
    if lost := before.keys() - {row["digest"] for row in rows}:
        raise UserError(
            f"{out} holds texts edited by hand of {len(lost)} pictures that are not among those read now, and would "
            "lose them: name another --out, or describe those pictures, too"
        )
    report.rows = len(rows)
    files.write(out, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return report


def answers_beside(out: Path) -> Path:
    """Where what a model wrote is kept.

    >>> answers_beside(Path("photos/descriptions.jsonl")).name
    'descriptions.answers.jsonl'
    """
    return out.with_name(f"{out.stem}.answers.jsonl")


def edited_texts(out: Path) -> dict[str, tuple[str, str]]:
    """The texts of a table that are not those that were written, and the digests of those, by picture.

    Raises:
        UserError: the file holds rows of another kind.
    """
    if not out.exists():
        return {}
    held = {}
    # Texts may hold what `splitlines` takes for the end of a line.
    for number, line in enumerate(out.read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, picture, written = row["text"], row["digest"], row["written"]
        except (ValueError, RecursionError, KeyError, TypeError):
            raise UserError(f"{out}, line {number} is no description: mend it, or name another file to write") from None
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{out}, line {number} has no text, and a picture without one is not found: write one")
        if digest(text.encode()) != written:
            held[picture] = (text, written)
    return held


def digest(content: bytes) -> str:
    """Sixteen digits that tell contents apart."""
    return sha256(content).hexdigest()[:16]


def picture_digest(image: Any) -> str:
    """The digest of a picture: of its file's bytes, of bytes, or of the pixels of a PIL image or an array.

    Raises:
        BadImage: no such file.
    """
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, str | Path):
        try:
            return digest(Path(image).read_bytes())
        except OSError as error:
            raise BadImage(f"{image}: {error.strerror or error}") from None
    if isinstance(image, bytes):
        return digest(image)
    if image is None:
        raise BadImage("it has no image")
    shape = f"{getattr(image, 'mode', '')}{image.size}"
    return digest(shape.encode() + image.tobytes())


def _described(
    describer: SceneDescriber,
    data: Any,
    answers: AppendedLines,
    model: str,
    limit: int | None,
    batch_size: int,
    skipped: Skipped,
    max_skipped: float,
    report: DescriptionReport,
) -> Iterator[Described]:
    """Each record with its description, in their order; those that are new are described `batch_size` at a time."""
    key = f"{model} {describer.key}"
    known = {line["picture"]: line for line in answers.lines if line["key"] == key}
    total = len(data) if hasattr(data, "__len__") else None
    read, waiting, new = 0, list[tuple[int, str | None, str]](), dict[str, Any]()

    def flushed() -> Iterator[Described]:
        if new:
            parsed = describer.describe(list(new.values()))
            for picture, each in zip(new, parsed, strict=True):
                known[picture] = {"key": key, "picture": picture, "scene": each.description.to_json(), "how": each.how}
            answers.add(*(known[picture] for picture in new))
            report.described += len(new)
        for row, image, picture in waiting:
            line = known[picture]
            yield Described(row, image, picture, SceneDescription.from_json(line["scene"]), line["how"])
        waiting.clear()
        new.clear()

    with console.progress("describing", total if limit is None else limit) as step:
        for row, record in enumerate(islice(data, limit)):
            read += 1
            step(1)
            image = record.get("image")
            try:
                picture = picture_digest(image)
                if picture not in known and picture not in new:
                    new[picture] = load_image(image, near=reading_size(describer.captioner))
            except BadImage as error:
                skipped.add(f"{data.name}, record {row}", str(error))
                continue
            waiting.append((row, str(Path(image).resolve()) if isinstance(image, str | Path) else None, picture))
            if len(new) == batch_size:
                yield from flushed()
        yield from flushed()
    skipped.check(read, limit=max_skipped, name=data.name, total=read)
