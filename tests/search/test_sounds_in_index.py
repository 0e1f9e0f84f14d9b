"""Folders of sounds in an index: embedded as sounds, counted, searched by text, shown by their spectrograms, played."""

import copy
import io

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

soundfile = pytest.importorskip("soundfile", reason="needs soundfile: pip install 'nearfar[speech]'")


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
