"""An index of texts: made by a model that reads nothing else, brought up to date, searched, shown."""

import json

import numpy as np
import pytest
import torch

from nearfar.cli import main
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.search import Index, build, query
from nearfar.search.page.hit_gallery import write_gallery
from nearfar.search.page.pictures import hit_thumbnail

WORDS = ("red", "green", "blue", "car", "cat")


class Sentences:
    """Counts of five words."""

    embed_dim = len(WORDS)

    def __init__(self):
        self.read = []

    def tokenize(self, texts):
        self.read += texts
        return torch.tensor([[text.count(word) + 0.01 for word in WORDS] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


NOTES = ["a red car", "a blue car", "a green cat", "two cats, one red"]


def notes(texts=NOTES):
    return Records([{"text": text, "label": i % 2} for i, text in enumerate(texts)], name="notes", classes=["a", "b"])


@pytest.fixture
def index(tmp_path):
    return build(Sentences(), notes(), tmp_path / "index")


def test_texts_are_found_by_text(index):
    assert index.counted == "4 texts"
    hits = query(index, Sentences(), text="car", plus=["blue"], top=2)
    assert [hit.caption for hit in hits] == ["a blue car", "a red car"]
    assert hits[0].is_text
    assert (hits[0].path, hits[0].label_name) == (None, "b")
    assert hits[0].score == pytest.approx(1, abs=1e-2)


def test_only_what_changed_is_read_again(index):
    model = Sentences()
    again = build(model, notes([*NOTES[:2], "a green car", NOTES[3]]), index.directory)
    assert again.manifest.sources["notes"] == {"added": 0, "updated": 1, "unchanged": 3, "removed": 0, "skipped": 0}
    assert "a red car" not in model.read
    assert query(again, model, text="green car")[0].caption == "a green car"


def test_several_texts_of_a_record_are_one_hit(tmp_path):
    source = Records([{"text": ["red", "blue"]}, {"text": "green"}], name="sets")
    index = build(Sentences(), source, tmp_path / "index")
    vectors = torch.nn.functional.normalize(Sentences().tokenize(["red", "blue"]), dim=1).mean(0)
    assert np.allclose(index.vectors[0], vectors / vectors.norm(), atol=1e-6)
    assert query(index, Sentences(), text="red blue")[0].captions == ("red", "blue")


def test_a_picture_and_another_model_are_refused(index):
    with pytest.raises(UserError, match="a Sentences takes no pictures: search by text"):
        query(index, Sentences(), image=b"anything")
    with pytest.raises(UserError, match="is a text: it has no picture"):
        query(index, Sentences(), text="red")[0].image()

    class Other(Sentences):
        def encode_text(self, tokens, normalize=False):
            return tokens.flip(1)

    with pytest.raises(UserError, match="not the model that made the index"):
        build(Other(), notes(), index.directory)
    with pytest.raises(UserError, match="has no text"):
        build(Sentences(), Records([{"label": 1}], name="bare"), index.directory)


def test_a_text_is_shown_on_a_card_and_in_the_gallery(index, tmp_path):
    hits = query(index, Sentences(), text="red cat")
    card = np.asarray(hit_thumbnail(hits[0]))
    assert card.shape == (256, 256, 3)
    assert 0.005 < (card < 128).mean() < 0.3  # ink on paper
    write_gallery(hits, tmp_path / "g.html")
    assert "two cats, one red" in (tmp_path / "g.html").read_text()


def test_the_commands_index_and_search_a_table_of_texts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nearfar.models.load", lambda name: Sentences(), raising=False)
    table = tmp_path / "notes.jsonl"
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in NOTES))
    main(["index", "toy", str(table), "--out", str(tmp_path / "i")])
    assert "4 texts, 5-d" in capsys.readouterr().out
    main(["search", "blue car", "--index", str(tmp_path / "i"), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["caption"] == "a blue car"
    main(["search", "blue car", "--index", str(tmp_path / "i")])
    assert "4 texts;" in capsys.readouterr().out
    assert Index(tmp_path / "i").counted == "4 texts"


def test_the_page_of_a_text_only_model_has_no_box_for_pictures(index):
    gradio = pytest.importorskip("gradio")
    from nearfar.search.page.search_page import SearchService, make_page
    from nearfar.search.page.uploads import Uploads

    uploads = Uploads()
    page = make_page(SearchService(index, Sentences(), uploads))
    boxes = {block.elem_id: block for block in page.blocks.values() if isinstance(block, gradio.Image)}
    assert not boxes["picture"].visible
    service = SearchService(index, Sentences(), uploads)
    assert "4 texts" in service.heading()
    shown, hits, message, _ = service.search("red car", None, "", "", 1.0, 3)
    assert "3 of 4 texts" in message
    assert len(shown) == 3
    _, like, *_ = service.like(hits, 1, None, 1.0, 2)
    assert like[0].caption == hits[1].caption
    assert "takes one of them" in service.label(None, "a, b")[1]
