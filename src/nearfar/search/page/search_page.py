"""The search page: a text box, a picture or a sound to drop, texts to add and take away, a gallery with scores, and
labels for a picture. Everything a visitor can get wrong comes back as a sentence on the page."""

from __future__ import annotations

import math
import re
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from markupsafe import Markup

from nearfar.embedding.embed_source import embeds
from nearfar.errors import UserError, need
from nearfar.search.index.identity import check_model
from nearfar.search.index.items import Hit
from nearfar.search.index.manifest import load_manifest
from nearfar.search.index.stored_index import Index
from nearfar.search.page.hit_gallery import describe
from nearfar.search.page.pictures import thumbnail
from nearfar.search.page.shown_hits import larger, shown
from nearfar.search.page.uploads import Uploads
from nearfar.search.querying.labels import label_classifier, rank_labels
from nearfar.search.querying.query import query

if TYPE_CHECKING:
    from nearfar.search.page.shown_hits import Shown

MOST_LABELS = 2000
MOST_PHRASES = 50
MOST_LETTERS = 2000
MOST_ADDRESS = 8000
HITS, WEIGHTS = (1, 100), (0.1, 3)
EXAMPLES = ("a red car", "a dog barks")
TEMPLATES = Path(__file__).parent / "templates"
SEARCHED = "(...values) => window.nearfar?.searched(...values)"
OPENED = "(...values) => values.slice(0, 3).some(Boolean) && document.querySelector('#go').click()"
"""What the browser does after a search, and when the page has opened: `templates/search_page.js`."""


class SearchService:
    """Answers the page's questions. Sees the index as it is on disk, also after `nearfar index` has changed it."""

    def __init__(self, index: Index, encoder: Any, uploads: Uploads) -> None:
        self._index, self.encoder, self.uploads = index, encoder, uploads
        self.turn = threading.Lock()
        """One search at a time: a tokenizer may not be used by two threads at once."""
        self.classifier = lru_cache(maxsize=16)(self._classifier)

    @property
    def index(self) -> Index:
        """The index, opened anew when it has changed; the old snapshot while it cannot be opened. Raises UserError
        when it was made anew with another model."""
        try:
            now = Index(self._index.directory) if self._stale() else self._index
        except UserError:
            return self._index
        if now.manifest.probe != self._index.manifest.probe:
            check_model(now.manifest, self.encoder, where=now.directory.name)
        self._index = now
        return now

    def _stale(self) -> bool:
        # All of the manifest: an index that was deleted and made anew counts its changes from the start.
        return load_manifest(self._index.directory) != self._index.manifest

    @property
    def hears(self) -> bool:
        """Whether what is dropped is a sound: the model takes sounds, and no pictures."""
        return "audio" in embeds(self.encoder) and "image" not in embeds(self.encoder)

    def heading(self) -> str:
        """What is searched, as HTML: how many pictures there are now, and the model."""
        try:
            index = self.index
        except UserError:
            index = self._index
        return Markup("<h1>nearfar search</h1><p>{}, by the model {}</p>").format(index.counted, self.model_name(index))

    def invitation(self) -> str:
        """What stands in place of hits before the first search, as HTML."""
        ways = {"text": "say what to look for", "image": "drop a picture", "audio": "drop a sound"}
        can = " or ".join(way for side, way in ways.items() if side in embeds(self.encoder))
        return Markup('<div class="summary">{}{}.</div>').format(can[:1].upper(), can[1:])

    @staticmethod
    def model_name(index: Index) -> str:
        """The model's name, of a path the last two folders."""
        return "/".join(Path(index.model).parts[-2:])

    def search(
        self, text: str, upload: str | None, plus: str, minus: str, weight: float, top: float, where: str = ""
    ) -> tuple[Shown, list[Hit], str, str | None]:
        """Pictures with captions, the hits, a sentence on the hits, or on what was wrong, and the upload, of models of
        sounds a sound, else a picture; None instead of one that cannot be used, so that the page puts it away."""
        image, sound = None, None
        try:
            if upload and self.hears:
                sound = self.uploads.sound(upload)
            elif upload:
                image = self.uploads.picture(upload)
        except UserError as error:
            return [], [], alert(str(error)), None
        return *self._find(text, image, phrases(plus), phrases(minus), weight, top, where, sound), upload

    def opened(self, address: str) -> tuple[Any, ...]:
        """The boxes as an address fills them, `?q=a+red+car&top=12`; empty ones where it names none: text, plus, minus,
        where, weight and the number of hits."""
        named = {name: values[0] for name, values in parse_qs(readable(address).lstrip("?")[:MOST_ADDRESS]).items()}
        text, plus, minus, where = (named.get(name, "") for name in ("q", "plus", "minus", "where"))
        weight, top = as_number(named.get("weight"), WEIGHTS, 1.0), as_number(named.get("top"), HITS, 24)
        return text, plus, minus, where, weight, int(top)

    def like(
        self, hits: list[Hit], chosen: int | None, upload: str | None, weight: float, top: float
    ) -> tuple[Shown, list[Hit], str, str | None, str, str, str]:
        """A search by the chosen hit's picture, sound or text, alone: what `search` gives, that picture, and the
        emptied boxes."""
        try:
            if chosen is None or chosen >= len(hits):
                raise UserError("choose a hit of the gallery first")
            if hits[chosen].is_text:
                return *self._find(hits[chosen].caption, None, (), (), weight, top), None, "", "", ""
            if hits[chosen].sounds and (kept := hits[chosen].picture) is not None:
                sound = kept()
                return (
                    *self._find("", None, (), (), weight, top, audio=sound),
                    self.uploads.share(sound, "ogg"),
                    "",
                    "",
                    "",
                )
            image = thumbnail(hits[chosen].image(), 1024)
        except UserError as error:
            still = upload if self.uploads.find(upload) else None
            return self._show(hits), hits, alert(str(error)), still, "", "", ""
        return *self._find("", image, (), (), weight, top), self.uploads.show(image), "", "", ""

    def larger(self, hits: list[Hit], chosen: int | None) -> str:
        """The chosen hit's picture, large, with its captions and columns, as HTML."""
        return "" if chosen is None else larger(hits[chosen], self.uploads)

    def describe_hit(self, hits: list[Hit], chosen: int | None) -> str:
        """Which hit is chosen, as HTML; the larger view says the rest."""
        if chosen is None:
            return ""
        sentence = Markup('<div class="summary">chosen: hit <b>{}</b>, score {:.3f}</div>')
        return sentence.format(hits[chosen].rank, hits[chosen].score)

    def label(self, upload: str | None, labels: str) -> tuple[dict[str, float], str]:
        """Labels with their shares, and a sentence where something was wrong."""
        try:
            if "text" not in embeds(self.encoder) or "image" not in embeds(self.encoder):
                raise UserError("labels need a model that takes pictures and texts, and this one takes one of them")
            if not upload:
                raise UserError("there is no picture to label: drop one first")
            names = phrases(labels) or tuple(self.index.labels())
            if len(names) > MOST_LABELS:
                whose = "you name" if phrases(labels) else "the index has"
                raise UserError(f"{whose} {len(names):,} labels, too many to compare at once: name some")
            picture = self.uploads.picture(upload)
            with self.turn:
                ranked = rank_labels(self.classifier(names), picture)
        except UserError as error:
            return {}, alert(str(error))
        return {label.name: label.share for label in ranked[:10]}, ""

    def _find(
        self,
        text: str,
        image: Any,
        plus: tuple[str, ...],
        minus: tuple[str, ...],
        weight: float,
        top: float,
        where: str = "",
        audio: bytes | None = None,
    ) -> tuple[Shown, list[Hit], str]:
        try:
            index = self.index
            check_length(text, plus, minus)
            terms = {"text": readable(text), "image": image, "audio": audio, "plus": plus, "minus": minus}
            weight, top = within(weight, WEIGHTS, "the weight"), int(within(top, HITS, "the number of hits"))
            with self.turn:
                results = query(index, self.encoder, **terms, weight=weight, top=top, where=where.strip() or None)
        except UserError as error:
            return [], [], alert(str(error))
        if not len(results):
            sentence = Markup('<div class="summary">nothing to show: of {} none matches the filter <b>{}</b></div>')
            return [], [], sentence.format(index.counted, where.strip())
        sentence = Markup('<div class="summary">{} of {} for <b>{}</b>, {}</div>')
        summary = sentence.format(len(results), index.counted, describe(results.query), results.cost)
        return self._show(results.hits), results.hits, summary

    def _show(self, hits: list[Hit]) -> Shown:
        return shown(hits, self.uploads)

    def _classifier(self, names: tuple[str, ...]) -> Any:
        return label_classifier(self.encoder, names, templates="short" if len(names) <= 200 else "name")


def make_page(service: SearchService) -> Any:
    """The page as gradio Blocks; `serving` gives it an address."""
    gr, encoder = need("gradio", "serve"), service.encoder
    both = {"image", "text"} <= {*embeds(encoder)}
    with gr.Blocks(title="nearfar search", analytics_enabled=False) as page:
        heading = gr.HTML(service.heading(), elem_id="title")
        address = gr.Textbox(visible=False)
        hits, chosen = gr.State([]), gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                text = gr.Textbox(label="Look for", placeholder=EXAMPLES[service.hears], elem_id="text", autofocus=True)
                picture = sound_box(gr) if service.hears else picture_box(gr, visible="image" in embeds(encoder))
                with gr.Row():
                    plus = gr.Textbox(label="Plus", placeholder="snow, night", elem_id="plus", min_width=120)
                    minus = gr.Textbox(label="Minus", placeholder="people", elem_id="minus", min_width=120)
                where = gr.Textbox(
                    label="Only where",
                    placeholder='price < 20 and colour in ["red", "blue"]',
                    info=", ".join(service.index.columns),
                    elem_id="where",
                    visible=bool(service.index.columns),
                )
                go = gr.Button("Search", variant="primary", elem_id="go")
                with gr.Accordion("How many, and how strongly", open=False):
                    top = gr.Slider(*HITS, 24, step=1, label="Hits")
                    weight = gr.Slider(*WEIGHTS, 1, step=0.1, label="Weight of plus and minus")
                with gr.Accordion("What is in the picture?", open=False, elem_id="zero-shot", visible=both):
                    labels = gr.Textbox(
                        label="Labels, separated by commas",
                        placeholder="empty: the labels of the index",
                        elem_id="labels",
                    )
                    name_it = gr.Button("Label the picture", elem_id="name-it")
                    wrong = gr.HTML(elem_classes="notice")
                    named = gr.Label(label="Labels", num_top_classes=10, show_heading=False, elem_id="named")
            with gr.Column(scale=3, min_width=300):
                with gr.Row(equal_height=True, elem_id="summary"):
                    notice = gr.HTML(service.invitation(), elem_id="notice", elem_classes="notice")
                    like = gr.Button("More like the chosen one", elem_id="like", size="sm", scale=0, min_width=210)
                large = gr.HTML(elem_id="large", elem_classes="notice")
                gallery = gr.Gallery(
                    show_label=False,
                    columns=5,
                    height="auto",
                    object_fit="contain",
                    interactive=False,
                    allow_preview=False,
                    buttons=[],
                    elem_id="hits",
                    elem_classes=["texts"] if list(service.index.counts) == ["text"] else [],
                )
                gallery.GRADIO_CACHE = str(service.uploads.shown)
        question, answer = [text, picture, plus, minus, weight, top], [gallery, hits, notice, picture]
        if service.index.columns:
            question.append(where)
        private = {"api_visibility": "private"}
        quiet = {**private, "show_progress": "hidden"}
        # The index may have grown since the page was made: each visit and each search counts again.
        page.load(service.heading, None, heading, **quiet)
        boxes = [text, plus, minus, weight, top, where]

        def afterwards():
            return None, service.heading(), ""

        def finish(event):
            event.then(afterwards, None, [chosen, heading, large], **quiet).then(
                None, boxes, None, js=SEARCHED, **quiet
            )

        def from_address(words):
            values = service.opened(words)
            # Whoever has begun to type already keeps what he typed.
            return values if any(values[:3]) else [gr.skip()] * len(values)

        # `?q=a+red+car`, which the browser hands over. The gallery must not be among what is skipped: gradio makes a
        # part anew that is sent an update, and this one would forget where its pictures lie.
        page.load(
            from_address, address, [text, plus, minus, where, weight, top], js="() => [location.search]", **quiet
        ).then(None, boxes, None, js=OPENED, **quiet)
        for event in (go.click, text.submit, plus.submit, minus.submit, where.submit, picture.upload):
            # An empty gallery forgets which place was chosen, so that the same place can be chosen again.
            emptied = event(list, None, gallery, **quiet)
            finish(emptied.then(service.search, question, answer, **private))
        gallery.select(selected_in(gr, service), hits, [chosen, notice, large], **private).then(
            None, None, None, js="() => window.nearfar?.chose()", **quiet
        )
        chosen_one = [hits, chosen, picture, weight, top]
        finish(like.click(service.like, chosen_one, [*answer, text, plus, minus], **private))
        gr.on([name_it.click, labels.submit], service.label, [picture, labels], [named, wrong], **private)
    return page


def picture_box(gr: Any, *, visible: bool) -> Any:
    """gradio's image box, handing over and taking the picture's path as it is: its own decoding would answer a broken
    file with an error of its own, and its own encoding copy a visitor's picture to where others are served from. (A
    subclass would be served as a custom component; and gradio makes a box anew that is sent an
    update, so handlers return plain values to this one.)"""
    box = gr.Image(
        label="And, or, start from a picture",
        sources=["upload", "clipboard"],
        height=220,
        elem_id="picture",
        visible=visible,
    )
    return by_path(box)


def sound_box(gr: Any) -> Any:
    """gradio's box of sounds, which plays what was dropped."""
    box = gr.Audio(
        label="And, or, start from a sound", sources=["upload"], elem_id="picture", editable=False, buttons=[]
    )
    return by_path(box)


def by_path(box: Any) -> Any:
    """The box, handing over and taking paths."""
    box.preprocess = lambda payload: payload.path if payload else None
    box.postprocess = lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}} if path else None
    return box


def selected_in(gr: Any, service: SearchService) -> Any:
    """A handler that says which picture of the gallery was chosen, and describes it."""

    def selected(hits, event):
        chosen = event.index if is_place(event.index, hits) else None
        return chosen, service.describe_hit(hits, chosen), service.larger(hits, chosen)

    selected.__annotations__["event"] = gr.SelectData
    return selected


def is_place(chosen: Any, hits: list[Hit]) -> bool:
    """Whether it is the place of a hit: what comes from a browser may be anything."""
    return isinstance(chosen, int) and not isinstance(chosen, bool) and 0 <= chosen < len(hits)


def within(value: Any, bounds: tuple[float, float], name: str) -> float:
    """A number that came from a browser. Raises UserError when it is none, or out of bounds."""
    low, high = bounds
    if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise UserError(f"{name} must be a number from {low} to {high}")
    return value


def check_length(text: str, plus: tuple[str, ...], minus: tuple[str, ...]) -> None:
    """Raise UserError when a query has more terms than a search should take on."""
    if max(map(len, (text or "", *plus, *minus))) > MOST_LETTERS:
        raise UserError(f"the text is longer than {MOST_LETTERS:,} letters: shorten it")
    if len(plus) + len(minus) > MOST_PHRASES:
        raise UserError(f"plus and minus hold more than {MOST_PHRASES} texts: name fewer")


def readable(text: str) -> str:
    """What was typed, without halves of characters, which no tokenizer takes."""
    return (text or "").encode("utf-8", "replace").decode()


def phrases(text: str) -> tuple[str, ...]:
    """What a visitor typed, cut at commas and line ends.

    >>> phrases(" snow, night,, ")
    ('snow', 'night')
    """
    return tuple(part.strip() for part in re.split(r"[,;\n]", readable(text)) if part.strip())


def as_number(text: str | None, bounds: tuple[float, float], usual: float) -> float:
    """A number of an address, the usual one where it is none or out of bounds.

    >>> as_number("12", HITS, 24), as_number("many", HITS, 24), as_number(None, HITS, 24)
    (12.0, 24, 24)
    """
    try:
        return within(float(text or ""), bounds, "")
    except (ValueError, UserError):
        return usual


def alert(message: str) -> str:
    """A sentence on what went wrong, as HTML."""
    return Markup('<div class="alert" role="alert">{}</div>').format(message)
