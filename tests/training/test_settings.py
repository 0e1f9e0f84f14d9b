"""Settings out of their range: said at once, by the name that the user wrote, with what to write instead."""

import pytest
import torch
import yaml
from toy import Pairs, Plain, loader

from nearfar import train
from nearfar.errors import UserError
from nearfar.training import TrainConfig
from nearfar.training.recipe import load

WRONG = {
    "epochs": [0, -1, float("nan"), float("inf"), "3", None, True],
    "steps": [0, -5, 2.5, "9"],
    "batch_size": [0, -8, 2.5, None],
    "chunk": [0, -1, 1.5],
    "accumulate": [0, -1, 1.5],
    "optimizer": ["adam", ""],
    "lr": [0, -1e-3, float("nan"), float("inf"), "1e-3"],
    "weight_decay": [-0.1, float("nan")],
    "betas": [(0.9,), (0.9, 1.0), (-0.1, 0.9), (0.9, float("nan")), (0.9, 0.99, 0.999), 0.9],
    "eps": [0, -1e-8],
    "schedule": ["cosin"],
    "warmup": [-1, -0.1, 1.5, float("nan"), None],
    "min_lr": [-1e-5, 1.0],
    "clip_norm": [0, -1.0, float("inf")],
    "ema": [0, 1, -0.5, 1.5, float("nan")],
    "swad": [0, True, ""],
    "precision": ["fp8", "float16", None],
    "linear_layers": ["mkl", None],
    "seed": [-1, 0.5, 2**32],
    "workers": [-1, 0.5],
    "log_every": [0],
    "eval_every": [0],
    "save_every": [-1],
    "keep": [0],
    "progress": ["yes"],
    "report": [None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_setting_out_of_its_range_is_named(name, value):
    with pytest.raises(UserError, match=rf"training\.{name}\b.* not "):
        TrainConfig(**{name: value}) if name != "min_lr" or value < 0 else TrainConfig(lr=0.1, min_lr=-1.0)
    with pytest.raises(UserError, match=rf"training\.{name}\b"):
        train(Plain(), Untouched(), **{name: value})


class Untouched:
    """Data that must not be read."""

    def __len__(self):
        raise AssertionError("the data was touched")

    __iter__ = __len__


def test_what_is_at_the_edge_fits():
    config = TrainConfig(
        epochs=0.01,
        weight_decay=0,
        betas=[0, 0],
        warmup=7,
        steps=7,
        min_lr=1e-3,
        clip_norm=None,
        ema=None,
        seed=2**32 - 1,
    )
    assert config.warmup_steps(7) == 7
    assert train(Plain(), loader(), steps=2, warmup=2, progress=False).step == 2


def test_a_warm_up_longer_than_the_run():
    with pytest.raises(UserError, match=r"training\.warmup is 100 steps, but the run has only 50.*training\.steps"):
        TrainConfig(steps=50, warmup=100)
    with pytest.raises(UserError, match=r"training\.warmup is 9 steps, but the run has only 8"):
        train(Plain(), loader(4), epochs=2, warmup=9)


def test_a_device_that_is_not_here():
    with pytest.raises(UserError, match=r"training\.device 'gpu'.*this machine has"):
        train(Plain(), Untouched(), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"training\.device 'cuda' cannot be used"):
            train(Plain(), Untouched(), device="cuda")


def test_a_figure_that_nobody_measures():
    with pytest.raises(UserError, match=r"training\.monitor is 'val_recall'.*validation data"):
        train(Pairs(), Untouched(), monitor="val_recall")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr=-1", r"training\.lr must be above 0, not -1\.0"),
        ("epochs=.nan", r"training\.epochs must be a number"),
        ("warmup=-3", r"training\.warmup must be a share of the steps.*not -3\.0"),
        ("data.limit=0", r"data\.limit must be at least 1, not 0"),
        ("data.hard_images=0", r"data\.hard_images must be at least 1"),
        ("data.n_views=0", r"data\.n_views must be at least 1"),
        ("data.negatives=-1", r"data\.negatives must be at least 0"),
        ("data.max_length=0", r"data\.max_length must be at least 1"),
        ("data.cache=-1", r"data\.cache must be at least 0"),
        ("data.max_skipped=2", r"data\.max_skipped must be a share from 0 to 1, not 2\.0"),
        ("data.views=clop", r"data\.views: no views 'clop'\. Did you mean 'clip'\? There are: none, mirror, clip"),
        ("data.precompute=[none,clop]", r"data\.precompute: no views 'clop'"),
        ("data.precompute=[]", r"data\.precompute is empty"),
        ("data.caption=1.5", r"caption 1\.5: choose 'first', 'random', 'turn', or a share"),
        (
            "evaluation.protocols=[retreival]",
            r"evaluation\.protocols: no protocol 'retreival'. Did you mean 'retrieval'",
        ),
        ("evaluation.watch=[clop]", r"evaluation\.watch: no protocol 'clop'"),
        ("evaluation.options={clop: {}}", r"evaluation\.options: no protocol 'clop'"),
        ("evaluation.captions=-1", r"evaluation\.captions must be at least 0"),
        ("monitor=val_knn/accuracy", r"training\.monitor is 'val_knn/accuracy', but 'knn' is not watched"),
    ],
)
def test_in_a_recipe(override, message):
    with pytest.raises(UserError, match=message):
        load("world", [override])


@pytest.fixture
def recipe(tmp_path):
    """Frozen towers over the world, whose pictures would be read at length before the first step."""
    values = {
        "data": {"train": "world/emoji", "precompute": ["none"], "limit": 40},
        "model": {"preset": "tiny", "freeze": "image"},
        "method": {"name": "align"},
        "training": {"batch_size": 20, "epochs": 3, "progress": False},
        "evaluation": {"data": "world/emoji"},
    }
    path = tmp_path / "frozen.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["warmup=7"], r"training\.warmup is 7 steps, but the run has only 6"),
        (["batch_size=41"], r"holds 40 records, and training\.batch_size is 41"),
        (["trackers=[tensorbored]"], r"training\.trackers: no tracker 'tensorbored' is installed"),
        (["monitor=val_recall"], r"training\.monitor is 'val_recall'"),
        (["device=gpu"], r"training\.device 'gpu'"),
        (["accumulate=2"], r"accumulate would cut the negatives"),
        (["evaluation.data=nowhere"], "nowhere: no such file or folder"),
        (
            ["evaluation.protocols=[answering]"],
            r"answering cannot be measured on evaluation\.data.* no answers",
        ),
        (
            ["evaluation.protocols=[geometry, grounding]"],
            r"grounding cannot be measured on evaluation\.data.* no boxes",
        ),
        (["evaluation.protocols=[entailment]"], r"as a DualEncoder does not sort pairs into classes: train one with"),
        (["evaluation.protocols=[retrieval]", "evaluation.captions=0"], r"retrieval cannot be measured.*captions is 0"),
        (["evaluation.watch=[retrieval]"], r"evaluation\.watch: there is no data\.validation to watch"),
        (
            ["evaluation.watch=[answering]", "data.validation=world/emoji"],
            r"answering cannot be measured on data\.validation",
        ),
        (["data.validation=nowhere"], "nowhere: no such file or folder"),
        (["method.label_smoothing=2"], r"recipe, section method: label_smoothing must be in \[0, 1\)"),
        (["method.temperature=-1"], r"recipe, section method: a temperature must be positive"),
        (["model.embed_dim=0"], r"embed_dim=0: a whole number of at least 1"),
        (["model.image_size=-8"], r"image_size=-8: a whole number of at least 1"),
        (["model.vocab_size=10"], r"recipe, section model: vocab_size must be at least 261"),
        (["model.lora={text: {rank: 0}}"], r"recipe, section model\.lora: "),
        (["model.lora={text: {rnk: 4}}"], r"section model\.lora: no setting 'rnk'. Did you mean 'rank'"),
        (["model.lora=8"], r"lora is a mapping by tower"),
        (["model.freeze=[img]"], r"no part 'img': choose among image, text"),
    ],
)
def test_nothing_is_read_at_length_before(overrides, message, recipe, monkeypatch):
    def read(*_, **__):
        raise AssertionError("the pictures were read")

    monkeypatch.setattr("nearfar.embedding.features.precompute", read)
    monkeypatch.setattr("nearfar.training.recipe.recipe_data.make_loader", read)
    with pytest.raises(AssertionError):  # so the next would be read, if nothing stopped it
        load(recipe).build()
    with pytest.raises(UserError, match=message):
        load(recipe, overrides).build()
