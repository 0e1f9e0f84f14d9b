"""Recipes: read, checked, overridden, run, repeated; and the two commands."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from toy import Pairs

import nearfar
from nearfar import cli
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.training.recipe import comment, load, shipped


def test_one_run_from_start_to_end(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["train", str(recipe), "training.seed=3", "keep=1", "--out", "run"])
    out = tmp_path / "run"
    printed = capsys.readouterr().out
    assert "label_smoothing: 0.1" in printed, "the resolved recipe, with the method's defaults"
    assert "text to image R@1" in printed
    assert "1 skipped" in printed
    assert "07.png" in (out / "skipped.txt").read_text()
    assert list(load_results(out / "results.json")) == ["retrieval", "geometry"], "what captions alone allow"
    assert "zero_shot is left out, as" in printed
    assert (out / "report.html").stat().st_size > 1000
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert any("val_loss" in row and "val_retrieval/text_to_image_R@1" in row for row in rows)
    model = nearfar.load(out / "model")
    assert model.encode_text(model.tokenize(["a red square"])).shape == (1, 16)

    # From its own config.yaml the run is repeated to the bit, also when it stops half way and is resumed.
    again = tmp_path / "again"
    load(out, ["report=false"]).run(again)
    kept = "checkpoints/last/method.safetensors"
    assert (again / kept).read_bytes() == (out / kept).read_bytes()


def test_resumed_by_command(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["report=false", "evaluation.data=null", "evaluation.watch=[]"]
    load(recipe, quick).run(tmp_path / "whole")

    from nearfar.methods.image_text.align import ALIGN

    def stop(self, step):
        if step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ALIGN, "after_step", stop)
        with pytest.raises(SystemExit):
            cli.main(["train", str(recipe), *quick, "--out", "part"])
    with pytest.raises(SystemExit, match="already holds a run"):
        cli.main(["train", str(recipe), *quick, "--out", "part"])
    cli.main(["train", "--resume", "part"])
    kept = "checkpoints/last/method.safetensors"
    assert (tmp_path / "part" / kept).read_bytes() == (tmp_path / "whole" / kept).read_bytes()


def test_overrides():
    recipe = load("world", ["lr=3e-4", "data.train.split=val", "data.limit=10", "method.temperature=0.1", "ema=0.99"])
    assert recipe.training.lr == 3e-4
    assert recipe.training.ema == 0.99
    assert recipe.data.train == {"spec": "world/emoji+clipart", "split": "val"}
    assert recipe.data.limit == 10
    assert recipe.method["temperature"] == 0.1
    assert load("world", {"training.steps": 3}).training.steps == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.learning_rate=1"], r"section training: no setting 'learning_rate'.*There are: epochs, steps"),
        (["training.batchsize=1"], "Did you mean 'batch_size'"),
        (["method.smoothing=1"], r"section method: no setting 'smoothing'.*temperature, learn_temperature"),
        (["method.name=clop"], r"no method 'clop'\. Did you mean 'clip'\? There are: "),
        (["model.size=1"], r"section model: no setting 'size'.*preset"),
        (["data.trian=x"], "Did you mean 'train'"),
        (["evaluation.on=x"], "section evaluation: no setting 'on'"),
        (["optimizer.lr=1"], "no section 'optimizer'. There are: data, model, method, training, evaluation"),
        (["embed_dim=3"], r"name the section too \(data, model"),
        (["training.lr=fast"], "section training: .*lr"),
        (["schedule=step"], "section training: .*schedule"),
        (["lr"], "write section.setting=value"),
    ],
)
def test_what_is_wrong_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        load("world", overrides)


def test_members_of_an_ensemble_are_checked_too():
    assert load("demo", ["method.of.temperature=0.1"]).method["of"]["temperature"] == 0.1
    with pytest.raises(UserError, match=r"section method.of: no setting 'smoothing'"):
        load("demo", ["method.of.smoothing=1"])
    with pytest.raises(UserError, match=r"section method.of: say which with 'name'"):
        load("demo", {"method.of": {"exclude_duplicates": True}})


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(UserError, match=r"no recipe 'wrold'.*world"):
        load("wrold")
    (tmp_path / "a.yaml").write_text("data: [unclosed")
    with pytest.raises(UserError, match="is not YAML"):
        load(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("just words")
    with pytest.raises(UserError, match="is not a recipe"):
        load(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("method: {}")
    with pytest.raises(UserError, match="say which with 'name'"):
        load(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_sound(name, tmp_path):
    """Each has a line that says what it is, passes the checks, and is the same after a round through its YAML."""
    assert comment(shipped()[name])
    recipe = load(name)
    (tmp_path / f"{name}.yaml").write_text(recipe.as_yaml())
    assert load(tmp_path / f"{name}.yaml") == recipe


def test_a_model_to_go_on_from_and_adapters(photos, recipe, tmp_path):
    first = load(recipe, ["steps=1", "report=false", "evaluation.data=null", "evaluation.watch=[]"])
    first.run(tmp_path / "first")
    values = yaml.safe_load(recipe.read_text())
    values["model"] = {"load": str(tmp_path / "first" / "model"), "freeze": ["image"]}
    recipe.write_text(yaml.safe_dump(values))
    method = load(recipe).build().method
    assert not any(p.requires_grad for p in method.model.image.parameters())
    assert any(p.requires_grad for p in method.model.text.parameters())
    saved = nearfar.load(tmp_path / "first" / "model")
    for name, value in saved.state_dict().items():
        assert torch.equal(method.model.state_dict()[name], value)


def test_another_maker_takes_the_place_of_the_one_made():
    """Its own settings may stand before it; the recipe's, such as a preset, are of the other maker."""
    recipe = load("clip", ["model.width=32", "model.make=sound_encoder", "data.train=clips/", "model.vocab_size=300"])
    assert recipe.model == {"make": "sound_encoder", "width": 32, "vocab_size": 300}
    assert load("clip", ["model.make=create"]).model == {**load("clip").model, "make": "create"}


def test_a_model_to_go_on_from_takes_the_place_of_the_one_made():
    recipe = load("negclip", ["model.freeze=[image]", "model.load=runs/clip"])
    assert recipe.model == {"freeze": ["image"], "load": "runs/clip"}
    assert load("negclip", ["model.load=null"]).model == {**load("negclip").model, "load": None}
    # Where the recipe goes on from a model, another takes that one's place, and what is changed of it stays.
    fine = load("albef-retrieval-paper", ["model.load=runs/mine"])
    assert fine.model == {"load": "runs/mine", "image_size": 384, "max_length": 30}


OWN = """
from nearfar.methods.image_text.clip import CLIP


class Mine(CLIP):
    def __init__(self, model, *, temperature: float = 0.5) -> None:
        super().__init__(model, temperature=temperature)
"""


def test_a_method_of_ones_own(recipe, tmp_path, monkeypatch):
    """A file in the current folder, which the command finds, once it is trusted, though it does not lie on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", ".")])
    (tmp_path / "my_objective.py").write_text(OWN)
    values = yaml.safe_load(recipe.read_text())
    values["method"] = {"name": "my_objective:Mine", "temperature": 0.4}
    recipe.write_text(yaml.safe_dump(values))
    mine = {"trust": ["my_objective"]}
    run = load(recipe, ["steps=1", "report=false", "evaluation.watch=[]"], **mine).run("run")
    assert type(run.method).__name__ == "Mine"
    assert load("run", **mine).method == values["method"]
    with pytest.raises(UserError, match=r"section method: no setting 'tau'.*temperature"):
        load(recipe, ["method.tau=1"], **mine)
    for wrong in ("my_objective:Yours", "no_such_file:Mine", ":Mine"):
        with pytest.raises(UserError, match=rf"method: no '{wrong}' \(write module:name\)"):
            load(recipe, [f"method.name={wrong}"])


def test_recipes_are_listed_and_copied(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["recipes"])
    assert comment(shipped()["world"]) in capsys.readouterr().out
    cli.main(["recipes", "copy", "world"])
    cli.main(["recipes", "copy", "world", "mine/deeper/a.yaml"])  # the folders are made
    assert (tmp_path / "mine/deeper/a.yaml").read_bytes() == (tmp_path / "world.yaml").read_bytes()
    assert (tmp_path / "world.yaml").read_bytes() == shipped()["world"].read_bytes()
    with pytest.raises(SystemExit, match="exists already"):
        cli.main(["recipes", "copy", "world"])
    with pytest.raises(SystemExit, match="no recipe 'wrold'"):
        cli.main(["recipes", "copy", "wrold"])


def test_configurations_of_accelerate_are_sound(tmp_path, capsys):
    from accelerate.commands.config.config_args import load_config_from_file

    from nearfar.training.recipe import launch_configurations

    for name, path in launch_configurations().items():
        assert load_config_from_file(str(path)).num_processes >= 2
        cli.main(["recipes", "copy", name, str(tmp_path)])
        assert "accelerate launch --config_file" in capsys.readouterr().out


def test_sources_are_trained_on_as_they_are(recipe, photos, tmp_path):
    """`nearfar.train(method, source)` makes the loader that the model needs, and the report shows data in any case."""
    source = nearfar.data.open_source(photos)
    options = {"steps": 2, "batch_size": 8, "progress": False}
    run = nearfar.train(load(recipe).build().method, source, validation=source, out=tmp_path / "run", **options)
    assert run.skipped.count == 1
    assert "val_loss" in run.metrics
    assert "Measured on the validation data (" in (run.out / "report.html").read_text()
    bare = nearfar.train(load(recipe).build().method, source, out=tmp_path / "bare", **options)
    assert "Measured on training data, which the model has seen (" in (bare.out / "report.html").read_text()
    with pytest.raises(UserError, match="pass a Loader"):
        nearfar.train(Pairs(), source)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]], ids=["copies", "shards"])
def test_accelerate_launch(flags, recipe, tmp_path):
    """Two processes started as a user starts them end with the weights of one."""
    quick = ["report=false", "evaluation.data=null", "evaluation.watch=[]"]
    # With Adam's usual eps a gradient that is zero but for rounding (attention's key bias) still moves its weight.
    quick += ["eps=1e-3"]
    load(recipe, quick).run(tmp_path / "one")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", *flags]
    subprocess.run(
        [*launch, "-m", "nearfar", "train", str(recipe), *quick, "--out", str(tmp_path / "two")],
        check=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert len(list((tmp_path / "two" / "checkpoints" / "last").glob("process-*.pt"))) == 2
    one, two = nearfar.load(tmp_path / "one" / "model"), nearfar.load(tmp_path / "two" / "model")
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-3, atol=1e-4)
