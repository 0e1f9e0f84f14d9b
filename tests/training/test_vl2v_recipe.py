"""The recipes of VL2V, from folders of pictures to a model that is searched with: stages, columns, domains."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli import main
from nearfar.data.fields.text import train_tokenizer
from nearfar.data.pictures.views import PRESETS
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.models import create, load
from nearfar.training.recipe import load as load_recipe

CLASSES, DOMAINS = ("red_box", "blue_ball", "green_tree"), ("art", "photo", "sketch")
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three domains of three classes, six pictures of each, and a small teacher."""
    root, generator = tmp_path_factory.mktemp("vl2v"), np.random.default_rng(0)
    for d, domain in enumerate(DOMAINS):
        for c, name in enumerate(CLASSES):
            (root / domain / name).mkdir(parents=True)
            for i in range(6):
                pixels = generator.integers(0, 60, (24, 24, 3)) + np.eye(3)[c] * 150 + 10 * d
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / domain / name / f"{i}.png")
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a photo of a red box", "a blue ball", "a green tree"], 300)
    teacher = create(image=VIT, text=BERT, tokenizer=tokenizer, image_size=16, embed_dim=16, temperature=0.1)
    teacher.save_pretrained(root / "teacher")
    return root


def settings(root):
    small = {"batch_size": 16, "epochs": 2, "workers": 0, "warmup": 0.0, "report": False}
    return {
        "data.train": " + ".join(f"{root / domain}/" for domain in DOMAINS),
        "data.leave_out": "sketch",
        "data.validation": 0.2,
        "data.max_skipped": 0.0,
        **{f"training.{name}": value for name, value in small.items()},
    }


@pytest.fixture(scope="module")
def stages(folders, tmp_path_factory):
    own = {
        "stages.teacher.model.load": str(folders / "teacher"),
        "stages.align.model.image": "micro-resnet",
        "stages.align.model.image_size": 32,
        "stages.align.data.per_domain": 8,
        "stages.distill.data.per_domain": 8,
        "stages.distill.training.epochs": 12,
        "stages.distill.training.eval_every": 1,
    }
    out = tmp_path_factory.mktemp("runs") / "run"
    return load_recipe("vl2v-adip", settings(folders) | own).run(out)


def test_the_shipped_recipe_aligns_then_distils(stages, folders):
    teacher, align, _ = stages
    models = {stage.name: stage.model for stage in stages}
    names = ["a red box", "a green tree"]
    texts = [model.encode_text(model.tokenize(names)) for model in models.values()]
    for other in texts[1:]:
        torch.testing.assert_close(other, texts[0], rtol=0, atol=0)
    best, trained = align.best, models["distill"]
    moved = {
        name.split(".")[0]
        for name, value in trained.state_dict().items()
        if not torch.equal(value, best.state_dict()[name])
    }
    assert moved == {"image"}
    assert (align.folder / "checkpoints" / "best").is_dir()
    assert (teacher.folder / "columns.parquet").is_file()
    assert (teacher.folder / "columns-validation.parquet").is_file()


def test_it_is_measured_on_the_domain_that_was_left_out(stages):
    result = stages[-1].results["zero_shot"]
    assert "sketch" in stages[-1].measured_on
    assert result.metrics["top1"].n == 18


def test_the_student_is_a_model_like_any_other(stages, folders, tmp_path):
    model = load(stages[-1].folder)
    pictures = [folders / "sketch" / name / "0.png" for name in CLASSES]
    embedded = nearfar.evaluation.embed_images(model, pictures)
    assert embedded.shape == (3, 16)
    source = nearfar.data.open_source(str(folders / "sketch") + "/")
    index = nearfar.search.build(model, source, tmp_path / "index")
    query = model.encode_text(model.tokenize(["a red box"]), normalize=True).detach().numpy()
    assert index.search(query, 3)[1].shape == (1, 3)


def test_the_teacher_may_be_asked_for_every_view(folders, tmp_path):
    own = {
        "training.steps": 2,
        "training.swad": None,
        "training.eval_every": 2,
        "method.teacher": str(folders / "teacher"),
    }
    own |= {"data.views": "domainbed", "data.per_domain": 8, "stages.align.model.image": "micro-resnet"}
    own |= {"stages.align.model.teacher": str(folders / "teacher")}
    _, distill = load_recipe("vl2v-adip-paper", settings(folders) | own).run(tmp_path / "run")
    assert distill.results["zero_shot"].metrics["top1"].n == 18
    own = {name: value for name, value in own.items() if not name.startswith("stages.")}
    run = load_recipe("vl2v-sd-paper", settings(folders) | own | {"model.load": str(folders / "teacher")}).run(
        tmp_path / "sd"
    )
    teacher, student = load(folders / "teacher"), run.model
    moved = {n.split(".")[0] for n, v in student.state_dict().items() if not torch.equal(v, teacher.state_dict()[n])}
    assert moved == {"image", "image_projection"}


def test_each_domain_is_left_out_in_turn(folders, tmp_path, capsys):
    values = settings(folders) | {"training.epochs": 1, "data.leave_out": None, "training.progress": False}
    words = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    path = tmp_path / "plain.yaml"
    path.write_text(
        f"model: {{load: {folders / 'teacher'}}}\nmethod: {{name: vl2v, stage: together, image_weight: 0.0}}\n"
        "evaluation: {protocols: [zero_shot]}\n"
    )
    main(["train", str(path), *words, "--each-domain-out", "--out", str(tmp_path / "runs")])
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "runs" / "domains.json").read_text())
    assert list(figures) == [*DOMAINS, "mean"]
    for domain in DOMAINS:
        result = load_results(tmp_path / "runs" / domain / "results.json")["zero_shot"]
        assert result.metrics["top1"].n == 18
        assert figures[domain]["zero_shot/top1"] == result["top1"]
        assert domain in printed
    mean = sum(figures[domain]["zero_shot/top1"] for domain in DOMAINS) / 3
    assert figures["mean"]["zero_shot/top1"] == pytest.approx(mean)
    with pytest.raises(SystemExit, match=r"two or more are needed|names no domains"):
        main(["train", str(path), *words[1:], f"data.train={folders / 'art'}/", "--each-domain-out", "--out", "x"])


def test_a_teacher_of_the_stage_before_needs_one(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model: {make: student_encoder, teacher: previous, image: micro-resnet}\nmethod: {name: vl2v}\n"
        "data: {train: world/emoji}\n"
    )
    with pytest.raises(UserError, match=r"model\.teacher: 'previous' is the model of the stage before"):
        load_recipe(tmp_path / "r.yaml")


PAPER = {
    "batch_size": 3 * 32,
    "steps": 5001,
    "lr": 5e-5,
    "betas": (0.9, 0.999),
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "clip_norm": None,
    "eval_every": 200,
    "monitor": "val_accuracy",
    "swad": "val_cross_entropy",
}


def test_the_recipes_at_the_papers_scale_hold_its_values():
    """The scripts of val-iisc/VL2V-ADiP."""
    align, distill = (stage.recipe for stage in load_recipe("vl2v-adip-paper").stages)
    for recipe in (align, distill, load_recipe("vl2v-sd-paper")):
        assert {name: getattr(recipe.training, name) for name in PAPER} == PAPER
        assert (recipe.data.per_domain, recipe.data.validation, recipe.data.views) == (32, 0.2, "domainbed")
        assert (recipe.method["image_weight"], recipe.method["templates"]) == (0.5, "a photo of a {}")
        assert (recipe.method["cutmix"], recipe.method["freeze_batch_norm"]) == (0.0, True)
    assert (align.method["stage"], distill.method["stage"]) == ("align", "distill")
    assert distill.model["load"] == "previous/best"
    views = PRESETS["domainbed"]
    assert (views.crop, views.flip, views.jitter, views.jitter_chance) == ((0.7, 1.0), 0.5, (0.3,) * 4, 1.0)
    assert (views.grey, views.blur, views.solarise) == (0.1, (0.0,), (0.0,))
