"""The recipes of grounded language, from training to figures and back from their folders, the second from the first."""

import json

import pytest
import torch

import nearfar
from nearfar.models import GroundedEncoder, RelationEncoder
from nearfar.training.recipe import load

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
BERT |= {"intermediate_size": 16, "max_position_embeddings": 32}
PAIR = {"preset": "tiny", "text": BERT, "image_size": 32, "embed_dim": 16, "max_length": 16}
SCENES = {"spec": "world/scenes", "vocabulary": "shapes", "size": 32, "n": 24}
SMALL = {
    "data.train": SCENES,
    "data.validation": SCENES | {"split": "val", "n": 8},
    "model.image_size": 32,
    "training.epochs": 1,
    "training.batch_size": 8,
    "training.warmup": 0,
    "training.workers": 0,
    "training.report": False,
}


@pytest.fixture(scope="module")
def grounded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "grounding"
    of_two = {"model.pair": PAIR, "model.heads": 2, "model.hidden": 32, "training.steps": 2}
    evaluation = {"evaluation.data": SCENES | {"split": "test", "n": 8}}
    load("grounding", SMALL | of_two | evaluation).run(folder)
    return folder


def last(folder):
    return json.loads((folder / "history.jsonl").read_text().splitlines()[-1])


def test_words_find_cells(grounded):
    model = nearfar.load(grounded)
    assert isinstance(model, GroundedEncoder)
    assert last(grounded)["step"] == 2
    results = json.loads((grounded / "results.json").read_text())["results"]
    assert 0 <= results["retrieval"]["metrics"]["text_to_image_R@1"]["value"] <= 1


def test_relations_go_on_from_there(grounded, tmp_path):
    measured = {"evaluation.data": SCENES | {"split": "test", "n": 8}}
    changes = SMALL | measured | {"model.pair": str(grounded), "model.most_objects": 3}
    run = load("relations", changes).run(tmp_path / "run")
    assert 0 <= run.results["relations"]["relation_top5"] <= 1
    model = nearfar.load(tmp_path / "run")
    assert isinstance(model, RelationEncoder)
    assert 0 <= last(tmp_path / "run")["val_relation_accuracy"] <= 1
    embeddings = nearfar.load(grounded).text.backbone.embeddings.word_embeddings.weight
    assert torch.equal(model.pair.text.backbone.embeddings.word_embeddings.weight, embeddings)
    assert run is not None


def test_heads_for_search_go_on_from_relations(grounded, tmp_path):
    load("relations", SMALL | {"model.pair": str(grounded), "evaluation.data": None}).run(tmp_path / "third")
    small = {name: value for name, value in SMALL.items() if name != "model.image_size"}
    measured = {"evaluation.data": SCENES | {"split": "test", "n": 8}, "model.pair": str(tmp_path / "third")}
    run = load("grounded-search", small | measured).run(tmp_path / "run")
    assert 0 <= run.results["retrieval"]["text_to_image_R@1"] <= 1
    before, after = (nearfar.load(tmp_path / name) for name in ("third", "run"))
    assert torch.equal(after.pair.down.weight, before.down.weight)


def test_relations_of_a_table(tmp_path):
    from PIL import Image

    rows = []
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 90, 90)).save(tmp_path / f"{i}.png")
        things = [{"name": "cat", "attribute": "black"}, {"name": "mat", "attribute": None}]
        rows.append(
            {"image": f"{i}.png", "objects": things, "relations": [{"subject": 0, "predicate": "on", "object": 1}]}
        )
    file = tmp_path / "genome.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    own = {"data.train": str(file), "data.validation": None, "model.pair": {"pair": PAIR}, "model.image_size": 32}
    names = {"model.relations": ["on"], "model.objects": ["cat", "mat"]}
    quick = {key: value for key, value in SMALL.items() if key.startswith("training.")}
    shown = {"training.batch_size": 4, "training.report": True, "evaluation.data": str(file)}
    run = load("relations", own | names | quick | shown).run(tmp_path / "run")
    assert nearfar.load(tmp_path / "run").relations == ("on",)
    assert run.results["relations"].metrics["object_top1"].n == 24, "without a text, which alone is embedded"
    assert "relation top1" in (tmp_path / "run" / "report.html").read_text().replace("_", " ")
