"""The interface for programs, beside the page and behind the same gate: JSON in and out.

    POST /api/search   {"text": "a car", "image": BASE64, "plus": ["red"], "top": 10, "where": "price < 20"}
    POST /api/embed    {"text": ["a red car", ...], "image": [BASE64, ...]}
    GET  /api/info

A picture, or `audio`, a sound, is the base64 of its file's bytes, or a file of a form; never a path or an address, and
it never reaches the disk.
What is wrong is answered as {"error": "a sentence"}.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from nearfar.embedding.embed_source import embed_images, embed_media, embed_texts, embeds
from nearfar.errors import UserError
from nearfar.search.page.search_page import WEIGHTS, SearchService, check_length, readable, within
from nearfar.search.page.uploads import MOST_BYTES
from nearfar.search.querying.query import query

MOST_HITS, MOST_TEXTS, MOST_PICTURES, MOST_WAITING = 1000, 256, 16, 64
"""Pictures and sounds are counted each by themselves."""
NOUNS = {"image": "picture", "audio": "sound"}
"""What the fields hold that are files."""
SEARCH = ("text", "image", "audio", "plus", "minus", "weight", "top", "where", "keep")
EMBED = ("text", "image", "audio")
MANY = ("plus", "minus", "keep")
"""Fields that are lists of texts."""


class Programs:
    """Answers the questions of programs; one is computed at a time, beside the page's."""

    def __init__(self, service: SearchService) -> None:
        self.service, self._waiting = service, 0

    @property
    def routes(self) -> list[Route]:
        """The addresses, each of which `nearfar.search.page.gate` opens by name."""
        return [
            Route("/api/search", self.search, methods=["POST"]),
            Route("/api/embed", self.embed, methods=["POST"]),
            Route("/api/info", self.info, methods=["GET"]),
        ]

    async def info(self, request: Request) -> JSONResponse:
        """What is searched, and what may be sent."""
        return await self._answered(self._info)

    async def search(self, request: Request) -> JSONResponse:
        """The hits of one query."""
        fields = await fields_of(request, SEARCH)
        return await self._answered(lambda: self._search(fields))

    async def embed(self, request: Request) -> JSONResponse:
        """Unit embeddings of texts, pictures, sounds."""
        fields = await fields_of(request, EMBED)
        return await self._answered(lambda: self._embed(fields))

    async def _answered(self, work: Callable[[], dict[str, Any]]) -> JSONResponse:
        if self._waiting >= MOST_WAITING:
            raise HTTPException(503, "the server has too many questions: ask again in a moment", {"retry-after": "1"})
        self._waiting += 1
        try:
            return JSONResponse(await run_in_threadpool(work))
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        finally:
            self._waiting -= 1

    def _info(self) -> dict[str, Any]:
        index = self.service.index
        return {
            "items": len(index),
            "dim": index.dim,
            "kind": index.manifest.kind,
            "model": self.service.model_name(index),
            "sides": list(embeds(self.service.encoder)),
            "columns": index.columns,
            "most": {
                "top": MOST_HITS,
                "texts": MOST_TEXTS,
                **{f"{noun}s": MOST_PICTURES for noun in NOUNS.values()},
                **{f"{noun}_bytes": MOST_BYTES for noun in NOUNS.values()},
            },
        }

    def _search(self, fields: dict[str, Any]) -> dict[str, Any]:
        index = self.service.index
        text, plus, minus = one_text(fields, "text"), texts_of(fields, "plus"), texts_of(fields, "minus")
        check_length(text or "", tuple(plus), tuple(minus))
        keep = texts_of(fields, "keep") if fields.get("keep") is not None else list(index.columns)
        if unknown := [name for name in keep if name not in index.columns]:
            raise UserError(f"keep: no column {unknown[0]!r} is kept; those are: {', '.join(index.columns) or 'none'}")
        pictures, sounds = pictures_of(fields, most=1), sounds_of(fields, most=1)
        top = fields.get("top", 10)
        if not isinstance(top, int) or isinstance(top, bool):
            raise UserError(f"top must be a whole number from 1 to {MOST_HITS}")
        with self.service.turn:
            results = query(
                index,
                self.service.encoder,
                text=text,
                image=pictures[0] if pictures else None,
                audio=sounds[0] if sounds else None,
                plus=plus,
                minus=minus,
                weight=within(fields.get("weight", 1), WEIGHTS, "the weight"),
                top=int(within(top, (1, MOST_HITS), "top")),
                where=one_text(fields, "where"),
            )
        hits = [{**hit.as_dict(), "kept": {name: hit.kept[name] for name in keep}} for hit in results]
        return {"hits": hits, "items": len(index), "matching": results.matching, "seconds": results.seconds}

    def _embed(self, fields: dict[str, Any]) -> dict[str, Any]:
        encoder, sides = self.service.encoder, embeds(self.service.encoder)
        sent: dict[str, list[Any]] = {
            "text": texts_of(fields, "text"),
            "image": pictures_of(fields, most=MOST_PICTURES),
            "audio": sounds_of(fields, most=MOST_PICTURES),
        }
        if not any(sent.values()):
            raise UserError(f"nothing to embed: give {' or '.join(side for side in EMBED if side in sides)}")
        for side, values in sent.items():
            if values and side not in sides:
                raise UserError(f"the model of this index takes no {side}")
        for text in sent["text"]:
            check_length(text, (), ())
        answer: dict[str, Any] = {"dim": self.service.index.dim}
        with self.service.turn:
            if sent["text"]:
                answer["text"] = embed_texts(encoder, sent["text"], progress=False).tolist()
            if sent["image"]:
                answer["image"] = embed_images(encoder, sent["image"], progress=False).tolist()
            if sent["audio"]:
                answer["audio"] = embed_media(encoder, "audio", sent["audio"]).tolist()
        return answer


async def fields_of(request: Request, known: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a request's JSON object, or of its form, none but the known ones. A file of a form is its bytes.

    Raises HTTPException: 415 for another kind of body, 400 for one that cannot be read, 422 for an unknown field.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        fields = from_json(await request.body())
    elif kind == "multipart/form-data":
        fields = await from_form(request)
    else:
        raise HTTPException(415, "send JSON (content-type: application/json) or a form (multipart/form-data)")
    if unknown := [name for name in fields if name not in known]:
        raise HTTPException(422, f"no field is called {str(unknown[0])[:40]!r}; the fields are: {', '.join(known)}")
    return fields


def from_json(body: bytes) -> dict[str, Any]:
    """The object that a body holds."""

    def no_number(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        fields = json.loads(body, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(fields, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return fields


async def from_form(request: Request) -> dict[str, Any]:
    """The fields of a form: files as bytes, numbers as numbers, a field that came several times as a list."""
    fields: dict[str, Any] = {}
    scope = {**request.scope, "app": None}  # starlette then raises what is wrong with a form as HTTPException
    whole = Request(scope, request.receive)
    async with whole.form(max_files=MOST_PICTURES, max_fields=2 * MOST_TEXTS) as form:
        for name, value in form.multi_items():
            content: Any = await value.read() if isinstance(value, UploadFile) else value
            if name in ("top", "weight") and isinstance(content, str):
                content = as_number(content)
            if name in MANY or name in fields:
                content = [*as_list(fields.get(name)), content]
            fields[name] = content
    return fields


def as_number(text: str) -> Any:
    """A number that a form holds as text; other text as it is.

    >>> as_number("3"), as_number("0.5"), as_number("many")
    (3, 0.5, 'many')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def one_text(fields: dict[str, Any], name: str) -> str | None:
    """A field that is one text, None where it was not sent."""
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{name} must be a text")
    return None if value is None else readable(value)


def texts_of(fields: dict[str, Any], name: str) -> list[str]:
    """A field that is one text or several."""
    values = as_list(fields.get(name))
    if not all(isinstance(value, str) for value in values):
        raise UserError(f"{name} must be a text, or a list of texts")
    if len(values) > MOST_TEXTS:
        raise UserError(f"{name} holds more than {MOST_TEXTS} texts: send fewer at a time")
    return [readable(value) for value in values]


def pictures_of(fields: dict[str, Any], *, most: int) -> list[Any]:
    """The pictures of a request, decoded. Raises UserError for what is none."""
    from nearfar.data.pictures.images import load_image

    return [load_image(file) for file in files_of(fields, "image", most=most)]


def sounds_of(fields: dict[str, Any], *, most: int) -> list[bytes]:
    """The sounds of a request: files whose beginning is a sound's, of which a model reads no more than it takes. Raises
    UserError for what is none."""
    from nearfar.data.sound.sound_files import sound_seconds

    sounds = []
    for file in files_of(fields, "audio", most=most):
        sound_seconds({"bytes": file.getvalue(), "path": file.name})
        sounds.append(file.getvalue())
    return sounds


def files_of(fields: dict[str, Any], name: str, *, most: int) -> list[io.BytesIO]:
    """The files of a field, each by a name that says which it is."""
    values = as_list(fields.get(name))
    if len(values) > most:
        raise UserError(f"{name} holds more than {most} {NOUNS[name]}{'s' if most > 1 else ''}: send fewer at a time")
    opened = []
    for number, value in enumerate(values):
        file = io.BytesIO(file_bytes(value, name))
        file.name = name if len(values) == 1 else f"{name} {number}"
        opened.append(file)
    return opened


def file_bytes(value: Any, name: str) -> bytes:
    """The bytes that a request means by a file: a form's file, or base64, also as a `data:` address.

    >>> file_bytes("data:image/png;base64,aGk=", "image"), file_bytes("aGk=", "audio")
    (b'hi', b'hi')
    """
    content = value
    if isinstance(value, str):
        head, comma, rest = value.partition(",")
        encoded = rest if comma and head.startswith("data:") and head.endswith(";base64") else value
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            content = None
    if not isinstance(content, bytes):
        raise UserError(
            f"{name} must be the base64 of a {NOUNS[name]}'s bytes, or a file of a form; paths and addresses are not "
            "read"
        )
    if len(content) > MOST_BYTES:
        raise UserError(f"{name} is larger than the maximum size of {MOST_BYTES >> 20} MiB")
    return content
