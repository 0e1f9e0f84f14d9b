"""What the page's server allows, without a browser."""

import shutil

import pytest

from installed import needs
from nearfar.search import build
from nearfar.search.page.search_page import SearchService
from nearfar.search.page.uploads import Uploads
from search.colours import ColourEncoder, draw, folder_source, png

pytestmark = needs("gradio")


@pytest.fixture
def index(encoder, photos, tmp_path):
    return build(encoder, folder_source(photos), tmp_path / "index")


@pytest.fixture
def client(index):
    from fastapi.testclient import TestClient

    from nearfar.search.page.serving import make_app, uploads_folder

    with uploads_folder() as uploads:
        app = make_app(index, ColourEncoder(), uploads)
        with TestClient(app, base_url="http://127.0.0.1") as made:
            yield made


@pytest.fixture
def uploads():
    with Uploads() as folder:
        yield folder


def test_the_server_gives_away_nothing_and_is_closed_to_other_names(client, index, photos):
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "fonts.googleapis" not in answer.text
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    secret = photos.parent / "secret.txt"
    secret.write_text("secret")
    for path in (secret, photos / "red-disc.png", index.directory / "manifest.json"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert client.get("/gradio_api/info").json()["named_endpoints"] == {}


def test_uploads_have_a_limit(client):
    small = client.post("/gradio_api/upload", files={"files": ("red.png", png(draw("red")))})
    assert small.status_code == 200
    assert client.post("/gradio_api/upload", files={"files": ("huge.png", bytes(21 << 20))}).status_code == 413


def test_the_desk_sees_an_index_that_has_changed(index, encoder, uploads, photos):
    service = SearchService(index, encoder, uploads)
    assert "9 pictures" in service.heading()
    shown, hits, said, _ = service.search("yellow", None, "", "", 1.0, 3)
    assert "3 of 9 pictures" in said
    draw("yellow", size=96).save(photos / "yellow-disc.png")
    build(encoder, folder_source(photos), index.directory)
    shown, hits, said, _ = service.search("yellow", None, "", "", 1.0, 3)
    assert hits[0].caption == "a yellow disc"
    assert shown[0][0].size == (96, 96)
    assert shown[0][1].endswith("a yellow disc")
    assert "3 of 10 pictures" in said
    assert "10 pictures" in service.heading()


def test_the_desk_sees_an_index_that_was_made_anew(index, encoder, uploads, photos):
    """It counts its changes from the start, so that the count alone tells nothing."""
    service = SearchService(index, encoder, uploads)
    assert service.search("red", None, "", "", 1.0, 1)[1][0].caption.startswith("a red")
    shutil.rmtree(index.directory)
    for path in photos.glob("*.png"):
        path.unlink()
    draw("yellow").save(photos / "yellow-disc.png")
    assert build(encoder, folder_source(photos), index.directory).manifest.serial == index.manifest.serial
    _, hits, said, _ = service.search("red", None, "", "", 1.0, 3)
    assert [hit.caption for hit in hits] == ["a yellow disc"]
    assert "1 of 1 picture" in said
    # Made anew by a model that sees otherwise: no hits by a stranger's vectors, but a sentence.
    shutil.rmtree(index.directory)
    build(ColourEncoder(turn=0.5), folder_source(photos), index.directory)
    _, hits, said, _ = service.search("yellow", None, "", "", 1.0, 3)
    assert hits == []
    assert "not the model that made the index" in said
    assert str(index.directory.parent) not in said
    assert "<p>1 picture, by" in service.heading(), "the last that could be searched"


def test_the_desk_escapes_what_it_repeats(index, encoder, uploads):
    said = SearchService(index, encoder, uploads).search("<img src=x onerror=alert(1)> red", None, "", "", 1.0, 1)[2]
    assert "<img" not in said
    assert "&lt;img" in said


def test_a_file_that_went_shows_as_a_grey_card(index, encoder, uploads, photos):
    (photos / "red-disc.png").unlink()
    shown, hits, *_ = SearchService(index, encoder, uploads).search("red", None, "", "", 1.0, 9)
    gone = next(i for i, hit in enumerate(hits) if hit.caption == "a red disc")
    assert shown[gone][0].getpixel((10, 10)) == (235, 235, 235)
    assert "role" in SearchService(index, encoder, uploads).like(hits, gone, None, 1.0, 5)[2]


def test_labels_of_an_index_without_end_are_not_compared(index, encoder, uploads, photos, monkeypatch):
    monkeypatch.setattr("nearfar.search.page.search_page.MOST_LABELS", 3)
    service = SearchService(index, encoder, uploads)
    upload = uploads.keep("visitor", "red.png", (photos / "red-disc.png").read_bytes())
    assert "too many" in service.label(upload, "")[1]
    named, said = service.label(upload, "red, green\nblue")
    assert next(iter(named)) == "red"
    assert said == ""
    assert "no picture" in service.label(None, "red")[1]
