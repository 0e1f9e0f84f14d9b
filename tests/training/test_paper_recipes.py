"""The recipes at the papers' scale: each value is the paper's or its released code's, and each can be assembled."""

from functools import cache

import pytest
import torch
import yaml

from nearfar.data import Records
from nearfar.data.fields.text import clean_caption
from nearfar.data.pictures.views import PRESETS
from nearfar.errors import UserError
from nearfar.training.recipe import load
from training.paper_values import EXPECTED


@cache
def settings(name):
    """All settings of a recipe by `section.name`, defaults included; a tower's own below it."""
    values, recipe = {}, load(name)
    for section, stated in yaml.safe_load(recipe.as_yaml()).items():
        for key, value in stated.items() if isinstance(stated, dict) else ():
            values[f"{section}.{key}"] = tuple(value) if key in ("betas", "weights") else value
            inner = value if section == "model" and isinstance(value, dict) else {}
            for config in [inner, *(each for each in inner.values() if isinstance(each, dict))]:
                values |= {f"{section}.{key}.{setting}": one for setting, one in config.items()}
    values |= {f"training.{key}": value for key, value in vars(recipe.training).items()}
    return values | {f"data.{key}": value for key, value in vars(recipe.data).items()}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, values in EXPECTED.items() for key in values])
def test_a_value_is_the_paper_s(name, key):
    assert settings(name).get(key) == EXPECTED[name][key]


def test_sepclr_s_views():
    views = PRESETS["sepclr"]
    assert (views.crop, views.flip, views.jitter, views.grey) == ((0.2, 1.0), 0.5, (0.4, 0.4, 0.4, 0.1), 0.2)
    assert views.blur == (0.0,)


def test_hydra_s_views_projector_and_gate():
    from torch import nn

    from nearfar.methods import Hydra
    from nearfar.models import image_encoder

    views = PRESETS["hydra"]
    assert (views.crop, views.flip, views.jitter, views.grey) == ((0.4, 1.0), 0.5, (0.4, 0.4, 0.2, 0.1), 0.1)
    assert (views.jitter_chance, views.blur, views.solarise) == (0.8, (1.0,), (0.0, 0.2))
    model = image_encoder("micro-resnet", projector="hydra")
    linear, norm, _, last, end = model.projector.network
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(end, nn.LayerNorm)
    assert (linear.out_features, last.out_features, last.bias) == (2048, 256, None)
    assert sum(p.numel() for p in Hydra(model, classes=1000).gate.parameters()) == 1_302_784


def test_a_resnet_50_is_the_usual_one():
    from nearfar.models import image_encoder

    with torch.device("meta"):
        model = image_encoder("resnet50", projector="byol", image_size=32)
    assert sum(p.numel() for p in model.image.parameters()) == 23_508_032  # torchvision's, without its classifier
    assert model.image.width == 2048


def test_fine_tuning_crops_from_half_of_the_picture_on():
    assert PRESETS["albef"].crop == PRESETS["tcl"].crop == (0.2, 1.0)
    assert PRESETS["albef-fine"].crop == PRESETS["tcl-fine"].crop == (0.5, 1.0)
    assert PRESETS["tcl-fine"].jitter == PRESETS["tcl"].jitter


BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
SCENES = {"spec": "world/scenes", "vocabulary": "shapes", "size": 32, "n": 16}
QUICK = {"training.steps": 1, "training.batch_size": 8, "training.warmup": 0, "training.precision": "no"}
TINY = {
    **QUICK,
    "data.train": SCENES,
    "model.image": VIT | {"intermediate_size": 32},
    "model.text": BERT | {"intermediate_size": 32},
    "model.embed_dim": 16,
}


@pytest.mark.parametrize("name", ["albef-paper", "tcl-paper"])
def test_pretraining_cleans_captions_and_cuts_them_at_25_tokens(name, tmp_path):
    tiny = {**TINY, "model.text_layers": 1, "model.image_size": 32, "method.queue_size": 16, "training.report": False}
    built = load(name, tiny).build()
    tokenize = built.method.model.tokenize
    caption = "The WELL-known <person>'s red/blue square, (below) a circle!"
    assert tokenize([caption])["input_ids"].tolist() == tokenize([clean_caption(caption)])["input_ids"].tolist()
    assert tokenize(["circle " * 60])["input_ids"].shape == (1, 25)
    texts = next(iter(built.loader))["text"]["input_ids"]
    assert len(texts) == 8
    assert texts.shape[1] <= 25

    # Fine-tuning goes on with the cleaned texts, to 30 tokens.
    built.run(tmp_path / "pretrained")
    fine = {**QUICK, "data.train": SCENES, "data.validation": None, "evaluation.data": None, "method.queue_size": 16}
    fine |= {"model.load": str(tmp_path / "pretrained" / "model"), "model.image_size": 64}
    tuned = load(name.replace("paper", "retrieval-paper"), fine).build()
    assert tuned.method.model.tokenize(["circle " * 60])["input_ids"].shape == (1, 30)
    assert tuned.method.model.tokenize([caption])["input_ids"].tolist() == tokenize([caption])["input_ids"].tolist()
    assert next(iter(tuned.loader))["views" if "tcl" in name else "image"].shape[-1] == 64


def test_align_normalises_virtual_batches_of_sixteen(tmp_path, capsys):
    small = {"model_type": "align", "vision_config": {"width_coefficient": 0.1, "depth_coefficient": 0.1}}
    tiny = {**TINY, "model.image": small, "model.image_size": 32, "model.embed_dim": 32, "model.vocab_size": 300}
    tiny |= {"training.batch_size": 32, "data.train": {**SCENES, "n": 40}, "training.report": False}
    load("align-paper", tiny).run(tmp_path / "run")
    assert "batch norms normalise each chunk of 16 samples by itself" in capsys.readouterr().out


def test_negclip_trains_on_rows_with_a_hard_caption_and_ends_with_the_best_epoch(tmp_path, monkeypatch):
    import nearfar
    from nearfar.data.sources.open_source import open_source
    from nearfar.training.recipe import recipe_data

    rows = [{**row, "text": row["text"][0]} for row in open_source(**SCENES)]
    odd = [{**row, "text": "a square"} for row in open_source(**{**SCENES, "n": 4})]
    for row in rows + odd:
        for key in [key for key in row if key.startswith("negative_")]:
            del row[key]
    sources = {"train": Records(rows + odd, name="train"), "val": Records(rows + odd, name="val")}
    monkeypatch.setattr(recipe_data, "open_spec", lambda where, spec, **_: sources[spec])
    model = {"model.load": None, "model.preset": "tiny-vit", "model.image_size": 32, "model.vocab_size": 300}
    tiny = {"training.epochs": 3, "training.batch_size": 8, "training.warmup": 0, "training.workers": 0, **model}
    tiny |= {"training.precision": "no", "training.lr": 1e-2, "training.report": False, "data.hard_images": 1}
    recipe = load("negclip-paper", {**tiny, "data.train": "train", "data.validation": "val", "evaluation.data": None})
    built = recipe.build()
    assert (len(built.source), len(built.validated_on)) == (16, 20)
    recalls = iter([0.2, 0.6, 0.4])
    kept = []

    def validation(method):
        kept.append({name: value.clone() for name, value in method.model.state_dict().items()})
        return {"val_retrieval/text_to_image_R@1": next(recalls)}

    built.validation = validation
    run = built.run(tmp_path / "run")
    saved = nearfar.load(tmp_path / "run" / "model").state_dict()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, kept[1][name])
        assert torch.equal(saved[name], value)
    assert any(not torch.equal(kept[2][name], value) for name, value in saved.items())


def test_dropping_is_for_hard_captions():
    with pytest.raises(UserError, match=r"data\.drop_without_hard goes with data\.hard_captions: true"):
        load("negclip-paper", ["data.hard_captions=false"])
