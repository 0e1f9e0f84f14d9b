"""An index of cut embeddings: it knows its width, and so do its queries."""

import numpy as np
import pytest
import torch

from nearfar.cli import main
from nearfar.data import Records, train_tokenizer
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.models import create, shortened
from nearfar.search.index.building import build
from nearfar.search.querying.open_index import open_index
from nearfar.search.querying.query import query

TEXTS = ["a red disc", "a green disc", "a blue square", "a white cross"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create("tiny", tokenizer=train_tokenizer(TEXTS * 9, 300), image_size=32, embed_dim=16).eval()


def test_a_shortened_encoder_is_the_encoder_with_fewer_numbers(model, photos):
    short = shortened(model, 4)
    tokens, pixels = short.tokenize(TEXTS), short.preprocess([])
    assert (short.embed_dim, short.image_size, short.device) == (4, 32, model.device)
    assert pixels.shape == (0, 3, 32, 32)
    with torch.no_grad():
        whole = model.encode_text(tokens)
        assert torch.equal(short.encode_text(tokens), whole[:, :4])
        unit = torch.nn.functional.normalize(whole[:, :4], dim=1)
        torch.testing.assert_close(short.encode_text(tokens, normalize=True), unit)
    assert shortened(model, 16) is shortened(model, None) is model
    for dim in (0, 17):
        with pytest.raises(UserError, match=f"dim={dim}: this model's embeddings have 16 numbers"):
            shortened(model, dim)


def test_an_index_knows_its_width(model, photos, tmp_path):
    from nearfar.data import open_source

    model.matryoshka = (4, 16)
    saved = model.save_pretrained(tmp_path / "model")
    source = open_source(str(photos))
    index = build(model, source, tmp_path / "short", model=str(saved), dim=4)
    assert index.dim == 4
    again, encoder = open_index(tmp_path / "short")
    assert (again.dim, encoder.embed_dim) == (4, 4)
    hits = query(again, encoder, text="a red disc", top=3)
    whole = {str(path): model.encode(path) for path in photos.iterdir()}
    text = model.encode("a red disc")
    cosine = {
        path: float(v[:4] @ text[:4] / np.linalg.norm(v[:4]) / np.linalg.norm(text[:4])) for path, v in whole.items()
    }
    best = sorted(cosine, key=cosine.get, reverse=True)[:3]
    np.testing.assert_allclose([hit.score for hit in hits], [cosine[path] for path in best], atol=1e-4)
    assert [hit.path for hit in hits] == best
    # brought up to date without naming the width again, and refused another
    assert build(model, source, tmp_path / "short", model=str(saved)).dim == 4
    with pytest.raises(UserError, match="has 4 numbers an item, not 8: leave dim out"):
        build(model, source, tmp_path / "short", dim=8)


def test_commands_cut_and_doubt(model, photos, tmp_path, capsys):
    saved = model.save_pretrained(tmp_path / "model")
    main(["index", str(saved), str(photos), "--out", str(tmp_path / "index"), "--dim", "8"])
    said = capsys.readouterr()
    assert "9 pictures, 8-d, flat" in said.out
    assert "\nembeddings of 16 numbers are cut to 8, and training did not arrange them" in said.err
    main(["embed", str(saved), str(photos), "--out", str(tmp_path / "e.safetensors"), "--dim", "8"])
    assert Embeddings.load(tmp_path / "e.safetensors").image.shape == (9, 8)
    with pytest.raises(SystemExit, match="dim=99: this model's embeddings have 16 numbers"):
        main(["index", str(saved), str(photos), "--out", str(tmp_path / "more"), "--dim", "99"])


def test_an_encoder_that_does_not_say_its_width():
    class Plain:
        pass

    with pytest.raises(UserError, match="a Plain does not say how wide its embeddings are: give it embed_dim"):
        shortened(Plain(), 8)


def test_texts_alone(tmp_path):
    from nearfar.models.language import text_encoder

    bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    texts = text_encoder(bert, tokenizer=train_tokenizer(TEXTS * 9, 300)).eval()
    assert not hasattr(shortened(texts, 8), "encode_image")
    index = build(texts, Records([{"text": t} for t in TEXTS], name="texts"), tmp_path / "index", dim=8)
    assert index.dim == 8
