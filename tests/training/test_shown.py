"""Every run's report has pictures, and says whose they are."""

import re
from types import SimpleNamespace

import pytest
from PIL import Image

import nearfar
from nearfar import cli
from nearfar.data.sources.source import Records, Stream
from nearfar.training.loop import finish
from nearfar.training.recipe import load

TRAINED_ON = "training data, which the model has seen"
SECTIONS = ("Results", "Retrieval gallery", "Embedding map", "Geometry")
QUICK = ["steps=2", "evaluation.data=null", "evaluation.watch=[]"]


def sections(report):
    """The text of each section by its heading."""
    return dict(re.findall(r"<section[^>]*>\s*<h2[^>]*>(.*?)</h2>(.*?)</section>", report, re.DOTALL))


def test_without_evaluation_the_report_shows_training_data_and_says_so(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["train", str(recipe), *QUICK, "data.validation=null", "--out", "run"])
    report = (tmp_path / "run" / "report.html").read_text()
    assert f"Measured on {TRAINED_ON} (" in report
    assert "23 images" in report, "all but the broken one"
    contents = sections(report)
    assert [name for name in SECTIONS if f"On {TRAINED_ON}." not in contents[name]] == []
    assert TRAINED_ON not in contents["Training"] + contents["Configuration"]
    # What was seen in training is no evaluation.
    assert not (tmp_path / "run" / "results.json").exists()
    assert "R@1" not in capsys.readouterr().out


def test_validation_data_come_before_training_data(recipe, tmp_path):
    run = load(recipe, QUICK).run(tmp_path / "run")
    assert run.results == {}
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Measured on the validation data (" in report
    assert [name for name in SECTIONS if "On the validation data." not in sections(report)[name]] == []
    assert TRAINED_ON not in report


def test_the_evaluation_is_shown_without_such_a_line(recipe, tmp_path):
    load(recipe, ["steps=1", "evaluation.watch=[]"]).run(tmp_path / "run")
    report = (tmp_path / "run" / "report.html").read_text()
    assert set(SECTIONS) <= set(sections(report))
    assert "Measured on photos" in report
    assert "the validation data" not in report
    assert TRAINED_ON not in report


def test_results_of_other_data_are_not_shown_as_those_of_training(recipe, tmp_path):
    """A folder's `results.json` stems from another evaluation."""
    load(recipe, ["steps=1", "evaluation.watch=[]"]).run(tmp_path / "first")
    (tmp_path / "run").mkdir()
    (tmp_path / "first" / "results.json").rename(tmp_path / "run" / "results.json")
    load(recipe, [*QUICK, "data.validation=null", "evaluation.captions=0"]).run(tmp_path / "run")
    contents = sections((tmp_path / "run" / "report.html").read_text())
    assert "Results" not in contents, "without captions there is no retrieval"
    assert "Geometry" in contents


@pytest.mark.parametrize("part", ["embed", "evaluate"])
def test_a_finished_run_does_not_fail_over_its_report(recipe, tmp_path, capsys, monkeypatch, part):
    def fail(*_, **__):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(f"nearfar.evaluation.{part}", fail)
    load(recipe, [*QUICK, "data.validation=null"]).run(tmp_path / "run")
    assert "the report shows no pictures: RuntimeError: no memory left" in capsys.readouterr().out
    assert "Training" in sections((tmp_path / "run" / "report.html").read_text())


class Encoder:
    """Counts the pictures that it sees."""

    image_size = 8

    def __init__(self):
        self.count = 0

    def preprocess(self, images):
        import torch

        return torch.stack([torch.tensor(list(image.resize((2, 2)).getdata())).float() for image in images])

    def encode_image(self, pixels, normalize=False):
        self.count += len(pixels)
        return pixels.flatten(1)[:, :3] + 1

    def tokenize(self, texts):
        import torch

        return {"input_ids": torch.tensor([[len(text), ord(text[-1]), 1] for text in texts])}

    def encode_text(self, tokens, normalize=False):
        return tokens["input_ids"].float()


def pictures(count):
    return Records(
        [{"image": Image.new("RGB", (8, 8), (i % 256, 9, 9)), "text": f"number {i}"} for i in range(count)],
        name="numbers",
    )


class Shard(Stream):
    """The same pictures, to be read in order only."""

    name = "shard"

    def __init__(self, count):
        self.records = pictures(count)

    def read(self, part, skip=0):
        for row in range(skip, len(self.records)):
            yield self.records[row]


def test_no_more_of_the_training_data_than_a_sample_is_embedded():
    many, encoder = pictures(finish.SAMPLE + 300), Encoder()
    contents = finish.report_contents(encoder, None, many, seed=3)
    assert encoder.count == finish.SAMPLE == len(contents["embeddings"])
    assert contents["source"].name == "500 of the 800 records of numbers"
    assert max(contents["embeddings"].index) > finish.SAMPLE, "drawn, not the first"
    again, other = (finish.report_contents(Encoder(), None, many, seed=seed)["embeddings"] for seed in (3, 4))
    assert again.captions == contents["embeddings"].captions
    assert other.captions != again.captions
    # Validation data were all read before, so that they may be read once more.
    assert len(finish.report_contents(Encoder(), many, many)["embeddings"]) == len(many)


def test_a_stream_is_read_no_further_than_a_sample():
    for data, about in (((None, Shard(900)), TRAINED_ON), ((Shard(900), None), "the validation data")):
        contents = finish.report_contents(Encoder(), *data)
        assert contents["about"] == about
        assert contents["source"].name == "the first 500 records of shard"
        assert contents["embeddings"].captions[-1] == "number 499"


def test_what_cannot_be_shown_is_left_out():
    texts = Records([{"text": "a line of prose"}], name="prose")
    assert finish.report_contents(Encoder(), None, texts) == {}
    assert finish.report_contents(Encoder(), lambda method: {}, [{"index": 0}]) == {}, (
        "a function, and batches of one's own"
    )
    assert finish.report_contents(SimpleNamespace(encode_image=len), None, pictures(3)) == {}, (
        "a model that prepares no pictures"
    )
    assert finish.report_contents(None, None, pictures(3)) == {}, "a split model"


def test_a_loader_is_known_by_its_source(recipe, tmp_path):
    method = load(recipe).build().method
    loader = nearfar.data.Loader(pictures(16), batch_size=8, image_size=16, tokenizer=method.model.tokenizer)
    nearfar.train(method, loader, steps=1, out=tmp_path / "run", progress=False)
    assert f"Measured on {TRAINED_ON} (numbers): 16 images" in (tmp_path / "run" / "report.html").read_text()
