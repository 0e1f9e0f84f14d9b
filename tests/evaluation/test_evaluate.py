import pytest
import torch

from nearfar.errors import UserError
from nearfar.evaluation import PROTOCOLS, USUAL, Embeddings, Protocol, Result, embed, evaluate, left_out


def test_all_protocols_on_one_embedding(encoder, colours, monkeypatch):
    results = evaluate(encoder, colours, ("retrieval", "zero_shot", "knn", "linear_probe", "geometry"))
    assert list(results) == ["retrieval", "zero_shot", "knn", "linear_probe", "geometry"]
    assert all(isinstance(result, Result) and result.metrics for result in results.values())
    assert len(encoder.modes) == 1


def test_seed_decides_everything(encoder, colours):
    first, again, other = (
        {name: result.metrics for name, result in evaluate(encoder, colours, ("geometry",), seed=seed).items()}
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_train_captions_and_options_arrive(encoder, colours):
    results = evaluate(
        encoder,
        colours,
        ("retrieval", "knn", "zero_shot"),
        train=colours[:6],
        captions=1,
        options={"knn": {"k": 1}, "zero_shot": {"templates": "a {}"}},
    )
    assert results["retrieval"].details["captions"] == 12
    assert results["knn"].details["k"] == 1
    assert results["knn"].details["train"] == 6
    assert results["zero_shot"].details["templates"] == ["a {}"]
    assert any("a violet" in text for text in encoder.texts_read)


def test_embeddings_are_used_as_they_are(encoder, colours):
    data = embed(encoder, colours)
    evaluate(None, data, ("retrieval", "geometry"))
    assert isinstance(data, Embeddings)


def test_unknown_protocols_are_told(encoder, colours):
    with pytest.raises(UserError, match="retrieval"):
        evaluate(encoder, colours, ("retreival",))


def test_a_protocol_may_live_elsewhere(encoder, colours, monkeypatch):
    home = "nearfar.evaluation.protocols.geometry:geometry"
    monkeypatch.setitem(PROTOCOLS, "elsewhere", Protocol("elsewhere", "the same", home, takes=("embeddings",)))
    assert evaluate(encoder, colours, ("elsewhere",))["elsewhere"].name == "geometry"


def test_without_names_what_the_data_allows_is_measured(encoder, colours):
    assert list(evaluate(encoder, colours)) == list(USUAL)
    data = embed(encoder, colours)
    assert left_out(encoder, data) == {}
    data.classes = None
    assert left_out(encoder, data) == {"zero_shot": f"{data.source} names no classes"}
    data.label = torch.full_like(data.label, -1)
    assert list(evaluate(encoder, data)) == ["retrieval", "geometry"]
    assert left_out(encoder, data) == {"zero_shot": f"{data.source} has no labels"}
    pictures = embed(encoder, colours, captions=0)
    assert list(evaluate(encoder, pictures)) == ["zero_shot", "geometry"]
    pictures.label = None
    assert list(evaluate(encoder, pictures)) == ["geometry"]
    assert left_out(encoder, pictures)["retrieval"] == f"{data.source} has no captions"
    # What is asked for by name is not left out in silence.
    with pytest.raises(UserError, match="captions"):
        evaluate(encoder, pictures, ["retrieval"])
