"""Every script in `benchmarks/` runs, in its smallest form, and writes what it promises. `ops.py` needs the libraries
that it is compared with: `tests/compare` runs it.

They run in this process, one after the other: most of a process of its own would be the import of torch.
"""

import importlib
import io
import json
import sys
from pathlib import Path

import pytest
import torch

from nearfar import losses
from nearfar.methods import METHODS

pytestmark = pytest.mark.timeout(900)  # processes of their own, on a machine that may be busy
SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def tiny_llama(vocabulary=64):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=None, bos_token_id=1, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_no_script_is_left_out():
    tests = "".join(path.read_text("utf-8") for path in SCRIPTS.parent.glob("tests/*/test_*scripts.py"))
    for path in SCRIPTS.glob("[!_]*.py"):
        assert f'"{path.stem}"' in tests or f'"{path.name}"' in tests, f"no test runs {path.name}"


@pytest.mark.parametrize("script", sorted(path.stem for path in SCRIPTS.glob("[!_]*.py")))
def test_help(script, run):
    """Also of `ops.py` where the libraries that it is compared with are missing: its own imports must not rot."""
    with pytest.raises(SystemExit) as ended:
        run(script, "--help")
    assert ended.value.code == 0


def test_soft_targets(run, tmp_path):
    out = tmp_path / "made" / "soft.json"
    output = run("soft_targets", "--batch", 8, "--queue", 32, "--dim", 8, "--rounds", 1, "--output", out)
    record = json.loads(out.read_text())
    assert {row["variant"] for row in record["rows"]} == {"nearfar", "plain, B x (B + Q) logits and targets"}
    assert record["largest_relative_difference_float64"] < 1e-10
    assert out.with_suffix(".md").read_text() in output


def test_the_record_of_many_views_is_twice_as_fast_in_a_tenth_of_the_memory():
    """At four views of 4,096 samples in 256 dimensions; of eight the memory is linear in views."""
    record = json.loads((SCRIPTS / "results" / "multi_view.json").read_text())
    assert (record["batch"], record["dim"]) == (4096, 256)
    rows = {(row["loss"], row["views"], row["variant"].startswith("nearfar")): row for row in record["rows"]}
    for loss in ("MV-InfoNCE", "MV-DHEL"):
        ours, plain = rows[loss, 4, True], rows[loss, 4, False]
        assert ours["cpu_ratio"] < 0.5
        assert ours["extra_bytes"] < plain["extra_bytes"] / 10
        assert rows[loss, 8, True]["extra_bytes"] < 2.2 * ours["extra_bytes"]


def test_multi_view(run, tmp_path):
    out = tmp_path / "made" / "views.json"
    flags = ("--views", 2, 3, "--batch", 32, "--dim", 8, "--rounds", 1, "--output", out)
    output = run("multi_view", *flags)
    result = json.loads(out.read_text())
    assert [(row["loss"], row["views"]) for row in result["rows"][::2]] == [
        (loss, views) for loss in ("MV-InfoNCE", "MV-DHEL") for views in (2, 3)
    ]
    assert result["largest_relative_difference_float64"] < 1e-10
    assert out.with_suffix(".md").read_text() in output


def test_global_contrast(run, tmp_path):
    out = tmp_path / "made" / "global.json"
    printed = run("global_contrast", "--batch", 32, "--dim", 8, "--rounds", 1, "--output", out)
    result = json.loads(out.read_text())
    assert [row["form"] for row in result["rows"]] == ["two modalities"] * 2 + ["two views of one"] * 2
    assert result["largest_relative_difference_float64"] < 1e-10
    assert out.with_suffix(".md").read_text() in printed


def test_image_baselines(run, tmp_path):
    """Untrained, and one recipe for two steps; a run joins the record, or takes the place of its like."""
    out = tmp_path / "made" / "baselines.json"
    small = ("--splits", "test", "--emojis", 20, "--output", out)
    short = ("--set", "training.steps=2", "training.batch_size=8", "training.warmup=0", "data.limit=40")
    run("image_baselines", "--seeds", 0, 1, "--recipes", "untrained", *small)
    for _ in range(2):
        output = run("image_baselines", "--seeds", 0, "--recipes", "supcon", *short, *small)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["recipe"], row["seed"], row["steps"]) for row in rows] == [
        ("untrained", 0, 0),
        ("untrained", 1, 0),
        ("supcon", 0, 2),
    ]
    assert all(0 <= row["test"][figure] <= 1 for row in rows for figure in ("knn", "nearest", "linear"))
    assert all(1 <= row["test"]["rank"] <= 128 for row in rows)
    assert out.with_suffix(".md").read_text() in output


def test_compare_objectives(monkeypatch, tmp_path, capsys):
    """Every row learns, on features drawn at random in the place of those that towers make."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("compare_objectives")
    features = torch.randn(5, 300, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(script.emoji_views, "drawings", lambda split: (features, torch.arange(300)))
    monkeypatch.setattr(script, "names", lambda split: features[0, :, :48] + 0.1 * features[1, :, :48])
    out = tmp_path / "made" / "objectives.json"
    small = ["compare_objectives.py", "--steps", "2", "--seeds", "0", "1", "--rates", "1e-3", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", small)
    script.main()
    rows = json.loads(out.read_text())["rows"]
    every = [(kind, name) for kind, some in script.KINDS.items() for name in [script.UNTRAINED, *some]]
    assert [(row["kind"], row["objective"]) for row in rows] == every
    assert all(len(row["test"]) == 2 and 0 <= row["test"][0]["R@1"] <= 1 for row in rows)
    assert all(row["chosen"]["lr"] == 1e-3 for row in rows if row["objective"] != script.UNTRAINED)
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*small, "--only", "BYOL"])
    script.main()
    assert [(row["kind"], row["objective"]) for row in json.loads(out.read_text())["rows"]] == every


def test_every_loss_and_method_is_compared_or_said_why_not(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("compare_objectives")
    shown = {name for rows in script.KINDS.values() for row in rows.values() for name in row.of}
    left_out = [name for names in script.LEFT_OUT for name in names]
    kinds = {name for name in losses.__all__ if name not in ("functional", "Temperature")}
    assert shown | set(left_out) == kinds | METHODS.keys(), "add a row of `KINDS`, or the reason why not"
    assert len(left_out) == len(set(left_out))
    assert not shown & set(left_out)


def test_a_head_learns_which_drawings_belong_together(monkeypatch):
    """Views that share half of their features: some steps bring the right one nearer."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("compare_objectives")
    g = torch.Generator().manual_seed(0)
    centre, noise = torch.randn(1, 300, 64, generator=g), 2 * torch.randn(5, 300, 64, generator=g)
    noise[:, :, :32] = 0.3 * noise[:, :, :32]
    monkeypatch.setattr(script.emoji_views, "drawings", lambda split: (centre + noise, torch.arange(300)))
    rows = {"before": None, "after": script.PICTURES["NT-Xent (SimCLR)"]}
    hits = {}
    for name, row in rows.items():
        heads, _ = script.trained("pictures", row, 0, 40, lr=1e-2, temperature=0.2)
        hits[name] = script.measured(heads, "pictures", "test")["R@1"]
    assert hits["after"] > hits["before"] + 0.1


def test_first_epoch(run, tmp_path):
    out = tmp_path / "made" / "epoch.json"
    output = run("first_epoch", "--count", 3, "--rounds", 1, "--output", out)
    report = json.loads(out.read_text())
    assert [row["loop"] for row in report["rows"] if "loop" in row] == [
        "plain loop of Pillow's",
        "nearfar, a folder",
        "nearfar, a tar",
        "nearfar, a later epoch",
    ]
    assert sum("part" in row for row in report["rows"]) == 5
    assert report["levels"] < 1.5, "a picture at half its size is as good for the view"
    assert out.with_suffix(".md").read_text() in output


def test_hard_negatives(run, tmp_path):
    out = tmp_path / "made" / "hard.json"
    output = run("hard_negatives", "--batch", 32, "--dim", 8, "--rounds", 1, "--output", out)
    assert {row["variant"] for row in json.loads(out.read_text())["rows"]} == {"nearfar", "plain, softmax of B x B"}
    assert out.with_suffix(".md").read_text() in output


def test_half_precision(run, tmp_path):
    out = tmp_path / "made" / "half.json"
    output = run("half_precision", "--n", 64, "--d", 16, "--scale", 10, "--rounds", 1, "--output", out)
    rows = {row["variant"]: row for row in json.loads(out.read_text())["rows"]}
    assert {"nearfar", "nearfar in float32", "dense autograd"} <= set(rows)
    assert rows["nearfar"]["error"] < 1e-4 < rows["dense autograd"]["error"]
    assert out.with_suffix(".md").read_text() in output


@pytest.mark.slow
def test_commands(run, tmp_path):
    out = tmp_path / "made" / "commands.json"
    output = run("commands", "--rounds", 1, "--output", out)
    record = json.loads(out.read_text())
    seconds, imports = record["cpu_s"], record["imports_s"]
    assert seconds["nearfar recipes"] < seconds["import torch"] < seconds["nearfar search"]
    assert seconds["nearfar search --index CARRYING"] < seconds["nearfar search"]
    assert "transformers" in imports["nearfar search"]
    assert not {"transformers", "sympy", "scipy"} & {*imports["nearfar search --index CARRYING"]}
    assert out.with_suffix(".md").read_text() in output


@pytest.mark.slow
def test_onnx_embedding(run, tmp_path):
    out = tmp_path / "made" / "embedding.json"
    output = run("onnx_embedding", "--rounds", 1, "--texts", 2, "--pictures", 2, "--output", out)
    rows = json.loads(out.read_text())["rows"]
    assert [row["what"] for row in rows] == ["1 text", "2 texts", "1 picture", "2 pictures"]
    assert all(row["difference"] < 1e-5 and len(row["cpu_ratio"]) == 1 for row in rows)
    assert out.with_suffix(".md").read_text() in output


def test_training_loop(run, tmp_path):
    out = tmp_path / "made" / "loop.json"
    small = ("--set", "training.batch_size=6", "training.chunk=3", "data.limit=12", "model.image_size=32")
    output = run("training_loop", "--steps", 2, "--rounds", 1, *small, "--output", out)
    report = json.loads(out.read_text())
    assert (report["batch"], report["chunk"], len(report["rows"])) == (6, 3, 3)
    assert out.with_suffix(".md").read_text() in output


def test_product_libraries(monkeypatch, tmp_path, capsys):
    """All of it, of fewer keys and a tower of one layer."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("product_libraries")
    monkeypatch.setattr(script, "KEYS", 4096)
    monkeypatch.setattr(script, "TOWER", script.TOWER | {"num_hidden_layers": 1})
    out = tmp_path / "made" / "products.json"
    small = ["--n", "64", "--d", "16", "--rounds", "1", "--pairs", "64", "--texts", "2", "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["product_libraries.py", *small])
    threads = torch.get_num_threads()
    script.main()
    torch.set_num_threads(threads)
    output = capsys.readouterr().out
    report = json.loads(out.read_text())
    rows = report["rows"]
    assert report["chosen"] in ("torch", "onednn")
    assert {row["run"] for row in report["losses"]} >= {"the product, torch.mm, float32"}
    assert {row["threads"] for row in rows} >= {1}
    assert {row["run"] for row in report["search"]} >= {"torch.mm at once", "numpy, blocks of 1,024"}
    errors = {row["product"]: row["error"] for row in rows}
    assert max(errors["torch.mm, float32"], errors["numpy, float32"]) < 1e-6 < 1e-4 < errors["torch.mm, bfloat16"]
    assert errors["nearfar, bfloat16 to float32"] == errors["torch.mm, bfloat16"]  # with zeros as centres
    assert all(row["error"] < 1e-5 for row in report["towers"])
    assert out.with_suffix(".md").read_text() in output


def test_views(run, tmp_path):
    out = tmp_path / "views.json"
    output = run("views", "--size", 32, "--batch", 4, "--rounds", 1, "--output", out)
    assert "times kornia's generic pipeline" in output
    assert all(rate > 0 for rate in json.loads(out.read_text())["images_per_cpu_second"].values())


def test_video_decoding(run, tmp_path):
    pytest.importorskip("av")
    out = tmp_path / "made" / "video.json"
    flags = ("--frames", 9, "--videos", 1, "--rounds", 1, "--output", out)
    output = run("video_decoding", *flags)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["videos"], row["kept"]) for row in rows] == [
        (kind, kept) for kind in ("H.264 in mp4", "VP9 in webm") for kept in ("8", "all")
    ]
    assert all(row["to_pyav"] > 0 for row in rows)
    assert out.with_suffix(".md").read_text() in output


@pytest.mark.slow  # `demo_probe` runs most of it
def test_demo_model(run, tmp_path):
    """Its first candidate and its last, on a few pictures, from the towers and again from the kept features."""
    pytest.importorskip("efficientnet_lite_pytorch")
    names = ["linear heads on both sides", "+ the name in half of the draws"]
    flags = ("--quick", "--cache", tmp_path / "features.pt", "--output", tmp_path / "out.json", "--only", *names)
    output = run("demo_model", *flags)
    assert [line.partition("  ")[0] for line in output.splitlines() if " seen " in line] == names
    assert not (tmp_path / "out.json").exists()  # a quick look is no record
    torch.load(tmp_path / "features.pt", weights_only=True)


def test_demo_probe(run, tmp_path):
    """Both models on a random split of few pictures."""
    pytest.importorskip("efficientnet_lite_pytorch")
    output = run("demo_probe", "--quick", "--output", tmp_path / "out.json")
    assert len(output.splitlines()) == 2
    assert not (tmp_path / "out.json").exists()


def test_decoding(tmp_path, monkeypatch, capsys):
    """All of it but the language models, in whose place stands a tiny one."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("decoding_script", SCRIPTS / "decoding.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "smollm", tiny_llama)
    monkeypatch.setattr(script, "random_model", tiny_llama)
    out = tmp_path / "made" / "decoding.json"
    monkeypatch.setattr(
        sys, "argv", ["decoding.py", "--rounds", "1", "--batch", "2", "--tokens", "4", "--output", str(out)]
    )
    script.main()
    assert "copying / ours, k=4" in capsys.readouterr().out
    rows = json.loads(out.read_text())["models"]["random, 30M"]
    assert [(row["prompt"], row["batch"]) for row in rows] == [(32, 2), (512, 2)]
    assert rows[0]["arms"]["greedy"]["cpu_to_greedy"] == [1.0]
    assert len(out.with_suffix(".md").read_text().splitlines()) == 4 + 2 * 2 * 4
    ids = torch.randint(3, 64, (1, 8), generator=torch.Generator().manual_seed(0))
    with pytest.raises(SystemExit, match="ours k=4 writes other tokens than float64: not timed"):
        script.check(tiny_llama(), {"ours k=4": lambda ids, steps: ids}, ids, 2)


def test_released_decoding(run, tmp_path, monkeypatch):
    """Our side of it answers as the parent asks; the other side needs a transformers of its own. And the table."""
    tiny_llama(49152).save_pretrained(tmp_path / "model")
    flags = ("--side", "ours", "--model", tmp_path / "model", "--old", "-", "--simctg", "-")
    requests = json.dumps(["ours", 6, 4]) + "\n" + json.dumps(["greedy", 6, 4]) + "\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(requests))
    arms, *answers = map(json.loads, run("released_decoding", *flags).splitlines())
    assert arms == ["greedy", "ours"]
    for (cpu, wall), tokens in answers:
        assert cpu > 0
        assert wall > 0
        assert len(tokens) == 4


@pytest.mark.slow
@pytest.mark.skipif(not (SCRIPTS.parent / ".git").exists(), reason="compares two commits of a checkout")
def test_revisions(run, tmp_path):
    out = tmp_path / "revisions.json"
    small = ["--turns", 1, "--rounds", 1, "--n", 64, "--d", 16, "--output", out]
    output = run("revisions", "HEAD", *small)
    record = json.loads(out.read_text())["losses"]
    assert record["commits"]["before"] == record["commits"]["after"]
    assert all(rounds["after"]["cpu"][0] > 0 for rounds in record["rounds"].values())
    assert out.with_suffix(".md").read_text() in output


def test_a_part_that_is_not_measured_again_stays(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    revisions = importlib.import_module("revisions")
    rounds = {name: {"cpu": [cpu, cpu], "wall": [2 * cpu, cpu]} for name, cpu in (("before", 4.0), ("after", 3.0))}
    part = {"commits": {"before": "aaa", "after": "bbb"}, "rounds": {"demo": rounds}}
    other = {"commits": {"before": "aaa", "after": "ccc"}, "rounds": {"NT-Xent": rounds}}
    _, _, first, second = revisions.table({"demo": part, "losses": other}).splitlines()
    assert first == "| NT-Xent | ccc / aaa | 0.750 | 0.750 to 0.750 | 0.750 |"
    assert second == "| `nearfar demo`, up to its adapting | bbb / aaa | 0.750 | 0.750 to 0.750 | 0.750 |"


def test_own_data(monkeypatch):
    from nearfar.data import Records, world

    monkeypatch.syspath_prepend(str(SCRIPTS))
    own_data = importlib.import_module("own_data")
    emoji = world.emoji("val", styles=["noto"], tags=False).first(60)
    source = Records([{"image": record["image"], "text": record["text"][0]} for record in emoji], name="a few emoji")
    row = own_data.measured(source, seed=0)
    assert row["pairs"] + row["held"] == 60
    assert 0 < row["chance"] < row["after"] <= 1
    assert "| a few emoji |" in own_data.table({source.name: [row]})


def test_costs_of_own_data_are_merged_into_what_was_recorded(monkeypatch, tmp_path):
    """`--only costs` runs the costs alone; the figures stay as they were."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    own_data = importlib.import_module("own_data")
    row = {"chance": 0.1, "before": 0.2, "ridge": 0.3, "after": 0.4, "cpu_s": 5.0, "chosen": "a map", "pairs": 80}
    record = {"seeds": 1, "cost": [{"pairs": 1, "cpu_s": 1.0, "wall_s": 1.0, "peak_GiB": 9.0}], "sets": {"mine": [row]}}
    output = tmp_path / "own_data.json"
    output.write_text(json.dumps(record))
    monkeypatch.setattr(
        own_data, "cost_of", lambda count: {"pairs": count, "cpu_s": 2.0, "wall_s": 3.0, "peak_GiB": count / 1000}
    )
    monkeypatch.setattr(own_data, "measured_sets", lambda *_: pytest.fail("the sets were measured again"))
    monkeypatch.setattr("sys.argv", ["own_data.py", "--only", "costs", "--cost", "700", "40", "--output", str(output)])
    own_data.main()
    now = json.loads(output.read_text())
    assert (now["seeds"], now["sets"]) == (1, {"mine": [row]})
    assert [each["pairs"] for each in now["cost"]] == [40, 700]
    page = output.with_suffix(".md").read_text()
    assert "| mine | 80 | 10.0 | 20.0 | 30.0 | 40.0 | a map | 5 |" in page
    assert "| 700 | 3 | 2 | 0.70 |" in page


def test_few_rows(run, tmp_path):
    pytest.importorskip("numba", reason="needs numba: pip install 'nearfar[decoding]'")
    before, out = torch.get_num_threads(), tmp_path / "few_rows.json"
    try:
        output = run("few_rows", "--rows", 3, "--layers", 1, "--threads", 1, "--rounds", 2, "--output", out)
    finally:
        torch.set_num_threads(before)
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["count"], row["threads"]) == (3, 1)
    assert row["cpu"]["one row, MKL"] == [1, 1]
    assert {"compiled loops", "MKL, x W^T"} < set(row["cpu"]) == set(row["clock"])
    assert out.with_suffix(".md").read_text() in output
