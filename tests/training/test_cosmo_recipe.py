"""The recipe of COSMO: words alone, then pictures among them; what the commands make of its folder."""

import json

import pytest
import torch
import yaml
from PIL import Image

import nearfar
from nearfar import cli
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.methods import COSMO
from nearfar.models import InterleavedModel
from nearfar.training.recipe import load

DOCUMENTS = {"spec": "world/documents", "vocabulary": "shapes", "size": 32, "n": 24}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
QUICK = {
    "data.train": DOCUMENTS,
    "data.validation": {**DOCUMENTS, "split": "val", "n": 6},
    "training.batch_size": 8,
    "training.report": False,
    "training.progress": False,
    "stages.words.training.steps": 2,
    "stages.pictures.model.image": VIT | {"intermediate_size": 32},
    "stages.pictures.model.image_size": 32,
    "stages.pictures.model.latents": 3,
    "stages.pictures.model.depth": 1,
    "stages.pictures.training.steps": 3,
    "stages.pictures.evaluation.data": {**DOCUMENTS, "spec": "world/scenes", "split": "test", "n": 8},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("cosmo") / "run"
    load("cosmo", QUICK).run(out)
    return out


def test_the_second_stage_sees_pictures_with_the_language_model_of_the_first(run):
    words, model = nearfar.load(run / "1-words" / "model"), nearfar.load(run / "model")
    assert isinstance(model, InterleavedModel)
    own = model.lm.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in words.lm.state_dict().items())
    assert set(load_results(run / "2-pictures" / "results.json")) == {"retrieval", "captioning"}
    assert model.temperature is not None
    assert any(weight.any() for name, weight in model.blocks.named_parameters() if name.endswith("_gate"))
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["stages"][1]["model"]["language"] == "previous"


def test_a_run_that_stopped_in_its_second_stage_ends_with_the_same_weights(run, tmp_path, monkeypatch):
    embed, steps = COSMO.embed, iter(range(99))

    def stopping(method, batch):
        if method.training and next(steps) == 2:
            raise RuntimeError("stopped")
        return embed(method, batch)

    monkeypatch.setattr(COSMO, "embed", stopping)
    with pytest.raises(RuntimeError, match="stopped"):
        load("cosmo", {**QUICK, "training.save_every": 1}).run(tmp_path / "again")
    monkeypatch.undo()
    load("cosmo", {**QUICK, "training.save_every": 1}).run(tmp_path / "again", resume=True)
    one, other = (nearfar.load(out / "model").state_dict() for out in (run, tmp_path / "again"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_its_folder_is_measured_searched_and_writes(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for shade in range(0, 250, 50):
        Image.new("RGB", (32, 32), (shade, 255 - shade, 90)).save(tmp_path / "photos" / f"{shade}.png")
    cli.main(["index", str(run / "model"), "photos", "--captions", "none", "--out", "index"])
    capsys.readouterr()
    cli.main(["search", "a red ring", "--index", "index", "--top", "3"])
    assert capsys.readouterr().out.count("\n") >= 3
    cli.main(["write", str(run / "model"), "photos", "--captions", "none", "--out", "written.jsonl"])
    assert len((tmp_path / "written.jsonl").read_text().splitlines()) == 5
    for shade in range(0, 250, 50):
        (tmp_path / "photos" / f"{shade}.txt").write_text(f"shade {shade}")
    capsys.readouterr()
    cli.main(["evaluate", str(run / "model"), "--on", "photos", "--protocols", "retrieval", "captioning"])
    assert "R@1" in capsys.readouterr().out


def test_documents_in_a_table_train_it(tmp_path):
    for shade in ("red", "blue"):
        Image.new("RGB", (32, 32), shade).save(tmp_path / f"{shade}.png")
    rows = [{"images": ["red.png", "blue.png"], "text": "<visual>all red<visual>all blue"}] * 4
    rows += [{"images": ["red.png"], "text": "all red"}, {"images": ["blue.png"], "text": "all blue"}] * 2
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = {**QUICK, "data.train": str(tmp_path / "mine.jsonl"), "data.validation": None}
    load("cosmo", {**quick, "stages.pictures.training.monitor": "val_loss"}).run(tmp_path / "run")
    assert isinstance(nearfar.load(tmp_path / "run" / "model"), InterleavedModel)


def test_previous_needs_a_stage_before(tmp_path):
    path = tmp_path / "alone.yaml"
    values = {"model": {"make": "interleaved_model", "language": "previous"}, "method": {"name": "cosmo"}}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"model\.language: 'previous' is the model of the stage before"):
        load(path)


def test_the_paper_s_values():
    recipe = load("cosmo-paper")
    model, training = recipe.model, recipe.training
    assert (model["image"], model["language"]) == ("openai/clip-vit-large-patch14", "facebook/opt-iml-1.3b")
    assert (model["unimodal_layers"], model["interval"], model["compress"]) == (12, 2, 2)
    assert (recipe.method["contrast"], recipe.method["temperature"]) == (1.0, 0.8187)
    assert (training.lr, training.schedule, training.clip_norm) == (5e-4, "cosine", 1.0)
    assert training.steps * training.batch_size == pytest.approx(5 * 130e6, rel=0.01)
    assert training.warmup == 500
