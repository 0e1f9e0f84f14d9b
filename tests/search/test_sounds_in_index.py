"""Folders of sounds in an index: embedded as sounds, counted, searched by text, shown by their spectrograms, played."""

import base64
import copy
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from nearfar.commands.search_command import check_words
from nearfar.data import BadSound, open_source, train_tokenizer
from nearfar.errors import UserError
from nearfar.models import sound_encoder
from nearfar.search import Query, build, query, search_many
from nearfar.search.index.identity import check_model
from nearfar.search.page.hit_gallery import gallery
from nearfar.search.page.search_page import SearchService
from nearfar.search.page.shown_hits import medium
from nearfar.search.page.uploads import Uploads
from nearfar.search.querying.hit_files import write_hits
from nearfar.search.querying.query_files import QueryFile
from search.visitors import Visitor, served

soundfile = pytest.importorskip("soundfile", reason="needs soundfile: pip install 'nearfar[speech]'")


def as_wav(samples):
    sink = io.BytesIO()
    soundfile.write(sink, samples, 16000, format="WAV")
    return sink.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for name, hertz in (("low", 250), ("high", 2000)):
        (root / "clips" / name).mkdir(parents=True)
        for i in range(3):
            samples = 0.5 * np.sin(2 * np.pi * (hertz + i) * np.arange(3200) / 16000)
            soundfile.write(root / "clips" / name / f"{i}.wav", samples, 16000)
    torch.manual_seed(0)
    source = open_source(root / "clips")
    model = sound_encoder(tokenizer=train_tokenizer(source.texts(), 300), width=16, layers=1, heads=2).eval()
    return build(model, source, root / "ix"), model, root


def test_sounds_are_items_of_their_own(made):
    index, model, root = made
    assert index.counted == "6 sounds"
    again = build(model, open_source(root / "clips"), root / "ix")
    assert again.manifest.sources["clips"]["unchanged"] == 6


def test_hits_are_heard_and_drawn(made):
    index, model, _ = made
    hit = query(index, model, text="low", top=6).hits[0]
    assert (hit.sounds, hit.moves, hit.is_text) == (True, False, False)
    assert hit.path is not None
    assert hit.image().size == (256, 128)
    samples, rate = soundfile.read(io.BytesIO(hit.picture()))
    assert (rate, len(samples)) == (16000, 3200)
    vectors = model.encode_audio(model.preprocess_audio([hit.path]), normalize=True)
    text = model.encode_text(model.tokenize(["low"]), normalize=True)
    assert hit.score == pytest.approx((vectors @ text.T).item(), abs=1e-4)
    assert "sounds" not in hit.as_dict()


def test_a_sound_finds_itself_whatever_its_rate(made):
    """A file, the bytes of one, samples at another rate: the query is that sound, alone or with a text added."""
    index, model, root = made
    path = root / "clips" / "high" / "1.wav"
    results = query(index, model, audio=path, top=6)
    assert results[0].path == str(path)
    assert results[0].score == pytest.approx(1, abs=1e-4)
    assert query(index, model, audio=path.read_bytes())[0].path == str(path)
    seconds = np.arange(8820) / 44100
    again = query(index, model, audio=(0.5 * np.sin(2 * np.pi * 2001 * seconds), 44100))
    assert again[0].path == str(path)
    assert again[0].score > 0.99
    both = Query(text="low", audio=path).embed(model)
    parts = [Query(text="low").embed(model), Query(audio=path).embed(model)]
    np.testing.assert_allclose(both, (parts[0] + parts[1]) / np.linalg.norm(parts[0] + parts[1]), atol=1e-6)
    assert "data:image" in gallery(results)
    assert "the sound" in gallery(results)


def test_a_folder_of_sounds_is_many_queries(made, tmp_path):
    index, model, root = made
    results = list(search_many(index, model, QueryFile(root / "clips"), top=1))
    assert [each[0].path for each in results] == [str(each.query.audio) for each in results]
    write_hits(results, tmp_path / "hits.parquet", index=index)
    assert pq.read_table(tmp_path / "hits.parquet")["audio"].to_pylist() == [str(each.query.audio) for each in results]


def test_what_cannot_be_searched_by_is_said(made, tmp_path):
    index, model, root = made
    with pytest.raises(UserError, match=r"a SoundEncoder takes no pictures: search by text or a sound"):
        query(index, model, image=root / "a.png")
    with pytest.raises(BadSound, match="silent from end to end"):
        query(index, model, audio=(np.zeros(800), 16000))
    with pytest.raises(BadSound, match="no such file"):
        query(index, model, audio=tmp_path / "gone.wav")
    with pytest.raises(UserError, match=r"--audio .*1\.wav searches by the sound"):
        check_words(str(root / "clips" / "high" / "1.wav"))
    loud = np.sign(np.sin(np.arange(3200) / 8)) * 3.0  # clipped, and beyond the full scale
    assert np.isfinite(query(index, model, audio=(loud, 16000))[0].score)


def test_other_weights_of_the_sounds_are_another_model(made):
    """The texts' tower is the same, so that the probe sentence tells nothing."""
    index, model, _ = made
    other = copy.deepcopy(model)
    torch.nn.init.normal_(other.sound_projection.weight)
    with pytest.raises(UserError, match="its embedding of the probe sound"):
        check_model(index.manifest, other, where="ix")
    check_model(index.manifest, model, where="ix")


def test_more_like_a_sound(made):
    index, model, _ = made
    with Uploads() as uploads:
        service = SearchService(index, model, uploads)
        hits = query(index, model, text="low", top=6).hits
        high = next(place for place, hit in enumerate(hits) if hit.caption == "high")
        _, more, sentence, *_ = service.like(hits, high, None, 1, 6)
    assert "the sound" in sentence
    assert [hit.caption for hit in more[:3]] == ["high"] * 3
    assert more[0].score > 0.99  # the index keeps the sound as Vorbis, which is not the same to the last bit


def test_the_page_plays_them(made):
    index, model, _ = made
    hit = query(index, model, text="low").hits[0]
    with Uploads() as folder:
        shown = medium(hit, folder)
    assert "<audio src=" in shown
    assert "<img src=" in shown


@pytest.fixture(scope="module")
def page(made):
    from nearfar.search.page.serving import uploads_folder

    pytest.importorskip("gradio")
    index, model, _ = made
    with uploads_folder() as uploads, served(index, model, uploads) as address:
        yield address


def test_programs_send_sounds(made, page):
    """As base64 or as a file of a form, each found by what it is; embeddings are the encoder's own."""
    import httpx

    index, model, root = made
    path = root / "clips" / "high" / "1.wav"
    content = base64.b64encode(path.read_bytes()).decode()
    with httpx.Client(base_url=page, timeout=60) as http:
        by_json = http.post("/api/search", json={"audio": f"data:audio/wav;base64,{content}", "top": 2}).json()
        by_form = http.post("/api/search", files={"audio": ("../x", path.read_bytes())}, data={"top": "2"}).json()
        assert by_json["hits"] == by_form["hits"]
        assert by_json["hits"][0]["path"] == str(path)
        both = http.post("/api/search", json={"audio": content, "text": "low", "minus": ["high"], "top": 6}).json()
        expected = query(index, model, text="low", audio=path, minus=["high"], top=6)
        assert [hit["key"] for hit in both["hits"]] == [hit.key for hit in expected]
        sent = http.post("/api/embed", json={"audio": [content], "text": "low"}).json()
        vector = model.encode_audio(model.preprocess_audio([path]), normalize=True).tolist()
        np.testing.assert_allclose(sent["audio"], vector, atol=1e-6)
        most = http.get("/api/info").json()["most"]
        assert (most["sounds"], most["sound_bytes"]) == (16, 20 << 20)


SILENCE = as_wav(np.zeros(800))


@pytest.mark.parametrize(
    ("address", "sent", "words"),
    [
        ("search", {"audio": "a.wav"}, "audio must be the base64 of a sound's bytes, or a file of a form"),
        ("search", {"audio": ["", ""]}, "audio holds more than 1 sound"),
        ("search", {"audio": ""}, "audio: it is empty"),
        ("search", {"audio": base64.b64encode(b"no sound").decode()}, "audio: not a sound that can be read"),
        ("search", {"audio": base64.b64encode(SILENCE).decode()}, "it is silent from end to end"),
        ("search", {"audio": base64.b64encode(bytes((20 << 20) + 1)).decode()}, "audio is larger than"),
        ("embed", {"audio": [base64.b64encode(SILENCE).decode(), "aGk="]}, "audio 1: not a sound that can be read"),
        ("embed", {"text": "a", "image": ""}, "image: "),
        ("embed", {}, "nothing to embed: give text or audio"),
    ],
)
def test_programs_are_told_what_is_wrong_with_a_sound(page, address, sent, words):
    import httpx

    answer = httpx.post(f"{page}/api/{address}", json=sent, timeout=60)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]


def test_a_sound_is_dropped_on_the_page_as_a_picture_is(made, page):
    _, _, root = made
    visitor = Visitor(page)
    box = next(each for each in visitor.page["components"] if each["props"].get("elem_id") == "picture")
    assert (box["type"], box["props"]["visible"]) == ("audio", True)
    assert "drop a sound" in json.dumps(visitor.page)

    def dropped(name, content):
        sent = visitor.http.post("/gradio_api/upload", files={"files": (name, content)})
        return visitor.ask("picture", "upload", ["", {"path": sent.json()[0]}, "", "", 1, 6])

    path = root / "clips" / "high" / "1.wav"
    gallery, _, sentence, kept = dropped("1.wav", path.read_bytes())
    assert "the sound" in sentence
    assert gallery[0]["caption"].startswith("1.000  high")
    played = visitor.http.get(f"/gradio_api/file={kept['path']}")  # the box plays what was dropped
    assert played.content == path.read_bytes()
    assert played.headers["content-type"] in ("audio/wav", "audio/x-wav")
    gallery, _, sentence, kept = dropped("notes.wav", b"no sound")
    assert (gallery, kept) == ([], None)
    assert "notes.wav: not a sound that can be read" in sentence
