"""What a visitor may name as "his upload", sent over HTTP as a browser would, to every function of the page."""

import json
import re

import pytest

from nearfar.search.page.search_page import SearchService
from nearfar.search.page.serving import make_app
from nearfar.search.page.uploads import GONE
from search.colours import ColourEncoder, draw, png
from search.visitors import Visitor, reference

pytest.importorskip("gradio")
pytest.importorskip("httpx")

QUESTION = ["textbox", "image", "textbox", "textbox", "slider", "slider"]
BOXES = ["textbox", "textbox", "textbox", "slider", "slider", "textbox"]
"""What the browser writes into its address; no function of the server's."""
SEARCHES = (
    "click of go",
    "submit of text",
    "submit of plus",
    "submit of minus",
    "submit of where",
    "upload of picture",
)
FUNCTIONS = {
    "load of the page": [],
    "load of the page, too": ["textbox"],
    "load of the page, too, then": BOXES,
    **{event: [] for event in SEARCHES},  # empties the gallery
    **{f"{event}, then": QUESTION for event in SEARCHES},
    **{f"{event}, then, then": [] for event in SEARCHES},
    **{f"{event}, then, then, then": BOXES for event in SEARCHES},
    "select of hits": ["state"],
    "select of hits, then": [],
    "click of like": ["state", "state", "image", "slider", "slider"],
    "click of like, then": [],
    "click of like, then, then": BOXES,
    "click of name-it": ["image", "textbox"],
    "submit of labels": ["image", "textbox"],
}
"""Every function of the page by its event, and what it takes. One that is new, or that takes something new, belongs in
here once it is known what it does with a file."""
CHOSEN = {"index": 0, "value": None}


@pytest.fixture
def visitor(address):
    return Visitor(address)


def functions(page):
    """`(name, number, kinds of what it takes)` of every function that the page's own description lists. One that
    follows another is called after it."""
    parts = {part["id"]: part for part in page["components"]}
    listed, names = [], {}
    for function in page["dependencies"]:
        kinds = [parts[place]["type"] for place in function["inputs"]]
        for target, event in function["targets"]:
            part = parts[target]["props"].get("elem_id") if target in parts else "the page"
            name = f"{names[function['trigger_after']]}, then" if event == "then" else f"{event} of {part}"
            while name in names.values():
                name += ", too"
            names[function["id"]] = name
            listed.append((name, function["id"], kinds))
    return listed


def test_every_function_of_the_page_is_known(visitor):
    listed = functions(visitor.page)
    assert {name: kinds for name, _, kinds in listed} == FUNCTIONS
    assert len(listed) == len(FUNCTIONS)
    assert {number for _, number, _ in listed} == {each["id"] for each in visitor.page["dependencies"]}


def tried(visitor, path):
    """What every function answers when `path` is named in each place of a request that may hold something like it."""
    answers = {}
    event = {"index": 0, "value": {"image": reference(path)}, "path": path}
    for name, number, kinds in functions(visitor.page):
        data = [1 if kind == "slider" else reference(path) for kind in kinds]
        said = visitor.call(number, data, seconds=20, event_data=event)
        answers[name] = without_times(json.dumps(said["output"]))
    return answers


def without_times(answer):
    return re.sub(r"\d+\.\d ms|\"\w*duration\": [\d.]+", "", answer)


def test_no_function_takes_a_file_that_is_not_the_visitors(visitor, uploads, private, inside):
    """All are answered alike, so that it cannot be learnt what is there; none is waited for, opened or copied."""
    me = visitor.upload("mine.png", png(draw("red")))["path"].removeprefix(f"{uploads.visits}/").partition("/")[0]
    others = Visitor(visitor.http.base_url).upload("mine.png", png(draw("yellow")))["path"]
    traps = inside(uploads, me)
    places = {name: private[name] for name in ("nothing.png", "picture.png", "drawing.svg", "pipe.png", "folder")}
    places |= {"a link": traps["own out"], "an own pipe": traps["own pipe.png"], "another's": others}
    before = set(uploads.root.rglob("*"))
    answers = {what: tried(visitor, path) for what, path in places.items()}
    expected = answers["nothing.png"]
    for name, kinds in FUNCTIONS.items():
        assert (GONE in expected[name]) == ("image" in kinds and name != "click of like"), name
    for what, answer in answers.items():
        assert answer == expected, what
    made = set(uploads.root.rglob("*")) - before
    assert not [path for path in made if not path.is_relative_to(uploads.shown)]
    assert not list(uploads.shown.rglob("*.webp")), "no function has shown anything"


def test_ordinary_uploads_are_searched_labelled_and_seen(visitor):
    picture = visitor.upload("mine.png", png(draw("green")))
    for event in (("go", "click"), ("text", "submit"), ("picture", "upload")):
        shown, _, said, box = visitor.ask(*event, ["", picture, "", "", 1, 3])
        assert shown[0]["caption"].endswith("a green disc")
        assert "3 of 3 pictures" in said
        assert visitor.http.get(f"/gradio_api/file={box['path']}").content == png(draw("green"))
    named, said = visitor.ask("name-it", "click", [picture, "red, green"])
    assert (named["label"], said) == ("green", "")


def test_a_chosen_hit_becomes_the_picture_and_can_be_searched_by(visitor):
    visitor.ask("go", "click", ["blue", None, "", "", 1, 3])
    said = visitor.ask("hits", "select", [None], event_data=CHOSEN)[1]
    assert "chosen: hit <b>1</b>" in said
    picture = visitor.ask("like", "click", [None, None, None, 1, 3])[3]
    assert visitor.http.get(f"/gradio_api/file={picture['path']}").headers["content-type"] == "image/webp"
    assert visitor.ask("go", "click", ["", picture, "", "", 1, 1])[0][0]["caption"].endswith("a blue disc")


@pytest.mark.parametrize("chosen", [-1, 99, "0", 1.5, True, None, [0], {"path": "/etc/hostname"}])
def test_a_choice_that_is_none_is_no_choice(visitor, chosen):
    visitor.ask("go", "click", ["blue", None, "", "", 1, 3])
    assert visitor.ask("hits", "select", [None], event_data={"index": chosen, "value": None})[1] == ""
    assert "choose a hit" in visitor.ask("like", "click", [None, None, None, 1, 3])[2]


def test_the_page_itself_takes_no_other_file_whatever_the_gate_lets_through(index, uploads, private):
    service = SearchService(index, ColourEncoder(), uploads)
    for path in private.values():
        assert service.search("red", path, "", "", 1, 3)[::3] == ([], None)
        assert GONE in service.search("red", path, "", "", 1, 3)[2]
        assert GONE in service.label(path, "red, green")[1]
        assert service.like([], 0, path, 1, 3)[3] is None


def test_the_librarys_own_check_is_on(index, uploads, monkeypatch):
    """It is off for a page that is mounted and not launched."""
    pages = []
    monkeypatch.setattr("gradio.mount_gradio_app", lambda app, page, **_: pages.append(page))
    make_app(index, ColourEncoder(), uploads)
    assert pages[0].has_launched
    assert pages[0].is_running


def test_what_the_browser_does_alone_is_no_question_to_the_server(visitor, capfd):
    alone = [each["id"] for each in visitor.page["dependencies"] if not each["backend_fn"]]
    assert alone
    for number in [*alone, -1, 10_000, True, "0", None, [0]]:
        said = visitor.call(number, [])
        assert (said["success"], said["status"], said["output"]["error"]) == (
            False,
            400,
            "this is no question of the page",
        )
    assert "Traceback" not in capfd.readouterr().err
