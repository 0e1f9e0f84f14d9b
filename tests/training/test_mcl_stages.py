"""MCL as recipes: clusters of one stage make the next one's batches; killed at any moment, the same bits."""

import random
import shutil
import signal
import time

import pytest
import ranks
import torch
import yaml
from stage_work import run_recipe, three_on_ranks

import nearfar
from nearfar.data import ClusterOrder, Loader, Records, combine_codes
from nearfar.errors import UserError
from nearfar.evaluation import embed
from nearfar.methods import SimCLR
from nearfar.models import ConcatDualEncoder, ConcatImageEncoder, image_encoder
from nearfar.training import Stage, TrainConfig, run_stages
from nearfar.training.recipe import load
from nearfar.training.recipe.recipe_data import cluster_order

KEPT = "checkpoints/last/method.safetensors"
STAGES = ("1-zero", "2-one", "3-two")


@pytest.fixture
def staged(recipe):
    return in_stages(recipe)


@pytest.fixture(scope="module")
def whole(lasting_recipe):
    """A run from start to end: its folder, and its stages."""
    folder = lasting_recipe.with_name("run")
    return folder, load(in_stages(lasting_recipe)).run(folder)


def in_stages(recipe):
    """The recipe of squares in three stages: two of CLIP on pure batches after a plain one."""
    values = yaml.safe_load(recipe.read_text())
    model = values.pop("model")
    values["method"] = {"name": "clip"}
    values["training"] |= {"steps": 4, "batch_size": 4, "chunk": 2, "report": False, "progress": False, "eval_every": 2}
    values["evaluation"] = {}
    clusters = {"of": "image", "clusters": 2}
    within = {"columns": {"cluster": "previous/cluster"}, "clusters": "cluster", "small_clusters": "merge"}
    values["stages"] = [
        {"name": "zero", "model": model, "keep": {"cluster": clusters}},
        {
            "name": "one",
            "model": {"load": "previous", "append": "base"},
            "data": within,
            "training": {"seed": 1},
            "keep": {"cluster": clusters | {"within": "cluster"}},
        },
        {"name": "two", "model": {"load": "previous", "append": "scratch"}, "data": within, "training": {"seed": 2}},
    ]
    path = recipe.with_name("mcl.yaml")
    path.write_text("# Squares in three stages.\n" + yaml.safe_dump(values))
    return path


def test_validation_of_few_records_that_share_no_cluster_is_of_all_of_them(staged, capsys):
    values = yaml.safe_load(staged.read_text())
    values["model"] = values.pop("stages")[0]["model"]
    values["data"]["clusters"] = "cluster"
    staged.write_text(yaml.safe_dump(values))
    recipe = load(staged)
    few, more = (Records([{"cluster": n} for n in clusters], name="few") for clusters in ([3, 5, 8, 1], [3, 5, 3, 1]))
    assert cluster_order(recipe, few, training=False) is None
    assert "no two of the 4 records of few share a cluster: val_loss is of batches of all" in capsys.readouterr().out
    assert cluster_order(recipe, more, training=False).coverage(more, 4) == 0.5
    assert not capsys.readouterr().out


def test_the_stages_are_those_of_the_paper(whole):
    out, (zero, one, _) = whole
    model = nearfar.load(out)
    assert type(model) is ConcatDualEncoder
    assert model.embed_dim == 3 * 16
    parts = list(model.parts)
    for place, stage in enumerate((zero.model, *one.model.parts[1:])):
        assert all(torch.equal(v, parts[place].state_dict()[n]) for n, v in stage.state_dict().items()), "frozen since"
    started = zero.model.state_dict()
    assert any(not torch.equal(v, started[n]) for n, v in parts[1].state_dict().items())

    # Clusters are those of each stage's own model, in mixed radix.
    built = load(out / "3-two").build()
    source = built.source
    y = torch.tensor(source.column("cluster"))
    first = torch.tensor(load(out / "2-one").build().source.column("cluster"))
    assert torch.equal(y // 2, first)
    own = embed(parts[1], source, ["image"]).image
    whole = embed(one.model, source, ["image"]).image
    assert own.shape[1] == 16
    assert whole.shape[1] == 32
    for code in range(2):
        centre = own[y % 2 == code].mean(0)
        other = own[y % 2 != code].mean(0)
        distances = [(own - c).square().sum(1) for c in (centre, other)]
        assert ((distances[0] <= distances[1]) == (y % 2 == code)).all(), "k-means of the newest part's embeddings"
    assert combine_codes([first, y % 2], [2, 2]).tolist() == y.tolist()

    # Every batch is of one number.
    assert isinstance(built.loader.order, ClusterOrder)
    pure = load(out / "3-two", ["data.small_clusters=drop", "batch_size=2", "chunk=2"]).build().loader
    assert all(len(set(batch["cluster"].tolist())) == 1 for batch in pure)


def test_killed_at_any_moment(staged, whole, tmp_path):
    """SIGKILL in stages and between them: before, in, and after the clusters are written."""
    out, draw = tmp_path / "run", random.Random(7)
    for _ in range(4):
        process = ranks.server().Process(target=run_recipe, args=(staged, out))
        process.start()
        deadline = time.monotonic() + 100
        while not list(out.glob("*/checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.join(draw.uniform(0.2, 1.5))
        process.kill()  # SIGKILL, unless it has ended
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    load(out).run(out, resume=True)
    for stage in STAGES:
        assert (out / stage / KEPT).read_bytes() == (whole[0] / stage / KEPT).read_bytes()
    assert (out / "model/model.safetensors").read_bytes() == (whole[0] / "model/model.safetensors").read_bytes()


def test_stopped_before_the_clusters_are_written(staged, whole, tmp_path, monkeypatch):
    """The stage is trained, its columns are not there: they are computed on resume, and the rest is the same."""
    from nearfar.training.stages import columns

    class Stop(BaseException):
        """Stands for a kill."""

    def stop(*args, **options):
        raise Stop

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(columns, "write", stop)
        with pytest.raises(Stop):
            run_recipe(staged, out)
    assert not (out / "1-zero" / "columns.parquet").exists()
    run_recipe(staged, out)
    for name in ("1-zero/columns.parquet", "2-one/columns.parquet", f"3-two/{KEPT}"):
        assert (out / name).read_bytes() == (whole[0] / name).read_bytes()


def test_on_two_processes(staged, tmp_path):
    """Both take the same cluster at each step, and end with the same weights; they go on after the last stage is
    lost."""
    first = ranks.run(three_on_ranks, 2, str(staged), str(tmp_path / "run"))
    assert first[0] == first[1]
    assert first[0][1:] == [b"pure"]
    shutil.rmtree(tmp_path / "run" / "3-two")
    assert ranks.run(three_on_ranks, 2, str(staged), str(tmp_path / "run")) == first


def test_one_cluster_is_plain_training(staged, tmp_path):
    """K = 1 changes nothing but the order: a column of zeros gives whole shuffled epochs."""
    values = yaml.safe_load(staged.read_text())
    train = nearfar.data.open_source(values["data"]["train"], max_skipped=0.2)
    same = train.map(lambda record: {**record, "cluster": 0}, columns=[*train.columns, "cluster"])
    options = {"batch_size": 4, "image_size": 16, "max_skipped": 0.2, "views": "none", "seed": 5}
    loader = Loader(same, order=ClusterOrder(), **options)
    ids = [i for batch in loader for i in batch["index"].tolist()]
    assert len(loader) == len(train) // 4
    assert len(set(ids)) == len(ids) - 1, "the broken picture gives way to one that comes twice"


@pytest.mark.parametrize("name", ["mcl", "mcl-pairs"])
def test_the_shipped_recipes_run(name, tmp_path):
    small = {"data.limit": 32, "steps": 2, "batch_size": 8, "progress": False, "report": False, "workers": 0}
    small |= {"evaluation.data": None, "data.validation": None, "stages.stage-0.keep.cluster.clusters": 3}
    small |= {"stages.stage-0.model.preset": "tiny"}
    stages = load(name, small).run(tmp_path)
    kind = ConcatImageEncoder if name == "mcl" else ConcatDualEncoder
    models = [stage.model for stage in stages]
    assert [type(model) is kind for model in models] == [False, True, True]
    width = models[0].embed_dim
    assert [model.embed_dim for model in models] == [width, 2 * width, 3 * width]
    if name == "mcl-pairs":
        first, *others = models[2].parts
        frozen = first.text.state_dict()
        for part in others:
            assert part.frozen == ("image", "text")
            assert all(torch.equal(value, frozen[key]) for key, value in part.text.state_dict().items())
            assert not torch.equal(part.text_projection.weight, first.text_projection.weight)


def test_a_stage_that_trains_nothing(staged, whole, photos, tmp_path):
    """A pretrained model is stage 0 as it is: measured, saved and clustered."""
    values = yaml.safe_load(staged.read_text())
    values["stages"][0] |= {"model": {"load": str(whole[0] / "1-zero")}, "train": False}
    values["stages"][0]["evaluation"] = {"data": str(photos), "protocols": ["geometry"]}
    path = staged.with_name("base.yaml")
    path.write_text("# From a base.\n" + yaml.safe_dump(values))
    zero, *_ = load(path).run(tmp_path / "run")
    before = nearfar.load(whole[0] / "1-zero").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in zero.model.state_dict().items())
    assert "geometry" in zero.results
    # It is trained on the base's clusters, which are those of the run before.
    assert (zero.folder / "columns.parquet").is_file()
    assert load(tmp_path / "run").stages[0].train is False
    values["stages"][0]["train"] = 0
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="stage zero: train must be true or false, not 0"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"clusters": "cluster"}}, "data.clusters: the records of .* have no 'cluster': join it by"),
        ({"model": {"load": "previous", "append": "anew"}}, "append.* scratch, base"),
        ({"keep": {"c": {"of": "image", "clusters": 2, "part": "first"}}}, "part is 'first': choose newest or whole"),
        ({"keep": {"c": {"of": "image", "clusters": 2, "starts": 0}}}, "starts must be a whole number of at least 1"),
        ({"data": {"clusters": "c", "hard_images": 2}}, "data.clusters and data.hard_images both fill the batches"),
        ({"data": {"clusters": "c", "small_clusters": "keep"}}, "small_clusters must be one of drop, merge, partial"),
    ],
)
def test_what_does_not_fit_is_one_sentence(staged, changes, message, tmp_path):
    values = yaml.safe_load(staged.read_text())
    values["stages"][1] |= changes
    values["stages"] = values["stages"][:2]
    staged.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message) as error:
        load(staged).run(tmp_path / "run")
    assert "\n" not in str(error.value)


def test_append_without_a_model(recipe, tmp_path):
    with pytest.raises(UserError, match=r"model.append: there is no model to go on from"):
        load(recipe, ["model.append=base"]).run(tmp_path / "run")


def test_small_clusters_that_are_lost_are_counted(staged, tmp_path, capsys):
    load(staged, ["stages.one.data.small_clusters=drop", "stages.two.data.small_clusters=partial"]).run(tmp_path)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "batches of one cluster each hold" in line]
    built = load(tmp_path / "2-one").build()
    share = ClusterOrder().coverage(built.source, 4)
    assert share == 1.0 or f"hold {share:.0%} of the records" in lines[0]


def test_in_python(tmp_path):
    """Methods and data in hand: the second stage trains on the first one's clusters."""
    from PIL import Image

    from nearfar.models.concat_encoder import appended

    colours = ["red", "green", "blue", "white"]
    records = [{"image": Image.new("RGB", (32, 32), colours[i % 4]), "number": i} for i in range(32)]
    source = nearfar.data.Records(records, name="colours")
    small = {"hidden": 8, "out": 4}
    torch.manual_seed(0)
    config = {"batch_size": 4, "progress": False, "report": False}
    drawn = []

    def data(previous):
        joined = previous.join(source, {"cluster": "cluster"})
        drawn.append(joined.column("cluster"))
        return Loader(joined, order=ClusterOrder("cluster"), batch_size=4, image_size=32, views="simclr", n_views=2)

    zero = SimCLR(image_encoder("micro-resnet", projector=small))
    keep = {"cluster": {"of": "image", "clusters": 4, "starts": 3}}

    def run(method):
        second = Stage("one", method, data, config=TrainConfig(steps=3, **config))
        first = Stage("zero", zero, source, config=TrainConfig(steps=2, **config), keep=keep, train=False)
        return run_stages([first, second], tmp_path, resume=True)

    with pytest.raises(ZeroDivisionError):
        run(lambda p: 1 / 0)
    done = run(lambda p: SimCLR(appended(p.model, "scratch")))  # goes on: there is nothing of the first to restore
    assert len({tuple(drawn[0][i::4]) for i in range(4)}) == 4, "a cluster a colour"
    assert not list((tmp_path / "1-zero").glob("checkpoints/step-*"))
    assert done[1].model.embed_dim == 2 * zero.model.embed_dim


def test_the_paper_recipe_is_the_released_command():
    """README and defaults of the released code: CLIP ViT-L/14 from OpenAI as stage 0, three stages more, each from the
    same weights, 8 devices with 1,000 pairs, constant rate after 600 steps, the text tower locked, K = 10."""
    recipe = load("mcl-paper")
    zero, *later = recipe.stages
    assert zero.recipe.model == {"load": "openai/clip-vit-large-patch14"}
    assert zero.train is False
    assert len(later) == 3
    clusters = {"of": "image", "clusters": 10, "batch": 1_000_000}
    assert zero.keep == {"cluster": clusters}
    assert [stage.keep for stage in later] == [{"cluster": clusters | {"within": "cluster"}}] * 2 + [{}]
    for number, stage in enumerate(later, start=1):
        own, training = stage.recipe, stage.recipe.training
        assert own.method["name"] == "clip"
        assert own.model == {"load": "previous", "append": "base", "freeze": ["text", "text_projection"]}
        assert own.data.columns == {"cluster": "previous/cluster"}
        assert (own.data.clusters, own.data.small_clusters, own.data.cluster_order) == (
            "cluster",
            "drop",
            "round_robin",
        )
        assert (training.epochs, training.batch_size, training.seed) == (20, 8 * 1000, number)
        assert (training.optimizer, training.lr, training.betas, training.eps) == ("adamw", 5e-4, (0.9, 0.98), 1e-6)
        assert (training.weight_decay, training.schedule, training.warmup) == (0.2, "constant", 600)
        assert (training.clip_norm, training.precision) == (None, "fp16")
