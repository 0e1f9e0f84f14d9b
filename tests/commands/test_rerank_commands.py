"""`--rerank` of evaluate and search, with a saved fusion model over a folder of pictures."""

import json
import re

import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli import main
from nearfar.data.fields.text import train_tokenizer
from nearfar.evaluation import load_results
from nearfar.search import match_reranker
from nearfar.search.querying.open_index import open_index
from nearfar.search.querying.query import Query

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "black": (9, 9, 9)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four pictures with captions, a broken one, and the model's folder."""
    where = tmp_path_factory.mktemp("photos")
    for name, colour in COLOURS.items():
        Image.new("RGB", (24, 24), colour).save(where / f"{name}.png")
        (where / f"{name}.txt").write_text(f"a {name} square")
    (where / "broken.png").write_bytes(b"no picture")
    (where / "broken.txt").write_text("nothing")
    return where


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    made = nearfar.models.create(
        image={"model_type": "vit", "num_hidden_layers": 1, "patch_size": 4, **shape},
        text={"model_type": "bert", "num_hidden_layers": 2, "max_position_embeddings": 16, **shape},
        tokenizer=train_tokenizer([f"a {name} square" for name in COLOURS], 300),
        text_layers=1,
        image_size=16,
        embed_dim=8,
    )
    torch.nn.init.normal_(made.matching.linear.weight, std=3.0)
    return str(made.save_pretrained(tmp_path_factory.mktemp("model")))


def scores(model, folder, text):
    """The matching logit of a text with each picture, one pair at a time."""
    encoder = nearfar.load(model)
    tokens = encoder.tokenize([text])
    hits = {}
    with torch.no_grad():
        for name in COLOURS:
            pixels = encoder.preprocess([Image.open(folder / f"{name}.png").convert("RGB")])
            states = encoder.text_tokens(tokens)
            hits[name] = encoder.match(encoder.image_tokens(pixels), states, tokens["attention_mask"])[0, 1].item()
    return hits


def test_evaluate(folder, model, tmp_path, capsys):
    out = tmp_path / "results.json"
    flags = ["--on", str(folder), "--protocols", "retrieval", "--rerank", "2", "--json", str(out)]
    with pytest.raises(SystemExit, match="broken"):  # a fifth of the pictures is too much
        main(["evaluate", model, *flags])
    (folder / "broken.png").unlink()
    main(["evaluate", model, *flags])
    printed = capsys.readouterr().out
    assert re.search(r"first 2 of each query scored again: 16 pairs scored in [\d.]+ s", printed)
    assert "reranked retrieval" in printed
    results = load_results(out)
    assert results["reranked_retrieval"].details["pairs"] == 16
    # The right answer is first where it is among the two that the dual encoder likes and the match puts it there.
    encoder = nearfar.load(model)
    hits = 0
    for name in COLOURS:
        by_match = scores(model, folder, f"a {name} square")
        with torch.no_grad():
            pixels = encoder.preprocess([Image.open(folder / f"{n}.png").convert("RGB") for n in COLOURS])
            text = encoder.encode_text(encoder.tokenize([f"a {name} square"]), True)
            kept = (text @ encoder.encode_image(pixels, True).T)[0].topk(2).indices.tolist()
        hits += max((list(COLOURS)[i] for i in kept), key=by_match.get) == name
    assert results["reranked_retrieval"]["text_to_image_R@1"] == hits / 4


def test_search(folder, model, tmp_path, capsys):
    (folder / "broken.png").unlink(missing_ok=True)
    index = str(tmp_path / "index")
    main(["index", model, str(folder), "--out", index])
    capsys.readouterr()
    main(["search", "a red square", "--index", index, "--rerank", "4", "--json"])
    hits = json.loads(capsys.readouterr().out)
    expected = scores(model, folder, "a red square")
    assert {hit["caption"].split()[1]: hit["score"] for hit in hits} == pytest.approx(expected, abs=1e-4)
    ranked = [hit["score"] for hit in hits]
    assert ranked == sorted(ranked, reverse=True)
    main(["search", "a red square", "--index", index, "--rerank", "3", "--top", "2"])
    assert re.search(r"rerank [\d.]+ ms \(3 candidates re-ranked\)", capsys.readouterr().out)
    with pytest.raises(SystemExit, match="add a text"):
        main(["search", "--image", str(folder / "red.png"), "--index", index, "--rerank", "3"])

    opened, encoder = open_index(index)
    rows = opened.hits([0.0] * 4, range(4))
    composed = match_reranker(encoder, batch_size=3)(Query(text="a red square", plus=("blue",), weight=0.5), rows)
    plus = scores(model, folder, "blue")
    for hit, score in zip(rows, composed, strict=True):
        name = hit.caption.split()[1]
        assert score == pytest.approx(expected[name] + 0.5 * plus[name], abs=1e-4)
