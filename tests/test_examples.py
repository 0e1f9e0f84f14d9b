"""The scripts in `examples/` run, learn, stay short, and stand on the page of examples."""

import ast
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("no_drawings")
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def run(name, steps, tmp_path, monkeypatch):
    """What the script's top level holds after so many steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(steps)])
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


def test_infonce_learns(tmp_path, monkeypatch):
    output = run("infonce", 8, tmp_path, monkeypatch)
    losses = output["losses"]
    assert len(losses) == 8
    assert sum(losses[4:]) < sum(losses[:4]) < 4 * 1.5 * math.log(64)
    assert 0 <= output["accuracy"] <= 1


def test_three_views_learn_and_spread(tmp_path, monkeypatch):
    results = run("three_views", 12, tmp_path, monkeypatch)["results"]
    assert set(results) == {"PairwiseViews", "MVDHEL"}
    for losses, accuracy, rank in results.values():
        assert sum(losses[6:]) < sum(losses[:6])
        assert 0 <= accuracy <= 1
        assert 1 < rank <= 32


def test_pixel_contrast_knows_places_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pixel_contrast.py", "--steps", "60"])
    figures = runpy.run_path(str(ROOT / "examples" / "pixel_contrast.py"), run_name="example")["main"](60)
    assert figures["after"] > figures["before"] + 0.2


def test_common_and_salient_come_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["common_and_salient.py", "--steps", "150"])
    example = runpy.run_path(str(ROOT / "examples" / "common_and_salient.py"), run_name="example")
    apart, mixed = (example["main"](150, weight) for weight in (10.0, 0.0))
    assert apart["the target's own, from the salient space"] > 0.8
    assert apart["shared factors, from the salient space"] < 0.1
    leaks = "the target's own, from the common space"
    assert apart[leaks] < mixed[leaks] - 0.1


def test_gates_of_pairs_tell_what_classes_share(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pairs_of_classes.py"])
    example = runpy.run_path(str(ROOT / "examples" / "pairs_of_classes.py"), run_name="example")
    assert abs(example["main"](1)) < 0.3
    assert example["main"](200) > 0.5


def test_a_second_stage_learns_what_was_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(ROOT / "examples" / "what_was_left_out.py"), run_name="example")
    results = example["main"](steps=120)
    first, both = results["first stage"], results["both, side by side"]
    assert first["loud factor"] > 0.9
    assert first["quiet factor"] < 0.5
    assert results["second stage"]["loud factor"] < first["loud factor"], "a stage by itself forgets"
    assert both["loud factor"] > 0.9
    assert both["quiet factor"] > first["quiet factor"] + 0.2


def test_simclr_on_a_folder_learns_and_saves_its_backbone(tmp_path, monkeypatch):
    from PIL import Image

    import nearfar

    (tmp_path / "photos").mkdir()
    for i in range(12):
        picture = Image.new("RGB", (40, 40), (20 * i, 255 - 20 * i, 60))
        picture.paste((255, 255, 255), (3 * i, 5, 3 * i + 6, 30))
        picture.save(tmp_path / "photos" / f"bar on shade {i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["simclr_on_a_folder.py", "12", "photos/"])
    made = runpy.run_path(str(ROOT / "examples" / "simclr_on_a_folder.py"), run_name="__main__")
    assert sum(made["losses"][6:]) < sum(made["losses"][:6])
    assert 1 < made["rank"] <= 12
    assert nearfar.load(tmp_path / "simclr").embed_dim == 256


def test_rare_and_common_samples_get_temperatures_of_their_own(tmp_path, monkeypatch):
    left = run("rare_and_common", 40, tmp_path, monkeypatch)
    temperature, visits = left["criterion"].temperatures[0], left["criterion"].visits[0]
    assert visits.sum() == 40 * 32
    assert (temperature[visits == 0] == torch.tensor(0.2)).all()
    assert 0.05 <= temperature.min() < temperature.max() <= 1
    assert math.isfinite(left["correlation"])


def test_momentum_queue_fills_and_the_teacher_follows(tmp_path, monkeypatch):
    output = run("momentum_queue", 4, tmp_path, monkeypatch)
    assert len(output["losses"]) == 4
    assert len(output["queue"]) == 4 * 64
    student, teacher = output["student"][0][0].weight, output["teacher"].module[0][0].weight
    assert 0 < (student - teacher).abs().max() < 0.01  # four steps of at most about 0.001 each


def test_under_the_trainer_of_transformers(tmp_path, monkeypatch):
    output = run("under_trainer", 5, tmp_path, monkeypatch)
    assert output["trainer"].state.global_step == 5
    assert [math.isfinite(loss) for loss in output["losses"]] == [True]
    assert 0 <= output["retrieval"].metrics["text_to_image_R@1"].value <= 1


def test_in_a_lightning_module(tmp_path, monkeypatch):
    output = run("under_lightning", 8, tmp_path, monkeypatch)
    losses = output["module"].losses
    assert len(losses) == 8
    assert sum(losses[4:]) < sum(losses[:4])
    assert 1 / len(output["new"]) < output["accuracy"] <= 1


def test_two_stages_go_on_where_they_stopped(tmp_path, monkeypatch):
    # The stages' own reports are tested in tests/training/test_stages.py.
    monkeypatch.setattr("nearfar.training.loop.finish.save_report", lambda *_, **__: None)
    output = run("two_stages", 2, tmp_path, monkeypatch)
    assert [stage.folder.name for stage in output["finished"]] == ["1-clip", "2-siglip"]
    assert all(0 <= recall <= 1 for recall in output["recalls"])
    monkeypatch.setattr("nearfar.training.stages.run_stages.train", None)  # a finished stage is not run again
    assert run("two_stages", 2, tmp_path, monkeypatch)["recalls"] == output["recalls"]


def test_few_shot_on_pixels(tmp_path, monkeypatch):
    accuracies = run("few_shot", 12, tmp_path, monkeypatch)["accuracies"]
    assert {len(values) for values in accuracies.values()} == {12}
    assert all(sum(values) / 12 > 0.35 for values in accuracies.values())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_one_page_that_says_how_it_is_run(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 90
    assert f"    python examples/{path.name}" in ast.get_docstring(ast.parse(text), clean=False)
    assert f'--8<-- "examples/{path.name}"' in (ROOT / "docs" / "examples.md").read_text("utf-8")
