"""The recipe of VladVA: a model that writes, then an embedder of it; what the commands make of its folder."""

import pytest
import torch
import yaml
from PIL import Image

import nearfar
from nearfar import cli
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.methods import VladVA
from nearfar.models import LVLMEmbedder, VisionLanguageModel
from nearfar.training.recipe import load

SCENES = {"spec": "world/scenes", "vocabulary": "shapes", "size": 32, "n": 24}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
QUICK = {
    "data.train": SCENES,
    "data.validation": {**SCENES, "split": "val", "n": 8},
    "training.batch_size": 8,
    "training.report": False,
    "training.progress": False,
    "stages.captions.model.image": VIT | {"intermediate_size": 32},
    "stages.captions.model.image_size": 32,
    "stages.captions.model.pool": 2,
    "stages.captions.training.steps": 2,
    "stages.embeddings.model.rank": 2,
    "stages.embeddings.training.steps": 3,
    "stages.embeddings.evaluation.data": {**SCENES, "split": "test", "n": 8},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("vladva") / "run"
    load("vladva", QUICK).run(out)
    return out


def test_the_second_stage_embeds_with_the_model_of_the_first(run):
    base, model = nearfar.load(run / "1-captions" / "model"), nearfar.load(run / "model")
    assert (type(base), type(model)) == (VisionLanguageModel, LVLMEmbedder)
    pixels = torch.rand(2, 3, 32, 32)
    assert model.base_model().caption(pixels, max_tokens=4) == base.caption(pixels, max_tokens=4)
    assert set(load_results(run / "2-embeddings" / "results.json")) == {"retrieval", "sugarcrepe", "captioning"}
    assert model.temperature is not None
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["stages"][1]["model"]["vlm"] == "previous"


def test_a_run_that_stopped_in_its_second_stage_ends_with_the_same_weights(run, tmp_path, monkeypatch):
    embed, steps = VladVA.embed, iter(range(99))

    def stopping(method, batch):
        if method.training and next(steps) == 2:
            raise RuntimeError("stopped")
        return embed(method, batch)

    monkeypatch.setattr(VladVA, "embed", stopping)
    with pytest.raises(RuntimeError, match="stopped"):
        load("vladva", {**QUICK, "training.save_every": 1}).run(tmp_path / "again")
    monkeypatch.undo()
    load("vladva", {**QUICK, "training.save_every": 1}).run(tmp_path / "again", resume=True)
    one, other = (nearfar.load(out / "model").state_dict() for out in (run, tmp_path / "again"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_its_folder_is_indexed_and_searched_by_words(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for shade in range(0, 250, 50):
        Image.new("RGB", (32, 32), (shade, 255 - shade, 90)).save(tmp_path / "photos" / f"{shade}.png")
    cli.main(["index", str(run / "model"), "photos", "--captions", "none", "--out", "index"])
    capsys.readouterr()
    cli.main(["search", "a red ring", "--index", "index", "--top", "3"])
    assert capsys.readouterr().out.count("\n") >= 3
    cli.main(["embed", str(run / "model"), "photos", "--captions", "none", "--out", "vectors.safetensors"])
    assert (tmp_path / "vectors.safetensors").is_file()


def test_previous_needs_a_stage_before(tmp_path):
    path = tmp_path / "alone.yaml"
    values = {"model": {"make": "lvlm_embedder", "vlm": "previous"}, "method": {"name": "vladva"}}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"model\.vlm: 'previous' is the model of the stage before"):
        load(path)


def test_the_paper_s_values():
    first, second = (stage.recipe for stage in load("vladva-paper").stages)
    assert (first.method["name"], first.model["image"]) == ("captioning", "openai/clip-vit-large-patch14-336")
    assert (second.model["rank"], second.model["alpha"]) == (16, 16)
    assert (second.method["short"], second.method["longest"], second.method.get("caption_weight", 1.0)) == (
        30,
        500,
        1.0,
    )
    assert (second.training.batch_size, second.training.lr, second.training.schedule) == (1024, 1e-4, "cosine")
    assert second.training.optimizer == "adamw"
    assert second.training.steps == pytest.approx(7 * 8.1e6 / 1024, rel=0.01)
