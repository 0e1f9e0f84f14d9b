"""The recipes of distilling for unseen classes, from folders of pictures to figures on classes without training."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli import main
from nearfar.data.fields.text import train_tokenizer
from nearfar.data.pictures.views import PRESETS
from nearfar.evaluation import load_results
from nearfar.models import create, load
from nearfar.training.recipe import load as load_recipe

TRAINED, UNSEEN = ("red_box", "blue_ball", "green_tree"), ("grey_cloud", "pink_car")
COLOURS = {"red_box": (200, 30, 30), "blue_ball": (30, 30, 200), "green_tree": (30, 200, 30)}
COLOURS |= {"grey_cloud": (120, 120, 120), "pink_car": (220, 100, 160)}
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures of three classes to train on, of two others, texts of all five, and a small teacher."""
    root, generator = tmp_path_factory.mktemp("distill"), np.random.default_rng(0)
    for part, names in (("train", TRAINED), ("unseen", UNSEEN)):
        for name in names:
            (root / part / name).mkdir(parents=True)
            for i in range(10):
                pixels = np.array(COLOURS[name]) + generator.integers(-30, 30, (24, 24, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / part / name / f"{i}.png")
    (root / "texts.json").write_text(
        json.dumps({name: f"a photo of {name} . it is {name.split('_')[0]}" for name in (*TRAINED, *UNSEEN)})
    )
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a photo of red box", "blue ball", "green tree", "grey cloud", "pink car"], 300)
    teacher = create(image=VIT, text=BERT, tokenizer=tokenizer, image_size=16, embed_dim=16, temperature=0.1)
    teacher.save_pretrained(root / "teacher")
    return root


def settings(root, **training):
    small = {"batch_size": 8, "epochs": 2, "workers": 0, "warmup": 0.0, "report": False} | training
    return {
        "data.train": f"{root / 'train'}/",
        "data.validation": 0.2,
        "data.max_skipped": 0.0,
        "evaluation.data": f"{root / 'unseen'}/",
        "stages.teacher.model.load": str(root / "teacher"),
        "stages.distill.model.image": "micro-resnet",
        **{f"{where}training.{name}": value for where in ("", "stages.distill.") for name, value in small.items()},
    }


@pytest.fixture(scope="module")
def stages(folders, tmp_path_factory):
    return load_recipe("distill-ood", settings(folders)).run(tmp_path_factory.mktemp("runs") / "run")


def test_the_shipped_recipe_keeps_the_teacher_once_and_distils(stages):
    teacher, distill = stages
    assert (teacher.folder / "columns.parquet").is_file()
    assert (teacher.folder / "columns-validation.parquet").is_file()
    names = ["a photo of red box", "pink car"]
    own, taught = (stage.model.encode_text(stage.model.tokenize(names)) for stage in (distill, teacher))
    torch.testing.assert_close(own, taught, rtol=0, atol=0)
    logged = (distill.folder / "history.jsonl").read_text()
    assert all(name in logged for name in ("val_teacher_cosine", "val_teacher_agreement", "val_accuracy"))


def test_it_is_measured_on_classes_that_it_was_not_trained_on(stages):
    result = stages[-1].results["zero_shot"]
    assert result.details["classes"] == len(UNSEEN)
    assert result.metrics["top1"].n == 20
    assert set(result.by["class"]) == set(UNSEEN)
    assert 0 <= result["mean_per_class"] <= 1


def test_texts_of_a_file_in_training_and_in_the_measure(folders, tmp_path, capsys):
    own = settings(folders, epochs=1) | {"stages.distill.method.texts": str(folders / "texts.json")}
    own |= {"evaluation.options.zero_shot": {"texts": str(folders / "texts.json")}}
    run = load_recipe("distill-ood", own).run(tmp_path / "run")[-1]
    texts = str(folders / "texts.json")
    assert run.results["zero_shot"].details["texts"] == texts
    words = ["--on", f"{folders / 'unseen'}/", "--protocols", "zero_shot", "--class-texts", texts]
    main(["evaluate", str(run.folder), *words, "--json", str(tmp_path / "measured.json")])
    capsys.readouterr()
    again = load_results(tmp_path / "measured.json")["zero_shot"]
    assert again["mean_per_class"] == pytest.approx(run.results["zero_shot"]["mean_per_class"])


def test_the_student_is_a_model_like_any_other(stages, folders):
    model = load(stages[-1].folder)
    pictures = [folders / "unseen" / name / "0.png" for name in UNSEEN]
    assert nearfar.evaluation.embed_images(model, pictures).shape == (2, 16)


PAPER = {
    "batch_size": 128,
    "epochs": 5 * 90,
    "optimizer": "sgd",
    "lr": 0.05,
    "weight_decay": 1e-4,
    "schedule": "steps",
    "warmup": 0,
    "clip_norm": None,
}
TERMS = ("classification", "distance", "contrast", "alignment")


def test_the_recipe_at_the_papers_scale_holds_its_values(folders, tmp_path):
    """The scripts of xuanlinli17/large_vlm_distillation_ood."""
    recipe = load_recipe("distill-ood-paper").stages[-1].recipe
    assert {name: getattr(recipe.training, name) for name in PAPER} == PAPER
    assert recipe.training.betas[0] == 0.9
    assert {name: recipe.method[name] for name in TERMS} == dict.fromkeys(TERMS, 1.0)
    assert (recipe.method["temperature"], recipe.method["top_k"], recipe.method["templates"]) == (
        0.07,
        256,
        "a photo of {}",
    )
    assert (recipe.method["filter_misread"], recipe.method["symmetric"]) == (True, True)
    assert recipe.method["normalise_distance"] is True
    assert (recipe.model["image"], recipe.data.views) == ("resnet18", "distill-ood")
    views = PRESETS["distill-ood"]
    assert (views.crop, views.ratio, views.flip, views.fit) == ((0.08, 1.0), (3 / 4, 4 / 3), 0.5, "squash")
    assert views.canvas * 224 == 256

    runs = load_recipe("distill-ood-paper", settings(folders, epochs=1)).run(tmp_path / "run")
    assert runs[-1].results["zero_shot"].metrics["top1"].n == 20
