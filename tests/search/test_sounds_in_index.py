"""Folders of sounds in an index: embedded as sounds, counted, searched by text, shown by their spectrograms, played."""

import io

import numpy as np
import pytest
import torch

from nearfar.data import open_source, train_tokenizer
from nearfar.models import sound_encoder
from nearfar.search import build, query
from nearfar.search.page.shown_hits import medium
from nearfar.search.page.uploads import Uploads

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


def test_the_page_plays_them(made):
    index, model, _ = made
    hit = query(index, model, text="low").hits[0]
    with Uploads() as folder:
        shown = medium(hit, folder)
    assert "<audio src=" in shown
    assert "<img src=" in shown
