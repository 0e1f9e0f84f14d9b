"""Recipes of stages: read, checked, overridden, run, killed and resumed."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import ranks
import torch
import yaml
from PIL import Image
from safetensors import torch as safetensors
from stage_work import best_of, on_ranks, run_recipe

import nearfar
from nearfar import cli, files
from nearfar.errors import UserError
from nearfar.training.recipe import load
from nearfar.training.state.run_checkpoint import weights

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
KEPT = "checkpoints/last/method.safetensors"


@pytest.fixture
def staged(recipe):
    return in_stages(recipe)


def in_stages(recipe):
    """The recipe of squares in two stages: heads on a frozen tower, then all, with the first's clusters as labels."""
    values = yaml.safe_load(recipe.read_text())
    model = values.pop("model")
    values["training"] |= {"steps": 4, "report": False, "progress": False}
    values["evaluation"] = {}
    values["stages"] = [
        {"name": "heads", "model": {**model, "freeze": ["image"]}, "keep": {"group": {"of": "image", "clusters": 4}}},
        {
            "name": "whole",
            "model": {"load": "previous", "freeze": []},
            "data": {"columns": {"label": "previous/group"}},
            "training": {"steps": 6, "lr": "1e-3", "seed": 1},
        },
    ]
    path = recipe.with_name("two.yaml")
    path.write_text("# Squares in two stages.\n" + yaml.safe_dump(values))
    return path


def change(path: Path, **changes):
    """The recipe with its second stage changed."""
    values = yaml.safe_load(path.read_text())
    values["stages"][1] |= changes
    path.write_text(yaml.safe_dump(values))
    return path


def test_two_stages_from_start_to_end(staged, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measured = [f"evaluation.data={photos}", "evaluation.protocols=[geometry]", "stages.whole.report=true"]
    cli.main(["train", str(staged), "--out", "run", "stages.whole.batch_size=6", *measured])
    printed = capsys.readouterr().out
    assert printed.index("stage heads") < printed.index("stage whole")
    assert printed.count("effective") >= 2, "the figures of each stage"
    out = tmp_path / "run"
    report = (out / "report.html").read_text()
    assert all(part in report for part in ("By stage", "Stage heads", "Stage whole"))
    first, last = nearfar.load(out / "1-heads"), nearfar.load(out)
    assert first.frozen == ("image",)
    assert last.frozen == (), "freeze: [] trains all again"
    moved = [name for name, p in first.image.named_parameters() if not torch.equal(p, last.image.state_dict()[name])]
    assert moved, "the second stage trains the tower that was frozen in the first"
    source = load(out / "2-whole").build().source
    labels = source.column("label")
    colours = [text.split()[1] for text in source.texts()]
    assert len(labels) == 23, "the broken picture has no cluster"
    assert len(set(zip(labels, colours, strict=True))) == 4, "a cluster for each colour"

    # The run's own recipe, and the second stage's alone, give the same again.
    quick = ["evaluation.data=null", "report=false"]
    load(out, quick).run(tmp_path / "again")
    load(out / "2-whole", quick).run(tmp_path / "alone")
    for other in (tmp_path / "again" / "2-whole", tmp_path / "alone"):
        assert (other / KEPT).read_bytes() == (out / "2-whole" / KEPT).read_bytes()
    with pytest.raises(SystemExit, match="already holds a run"):
        cli.main(["train", str(staged), "--out", "run"])


def test_killed_in_the_second_stage(staged, tmp_path):
    out, draw = tmp_path / "run", random.Random(3)
    run_recipe(staged, tmp_path / "whole")
    for _ in range(3):
        process = ranks.server().Process(target=run_recipe, args=(staged, out))
        process.start()
        deadline = time.monotonic() + 100
        while not (out / "1-heads/columns.parquet").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        process.join(draw.uniform(0.0, 0.6))
        process.kill()  # SIGKILL, unless it has ended
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    load(out).run(out, resume=True)
    for stage in ("1-heads", "2-whole"):
        assert (out / stage / KEPT).read_bytes() == (tmp_path / "whole" / stage / KEPT).read_bytes()
    ours, whole = (nearfar.load(folder).state_dict() for folder in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[name], value) for name, value in whole.items())


def test_overrides(staged):
    recipe = load(staged, ["lr=0.5", "stages.whole.steps=9", "stages.whole.training.seed=7", "model.embed_dim=8"])
    first, second = (stage.recipe for stage in recipe.stages)
    assert (first.training.lr, second.training.lr) == (0.5, 0.5)
    assert (first.training.steps, second.training.steps) == (4, 9)
    assert (first.training.seed, second.training.seed) == (0, 7)
    assert first.model["embed_dim"] == 8
    assert second.model == {"load": "previous", "freeze": []}
    assert recipe.as_yaml().count("lr: 0.5") == 2


def test_it_is_the_same_after_a_round_through_its_yaml(staged, tmp_path):
    recipe = load(staged)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "two.yaml").write_text(recipe.as_yaml())
    assert load(tmp_path / "again" / "two.yaml") == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "heads"}, "two stages are called 'heads'"),
        ({"name": "a/b"}, "stage 2 is called 'a/b'"),
        ({"optimizer": {"lr": 1}}, r"two.yaml, line \d+: stage whole: .*no section 'optimizer'"),
        ({"training": {"stepz": 1}}, r"two.yaml, line \d+: stage whole: .*no setting 'stepz'"),
        ({"training": 3}, r"line \d+: section training must hold settings"),
        ({"data": {"columns": {"label": "previous/none"}}}, "stage keeps no column 'none'. There are: group"),
        ({"data": {"columns": {"label": "whole/group"}}}, "'whole' is no earlier stage"),
        ({"keep": {"a": "sound"}}, "keep.a must be image, text, audio, video, {of"),
        ({"keep": {"a": "my_module:run"}}, "--trust my_module"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(staged, changes, message):
    with pytest.raises(UserError, match=message) as error:
        load(change(staged, **changes))
    assert "\n" not in str(error.value)


def test_previous_without_a_stage_before(staged, recipe):
    values = yaml.safe_load(staged.read_text())
    values["stages"].reverse()
    staged.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"stage whole: model.load: 'previous' .* this is the first stage"):
        load(staged)
    with pytest.raises(UserError, match="this recipe has no stages"):
        load(recipe, ["model.load=previous"])
    with pytest.raises(UserError, match="has no stages"):
        load(recipe, ["stages.whole.steps=1"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.third.steps=1"], "the stages are heads, whole"),
        (["stages=1"], "write stages.NAME.section.setting=value"),
        (["stages.whole.training.stepz=1"], "stage whole: .*no setting 'stepz'"),
    ],
)
def test_overrides_that_are_none(staged, overrides, message):
    with pytest.raises(UserError, match=message):
        load(staged, overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"steps": 6, "batch_size": 9999}}, "training.batch_size is 9999"),
        ({"data": {"validation": "nowhere"}}, "nowhere"),
        ({"model": {"load": "previous", "freeze": ["ears"]}}, "no part 'ears'"),
        ({"model": {"load": "previous", "lora": {"ears": {"rank": 2}}}}, "'ears'"),
        ({"evaluation": {"watch": ["answering"]}}, "answering cannot be measured on data.validation"),
    ],
)
def test_all_stages_are_checked_before_the_first_trains(staged, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(change(staged, **changes)).run(tmp_path / "run")
    assert not list((tmp_path / "run").glob("*/checkpoints"))


def test_on_two_processes(staged, tmp_path):
    """Both pass every boundary together, and a run of which the second stage is gone goes on with both."""
    first = ranks.run(on_ranks, 2, str(staged), str(tmp_path / "run"))
    assert first[0] == first[1]
    shutil.rmtree(tmp_path / "run" / "2-whole")
    assert ranks.run(on_ranks, 2, str(staged), str(tmp_path / "run")) == first


def test_the_shipped_recipe_runs(tmp_path):
    """Heads on frozen towers, then the image tower, too: the second stage trains what the first froze."""
    quick = {"data.limit": 32, "steps": 1, "batch_size": 8, "progress": False, "report": False, "workers": 0}
    small = {"evaluation.data": None, "data.validation": None, "stages.whole.training.chunk": 4}
    first, second = load("two-stages", quick | small).run(tmp_path)
    one, two = first.model, second.model
    assert one.frozen == ("image", "text")
    assert two.frozen == ("text",)
    assert not all(map(torch.equal, one.image.parameters(), two.image.parameters()))
    assert all(map(torch.equal, one.text.parameters(), two.text.parameters()))


def test_the_second_stage_goes_on_from_the_best(staged, tmp_path):
    """The best is said to be an early one, so that it is not the last."""
    values = yaml.safe_load(staged.read_text())
    values["stages"][0]["training"] = {"steps": 3, "eval_every": 1, "save_every": 1, "keep": 9}
    values["stages"][1]["model"]["load"] = "previous/best"
    values["stages"][1]["training"] = {"steps": 1, "lr": "1e-20"}
    values["data"]["validation"] = values["data"]["train"]
    staged.write_text(yaml.safe_dump(values))
    load(staged).run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "2-whole")
    shutil.rmtree(tmp_path / "run" / "1-heads" / "model-best")
    files.point(tmp_path / "run" / "1-heads" / "checkpoints" / "best", "step-00000001")
    first, second = load(staged).run(tmp_path / "run", resume=True)
    best = (first.folder / "checkpoints" / "best").resolve()
    saved = weights(best)
    assert best.name == "step-00000001"
    for name, value in second.model.state_dict().items():
        torch.testing.assert_close(value, saved[f"model.{name}"], atol=1e-19, rtol=0)  # a step of 1e-20
    assert torch.equal(first.best.state_dict()["text_projection.weight"], saved["model.text_projection.weight"])
    recipe = load(second.folder)
    assert recipe.model["load"] == str(first.folder / "model-best"), "the stage alone can be run again"

    values["data"]["validation"] = None
    staged.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"'heads' has no data\.validation to find the best by"):
        load(staged)


def test_the_validation_data_get_columns_too(staged, tmp_path):
    """Of another folder than the training data; a stage that is not validated itself keeps them for one that is."""
    values = yaml.safe_load(staged.read_text())
    train = Path(values["data"]["train"])
    other = tmp_path / "held out"
    other.mkdir()
    for path in sorted(train.glob("0[0-5].*")):
        shutil.copy(path, other)
    values["data"]["validation"] = None
    values["stages"][1]["data"] |= {"validation": str(other)}
    staged.write_text(yaml.safe_dump(values))
    load(staged).run(tmp_path / "run")
    built = load(tmp_path / "run" / "2-whole").build()
    labels = dict(zip(built.source.texts(), built.source.column("label"), strict=True))
    own = dict(zip(built.validated_on.texts(), built.validated_on.column("label"), strict=True))
    assert len(own) == 6
    assert own == {text: labels[text] for text in own}


def test_a_protocol_may_watch_a_column_that_an_earlier_stage_keeps(staged, photos, tmp_path):
    """`knn` needs labels, which the validation data get from the first stage: known before anything is trained."""
    for i, path in enumerate(sorted(photos.glob("*.png"))):
        if path.name != "07.png":  # the broken one
            with Image.open(path) as picture:
                picture.putpixel((i % 20, 3), (i, i, i))  # no two pictures are one thing
                picture.save(path)
    values = yaml.safe_load(staged.read_text())
    values["data"]["validation"] = values["data"]["train"]
    values["stages"][1]["evaluation"] = {"watch": ["knn"]}
    values["stages"][1]["training"] |= {"monitor": "val_knn/top1", "eval_every": 3}
    staged.write_text(yaml.safe_dump(values))
    _, second = load(staged).run(tmp_path / "run")
    rows = [json.loads(line) for line in (second.folder / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_knn/top1" in row] == [3, 6]
    assert (second.folder / "checkpoints" / "best").is_dir()

    values["stages"][1]["data"] = {"columns": {"other": "previous/group"}}
    staged.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"knn cannot be measured on data\.validation, as .* has no labels"):
        load(staged).run(tmp_path / "other")
    assert not (tmp_path / "other" / "1-heads").exists(), "said before the first stage"


def test_the_second_stage_goes_on_from_the_best_of_a_sharded_run(staged, tmp_path):
    """Two processes that split the model find the same best as one, and go on from the same weights."""
    values = yaml.safe_load(staged.read_text())
    values["data"]["validation"] = values["data"]["train"]
    values["training"] |= {"batch_size": 8, "chunk": 4}
    values["stages"][0]["training"] = {"steps": 3, "eval_every": 1, "save_every": 1, "keep": 9}
    values["stages"][1]["model"]["load"] = "previous/best"
    values["stages"][1]["training"] = {"steps": 1, "lr": "1e-20"}
    staged.write_text(yaml.safe_dump(values))
    (best, end, split), other = ranks.run(best_of, 2, str(staged), str(tmp_path / "run"), env=FSDP)
    assert [best, end, split] == other
    assert split == b"\x01"
    saved = weights((tmp_path / "run/1-heads/checkpoints/best").resolve())
    for name, value in safetensors.load(best).items():
        assert torch.equal(value, saved[f"model.{name}"]), name
    alone = best_of(str(staged), str(tmp_path / "alone"))
    for ours, theirs in zip((best, end), alone[:2], strict=True):
        tensors = safetensors.load(theirs)
        for name, value in safetensors.load(ours).items():
            torch.testing.assert_close(value, tensors[name], rtol=1e-3, atol=1e-4)
