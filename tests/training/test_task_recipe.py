"""COCONUT as a recipe: tasks one after the other, killed at any moment the same bits; figures of all classes so far."""

import json
import signal
import time

import numpy as np
import pytest
import ranks
import torch
import yaml
from stage_work import run_recipe

import nearfar
from nearfar.errors import UserError
from nearfar.evaluation import load_results
from nearfar.training.recipe import load

soundfile = pytest.importorskip("soundfile", reason="needs soundfile: pip install 'nearfar[speech]'")
MODEL = {
    "make": "sound_transcriber",
    "width": 8,
    "layers": 1,
    "decoder_layers": 1,
    "heads": 2,
    "embed_dim": 4,
    "mels": 4,
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    for number, name in enumerate(("low", "middle", "high", "shrill")):
        (root / "clips" / name).mkdir(parents=True)
        for i in range(4):
            samples = 0.5 * np.sin(2 * np.pi * (200 * 2**number + i) * np.arange(1600) / 8000)
            soundfile.write(root / "clips" / name / f"{i}.wav", samples, 8000)
    training = {"steps": 3, "batch_size": 4, "report": False, "progress": False, "save_every": 1}
    values = {
        "data": {"train": f"sounds:{root / 'clips'}"},
        "method": {"name": "coconut"},
        "training": training,
        "evaluation": {"data": f"sounds:{root / 'clips'}", "protocols": ["transcription"]},
        "stages": [
            {"name": "one", "model": MODEL, "data": {"task": {"number": 1, "of": 2, "memory": 2, "quota": 1}}},
            {
                "name": "two",
                "model": {"load": "previous"},
                "data": {"task": {"number": 2, "of": 2, "memory": 2, "quota": 1}},
            },
        ],
    }
    path = root / "tasks.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    load(recipe).run(out)
    return out


def test_each_task_is_measured_on_all_classes_so_far(whole):
    first, second = (load_results(whole / name / "results.json")["transcription"] for name in ("1-one", "2-two"))
    assert first.metrics["top1"].n == 8
    assert second.metrics["top1"].n == 16
    assert list(first.by["task"]) == ["1"]
    assert list(second.by["task"]) == ["1", "2"]
    assert len(second.by["class"]) == 4


def test_the_model_knows_the_words_and_classes_of_all_tasks(whole):
    first, last = nearfar.load(whole / "1-one" / "model"), nearfar.load(whole)
    assert first.classes == last.classes == 4
    assert first.tokenizer.get_vocab() == last.tokenizer.get_vocab()
    assert first.words == last.words


def test_the_second_task_has_its_memory(recipe, whole):
    built = load(whole / "2-two").build()
    assert (built.source.new, built.source.kept) == (8, 2)
    assert all(batch["is_memory"].tolist() == [0, 0, 0, 1] for batch in built.loader)
    assert built.method.teacher is not None


HERDING = [f"stages.{name}.data.task.selection=herding" for name in ("one", "two")]


@pytest.fixture(scope="module")
def herded_run(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("herded") / "run"
    load(recipe, HERDING).run(out)
    return out


def test_by_herding_the_memory_holds_what_is_nearest_to_the_means_of_the_first_tasks_own_model(recipe, herded_run):
    built = load(herded_run / "2-two").build()
    model, whole = nearfar.load(herded_run / "1-one" / "model"), built.source.source
    with torch.no_grad():
        states, mask = model.eval().encode(model.preprocess_audio([record["audio"] for record in whole]))
    pooled = torch.nn.functional.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
    label = torch.tensor(whole.column("label"))
    expected = []
    for each in (0, 1):
        own = (label == each).nonzero()[:, 0]
        expected.append(int(own[(pooled[own] - pooled[own].mean(0)).norm(dim=1).argmin()]))
    kept = [built.source[row]["index"] for row in range(built.source.new, len(built.source))]
    assert kept == expected
    assert all(batch["is_memory"].tolist() == [0, 0, 0, 1] for batch in built.loader)
    assert not (herded_run / "2-two" / "memory.json").exists(), "nothing comes after it"


def test_by_herding_a_task_needs_the_memory_of_the_one_before(recipe, herded_run, tmp_path):
    for change, message in (
        ("memory=3", "is of memory 2, and here it must be 3"),
        (f"kept={tmp_path}", "memory.json holds no memory: train the task before"),
        ("kept=null", "goes on with the memory of the task before: name its run folder"),
    ):
        with pytest.raises(UserError, match=message):
            load(herded_run / "2-two", [f"data.task.{change}"]).build()


def test_killed_at_any_moment(recipe, whole, tmp_path):
    out = tmp_path / "run"
    for name in ("1-one", "2-two"):
        process = ranks.server().Process(target=run_recipe, args=(recipe, out))
        process.start()
        deadline = time.monotonic() + 100
        while not list(out.glob(f"{name}/checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    run_recipe(recipe, out)
    for name in ("1-one", "2-two"):
        kept = f"{name}/checkpoints/last/method.safetensors"
        assert (out / kept).read_bytes() == (whole / kept).read_bytes()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("{number: 3, of: 2}", "task 3 of 2"),
        ("{of: 2}", "says no number"),
        ("{number: 1, of: 2, memories: 3}", "no setting 'memories'.*Did you mean 'memory'"),
        ("{number: 1, of: 9}", "9 tasks of 4 classes"),
    ],
)
def test_what_is_refused(recipe, task, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(recipe, [f"stages.one.data.task={task}"]).run(tmp_path / "run")


def test_recipes_that_come_with_nearfar():
    for name, tasks in (("coconut", 3), ("coconut-paper", 6)):
        stages = load(name).stages
        assert [stage.recipe.data.task["number"] for stage in stages] == list(range(1, tasks + 1))
        assert len({json.dumps({**stage.recipe.data.task, "number": 0}) for stage in stages}) == 1
        assert [stage.recipe.method["lambda_nspt"] for stage in stages] == [0.0] + [1.0] * (tasks - 1)
        assert [stage.recipe.model.get("load") for stage in stages] == [None] + ["previous"] * (tasks - 1)
