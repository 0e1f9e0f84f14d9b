"""The recipes at the papers' scale: each value is the paper's or its released code's, and each can be assembled."""

from functools import cache

import pytest
import torch
import view_paper_values
import yaml

from nearfar.data import Records
from nearfar.data.fields.text import clean_caption
from nearfar.data.fields.views import PRESETS
from nearfar.errors import UserError
from nearfar.training.recipe import load
from training.few_shot_values import BECLR

PRETRAINING = {  # configs/Pretrain.yaml and Pretrain.py of salesforce/ALBEF and of uta-smile/TCL
    "data.n_views": None,
    "model.image": "timm:deit_base_patch16_224",
    "model.text": "bert-base-uncased",
    "model.text_layers": 6,
    "model.image_size": 256,
    "model.embed_dim": 256,
    "model.clean_captions": True,
    "model.max_length": 25,
    "method.temperature": 0.07,
    "method.queue_size": 65536,
    "method.momentum": 0.995,
    "method.alpha": 0.4,
    "method.ramp_steps": 4_000_000 // 512 // 100 * 100,  # one epoch
    "method.mask_probability": 0.15,
    "method.share_duplicates": False,
    "training.steps": 30 * 7800,
    "training.batch_size": 8 * 64,
    "training.optimizer": "adamw",
    "training.lr": 1e-4,
    "training.betas": (0.9, 0.999),
    "training.eps": 1e-8,
    "training.weight_decay": 0.02,
    "training.schedule": "cosine",
    "training.warmup": 20 * 100,
    "training.min_lr": 1e-5,
    "training.clip_norm": None,
    "training.precision": "bf16",
}
FINE_TUNING = {  # configs/Retrieval_coco.yaml, VQA.yaml, VE.yaml
    "model.image_size": 384,
    "method.momentum": 0.995,
    "method.alpha": 0.4,
    "training.batch_size": 8 * 32,
    "training.optimizer": "adamw",
    "training.betas": (0.9, 0.999),
    "training.eps": 1e-8,
    "training.weight_decay": 0.02,
    "training.schedule": "cosine",
    "training.min_lr": 1e-6,
    "training.clip_norm": None,
}
RETRIEVAL = FINE_TUNING | {
    "model.max_length": 30,
    "method.temperature": 0.07,
    "method.queue_size": 65536,
    "method.mask_probability": 0.15,
    "method.ramp_steps": 566_747 // 256,  # one epoch of COCO's captions
    "method.share_duplicates": True,
    "training.steps": 5 * (566_747 // 256),
    "training.lr": 1e-5,
    "training.warmup": 100,
}
EXPECTED = {
    "albef-paper": PRETRAINING | {"method.name": "albef", "data.views": "albef"},
    "tcl-paper": PRETRAINING
    | {"method.name": "tcl", "data.views": "tcl", "data.n_views": 2, "method.weights": (1 / 6,) * 6},
    "albef-retrieval-paper": RETRIEVAL
    | {"method.name": "albef", "model.load": "runs/albef-paper", "data.views": "albef-fine"},
    "tcl-retrieval-paper": RETRIEVAL
    | {"method.name": "tcl", "model.load": "runs/tcl-paper", "data.views": "tcl-fine", "data.n_views": 2},
    "albef-vqa-paper": FINE_TUNING
    | {
        "method.name": "answering",
        "data.views": "albef-fine",
        "training.lr": 2e-5,
        "training.epochs": 8,
        "training.warmup": 4 * 100,
        "method.ramp_steps": 443_757 // 256,
    },
    "albef-entailment-paper": FINE_TUNING
    | {
        "method.name": "entailment",
        "data.views": "albef-fine",
        "method.classes": 3,
        "training.lr": 2e-5,
        "training.epochs": 5,
        "training.warmup": 100,
        "method.ramp_steps": 0,  # warm_up: False
    },
    "align-paper": {  # the paper; LAMB's constants from kakaobrain/coyo-align
        "data.views": "align",
        "model.image_size": 289,
        "model.image_projection": "none",
        "model.text_projection": "linear",
        "model.embed_dim": 1376,  # 320 x 4.3, the last block of EfficientNet-L2
        "model.image.width_coefficient": 4.3,
        "model.image.depth_coefficient": 5.3,
        "model.text.hidden_size": 1024,
        "model.text.num_hidden_layers": 24,
        "model.text.num_attention_heads": 16,
        "model.text.intermediate_size": 4096,
        "model.max_length": 64,
        "model.vocab_size": 100_000,
        "method.name": "align",
        "method.temperature": 1.0,
        "method.label_smoothing": 0.1,
        "method.bounds": None,
        "method.exclude_duplicates": False,
        "training.steps": 1_200_000,
        "training.batch_size": 16_384,
        "training.chunk": 16_384 // 1024,
        "training.optimizer": "lamb",
        "training.lr": 1e-3,
        "training.betas": (0.9, 0.999),
        "training.eps": 1e-6,
        "training.weight_decay": 1e-5,
        "training.warmup": 10_000,
        "training.schedule": "linear",
        "training.min_lr": 0.0,
        "training.clip_norm": None,
    },
    "simclr-paper": {  # sections 2.3 and 6, appendix B.1
        "data.views": "simclr",
        "data.n_views": 2,
        "model.preset": "resnet50",
        "model.projector": "simclr",
        "method.name": "simclr",
        "method.temperature": 0.1,
        "training.epochs": 1000,
        "training.batch_size": 4096,
        "training.optimizer": "lars",
        "training.lr": 0.3 * 4096 / 256,
        "training.betas": (0.9, 0.999),
        "training.weight_decay": 1e-6,
        "training.warmup": 10 * (1_281_167 // 4096),
        "training.schedule": "cosine",
        "training.min_lr": 0.0,
        "training.clip_norm": None,
    },
    "sepclr-paper": {  # the released code on CIFAR-MNIST
        "data.views": "sepclr",
        "data.n_views": 2,
        "model.preset": "resnet18",
        "model.image_size": 24,
        "model.projector": {"layers": 2, "hidden": 128, "out": 32, "norm": "hidden"},
        "method.name": "sepclr",
        "method.variance": 0.5,
        "method.beta_salient": 1000.0,
        "method.beta_infoless": 1000.0,
        "method.lambda_jem": 10.0,
        "method.uniformity_weight": 2.0,
        "training.epochs": 250,
        "training.batch_size": 512,
        "training.optimizer": "adamw",
        "training.lr": 3e-4,
        "training.betas": (0.9, 0.999),
        "training.weight_decay": 0.0,
        "training.warmup": 0,
        "training.schedule": "constant",
        "training.clip_norm": None,
    },
    "multicrop-paper": {  # SwAV, arXiv 2006.09882, figure 3; the rest is SimCLR's
        "data.views": "swav",
        "data.n_views": 2,
        "data.small_views": 4,
        "data.small_size": 96,
        "model.preset": "resnet50",
        "model.image_size": 160,
        "method.name": "simclr",
        "method.temperature": 0.1,
        "training.epochs": 200,
        "training.batch_size": 4096,
        "training.optimizer": "lars",
    },
    "moco-paper": {  # arXiv 2003.04297, and the defaults of facebookresearch/moco
        "data.views": "moco",
        "data.n_views": 2,
        "model.preset": "resnet50",
        "model.projector": "moco",
        "method.name": "moco",
        "method.temperature": 0.2,
        "method.momentum": 0.999,
        "method.queue_size": 65536,
        "method.normalise": "batch",
        "method.shuffle": True,
        "training.epochs": 200,
        "training.batch_size": 256,
        "training.optimizer": "sgd",
        "training.lr": 0.03,
        "training.betas": (0.9, 0.999),
        "training.weight_decay": 1e-4,
        "training.schedule": "cosine",
        "training.warmup": 0,
        "training.clip_norm": None,
    },
    "beclr-paper": BECLR,
    "byol-paper": {  # sections 3.2 and 3.3
        "data.views": "byol",
        "data.n_views": 2,
        "model.preset": "resnet50",
        "model.projector": "byol",
        "method.name": "byol",
        "method.momentum": 0.996,
        "method.predictor_hidden": 4096,
        "method.normalise": "batch",
        "training.epochs": 1000,
        "training.batch_size": 4096,
        "training.optimizer": "lars",
        "training.lr": 0.2 * 4096 / 256,
        "training.weight_decay": 1.5e-6,
        "training.schedule": "cosine",
        "training.warmup": 10 * (1_281_167 // 4096),
        "training.clip_norm": None,
    },
    "simsiam-paper": {  # sections 3 and 4
        "data.views": "moco",
        "data.n_views": 2,
        "model.preset": "resnet50",
        "model.projector": "simsiam",
        "method.name": "simsiam",
        "method.predictor_hidden": 512,
        "training.epochs": 100,
        "training.batch_size": 512,
        "training.optimizer": "sgd",
        "training.lr": 0.05 * 512 / 256,
        "training.betas": (0.9, 0.999),
        "training.weight_decay": 1e-4,
        "training.schedule": "cosine",
        "training.warmup": 0,
        "training.clip_norm": None,
    },
    "supcon-paper": {  # section 4.4; rate, decay and warm-up are SimCLR's
        "data.views": "simclr",
        "data.n_views": 2,
        "model.preset": "resnet50",
        "model.projector": "supcon",
        "method.name": "supcon",
        "method.temperature": 0.1,
        "training.epochs": 350,
        "training.batch_size": 6144,
        "training.optimizer": "lars",
    },
    **view_paper_values.VALUES,
    "negclip-paper": {  # the paper, and the defaults of vinid/neg_clip
        "data.views": "clip",
        "data.hard_captions": True,
        "data.drop_without_hard": True,
        "data.negatives": 1,
        "data.hard_images": 3,
        "model.load": "openai/clip-vit-base-patch32",
        "method.name": "negclip",
        "method.temperature": None,
        "method.exclude_duplicates": False,
        "training.epochs": 5,
        "training.batch_size": 2 * 256,
        "training.optimizer": "adamw",
        "training.lr": 1e-6,
        "training.weight_decay": 0.2,
        "training.betas": (0.9, 0.98),
        "training.eps": 1e-6,
        "training.warmup": 50,
        "training.schedule": "cosine",
        "training.min_lr": 0.0,
        "training.clip_norm": None,
        "training.precision": "fp16",
        "training.monitor": "val_retrieval/text_to_image_R@1",
        "training.final": "best",
        "evaluation.watch": ["retrieval"],
    },
}


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
