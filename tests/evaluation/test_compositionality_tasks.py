"""Compositionality as a protocol: tasks from scenes, from any captions and from ARO's folder; probes; report; CLI."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.cli import main
from nearfar.data import Records, with_hard_captions
from nearfar.data.scenes import scenes
from nearfar.errors import UserError
from nearfar.evaluation import evaluate, load_results
from nearfar.evaluation.compositionality import compositionality, order_probe, scene_tasks
from nearfar.evaluation.compositionality.choice import ChoiceQuestion
from nearfar.evaluation.compositionality.probe import ShuffledPatches
from nearfar.evaluation.compositionality.scenes import training_captions
from nearfar.evaluation.report import write_report

SCENES = scenes("test", vocabulary="shapes", n=24, size=32)


class Knowing:
    """An encoder that knows the captions of each picture, word for word: pictures are told apart by their pixels.
    With `order=False` it knows their words only, as a set."""

    image_size = 32

    def __init__(self, source, *, order=True):
        self.order = order
        self.texts = {self._key(record["image"]): record["text"] for record in source}

    def preprocess(self, images):
        same = [image.convert("RGB").resize((32, 32)) for image in images]
        return torch.stack([torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in same])

    def encode_image(self, pixels, normalize=False):
        return torch.stack(
            [self._sum(self.texts.get(pixel.permute(1, 2, 0).numpy().tobytes(), ())) for pixel in pixels]
        )

    def tokenize(self, texts):
        return {"input_ids": torch.tensor([[self._number(text)] for text in texts])}

    def encode_text(self, tokens, normalize=False):
        return torch.stack([self._vector(int(number)) for number in tokens["input_ids"][:, 0]])

    def _sum(self, texts):
        return sum((self._vector(self._number(t)) for t in texts), torch.full((64,), 1e-3))

    def _number(self, text):
        said = text if self.order else " ".join(sorted(text.split()))
        return int.from_bytes(said.encode(), "big") % (2**61 - 1)

    def _vector(self, number):
        return torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(number)), dim=0)

    @staticmethod
    def _key(image):
        return np.asarray(image.convert("RGB")).tobytes()


@pytest.fixture(scope="module")
def knowing():
    return Knowing(SCENES)


def test_tasks_of_scenes():
    tasks = scene_tasks(SCENES)
    assert {name: len(cases) for name, cases in tasks.items()} == {"attribution": 48, "relation": 48, "order": 24}
    for case in tasks["relation"]:
        record = SCENES[case.row]
        assert case.captions[0] in record["text"]
        assert case.captions[1] in record["negative_text"]
        assert case.group == record["relation"]
    for case in tasks["attribution"]:
        colours = sorted(thing["colour"] for thing in SCENES[case.row]["objects"])
        assert case.group == " and ".join(colours)
    assert [len(case.captions) for case in tasks["order"]] == [5] * 24
    assert len(scene_tasks(SCENES, limit=3)["order"]) == 3


def test_a_model_that_knows_solves_all_and_blind_ones_do_not(knowing):
    result = evaluate(knowing, SCENES, ["compositionality"])["compositionality"]
    for task, chance in (("relation", 0.5), ("attribution", 0.5), ("order", 0.2)):
        assert result[f"{task}_micro"] == pytest.approx(
            np.mean([1 / case.captions.count(case.captions[0]) for case in scene_tasks(SCENES)[task]])
        )
        assert result.metrics[f"{task}_accuracy"].chance == pytest.approx(chance)
        assert result[f"{task}_blank_image"] < 0.8
    # The held-out pairs of nouns say nothing of which way round a relation holds.
    assert abs(result["relation_text_only"] - 0.5) < 0.2
    assert result["order_text_only"] > 0.6  # shuffled sentences are no English: that needs no picture
    assert set(result.by["relation"]) == {record["relation"] for record in SCENES}
    assert set(result.by["order"]) == {
        "nouns and adjectives",
        "all but nouns and adjectives",
        "within trigrams",
        "trigrams",
    }


def test_a_bag_of_words_is_at_chance_on_swaps():
    result = compositionality(Knowing(SCENES, order=False), scene_tasks(SCENES))
    assert result["attribution_tied"] > 0.4  # the others differ by an article
    assert result["relation_accuracy"] == pytest.approx(0.5, abs=0.1)


def test_hard_captions_make_tasks_of_any_captions(knowing):
    source = with_hard_captions(SCENES)
    tasks = scene_tasks(source)
    assert {"noun", "adjective", "noun_phrase", "order"} <= set(tasks)
    assert compositionality(knowing, {"noun": tasks["noun"]})["noun_accuracy"] > 0.95


def test_captions_are_needed(knowing):
    mute = Records([{"image": Image.new("RGB", (8, 8)), "text": []}], name="mute")
    with pytest.raises(UserError, match="mute has none"):
        scene_tasks(mute)
    with pytest.raises(ValueError, match="no task has a case"):
        compositionality(knowing, {"order": []})


def test_training_captions_are_those_of_the_other_pairs():
    texts = training_captions(SCENES, n=5)
    assert len(texts) == 20
    assert not set(texts) & set(SCENES.texts())
    assert training_captions(SCENES.first(3), n=5) == texts
    assert training_captions(Records([{"text": "a cat"}])) is None
    assert training_captions(iter([])) is None


def test_a_small_group_counts_where_all_are_small(knowing):
    cases = scene_tasks(SCENES)["attribution"]
    assert compositionality(knowing, {"attribution": cases}, fewest={"attribution": 1000})["attribution_accuracy"] > 0.9


def test_intervals_resample_whole_images(knowing):
    image = SCENES[0]["image"]
    wrong = [ChoiceQuestion(image, ("b", SCENES[0]["text"][0]), "g") for _ in range(50)]
    right = [ChoiceQuestion(SCENES[1]["image"], (SCENES[1]["text"][0], "b"), "g") for _ in range(50)]
    metric = compositionality(knowing, {"t": wrong + right}).metrics["t_accuracy"]
    assert metric.high - metric.low > 0.3  # two images, not a hundred cases


def test_the_probe_needs_no_order_where_the_model_has_none():
    with_order, without = Knowing(SCENES), Knowing(SCENES, order=False)
    for encoder, robust in ((with_order, False), (without, True)):
        parts = order_probe(encoder, SCENES, captions=1).by["perturbation"]
        plain, shuffled = (parts[name]["text_to_image_R@1"].value for name in ("none", "all words"))
        assert plain > 0.9
        assert shuffled > 0.9 if robust else shuffled < 0.5
        assert parts["patches of pictures"]["image_to_text_R@1"].value < 0.5


def test_pictures_that_do_not_divide_keep_their_size():
    class Recorder:
        def encode_image(self, pixels, normalize=False):
            return pixels

    pixels = torch.rand(2, 3, 32, 32) + 1
    shuffled = ShuffledPatches(Recorder(), (3, 3)).encode_image(pixels)
    assert shuffled.shape == pixels.shape
    assert (shuffled == 0).float().mean() == pytest.approx(1 - (30 / 32) ** 2)


@pytest.fixture
def aro(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in ("images/1.jpg", "2.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    box = {"image_path": "1.jpg", "bbox_x": 2, "bbox_y": 1, "bbox_w": 32, "bbox_h": 32}
    swapped = {"true_caption": "the dog is on the mat", "false_caption": "the mat is on the dog"}
    looks = {"true_caption": "the big dog and the red mat", "false_caption": "the red dog and the big mat"}
    rows = [{**box, **swapped, "relation_name": "on"}]
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps(rows))
    rows = [{**box, **looks, "attributes": ["big", "red"]}]
    (tmp_path / "visual_genome_attribution.json").write_text(json.dumps(rows))
    rows = [{"image": "2.jpg", "caption": ["a red dog sits on the old mat", "a dog on a mat near the door"]}]
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_folder_of_aro_from_the_command_line(aro, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nearfar.models.load", lambda name: Knowing([]), raising=False)
    out = tmp_path / "out.json"
    main(
        [
            "evaluate",
            "m",
            "--aro",
            str(aro),
            "--on",
            "world/scenes",
            "--protocols",
            "compositionality",
            "--json",
            str(out),
        ]
    )
    assert "relation accuracy" in capsys.readouterr().out
    result = load_results(out)["compositionality"]
    assert {"relation_accuracy", "attribution_accuracy", "coco_order_accuracy"} <= set(result.metrics)
    assert "flickr30k_order_accuracy" not in result.metrics
    failures = result.details["failures"]
    shown = write_report(tmp_path / "run", results={"compositionality": result}).read_text()
    assert "Wrong choices" in shown
    assert shown.count("data:image/webp") == sum(len(wrong_answers) for wrong_answers in failures.values()) > 0
    assert "coco order" in shown


def test_an_empty_folder_is_said(tmp_path, knowing):
    with pytest.raises(UserError, match=r"no annotation file of ARO there.*visual_genome_relation"):
        evaluate(knowing, SCENES, ["compositionality"], options={"compositionality": {"aro": tmp_path}})


def test_the_report_shows_scenes_that_were_chosen_wrongly(tmp_path):
    results = evaluate(Knowing([]), SCENES, ["compositionality"])
    failures = results["compositionality"].details["failures"]
    assert failures["relation"][0]["chosen"] != failures["relation"][0]["true"]
    text = write_report(tmp_path, results=results, source=SCENES).read_text()
    assert text.count("data:image/webp") == sum(len(wrong_answers) for wrong_answers in failures.values())
    assert "compositionality by relation" in text
