import json
import re
from html.parser import HTMLParser

import pytest
import torch

from nearfar.data.sources.source import Records
from nearfar.evaluation import Embeddings, embed, evaluate, save_results
from nearfar.evaluation.report import write_report
from nearfar.evaluation.report.figures import curves
from nearfar.evaluation.report.space import pairs_and_strangers, principal_axes

HISTORY = [
    *({"step": i, "epoch": 0, "loss": 3.0 / i, "lr": 0.1, "samples_per_second": 100.0 + i} for i in range(1, 30)),
    {"step": 30, "val_loss": 0.2, "val_R@1": 0.5},
    {"step": 40, "val_loss": 0.1, "val_R@1": 0.6},
]
VOID = {"meta", "img", "br", "link", "path", "use", "rect", "circle", "line", "hr"}


class Outline(HTMLParser):
    """Checks that every tag is closed, and notes what the page refers to and how it is built."""

    def __init__(self, text):
        super().__init__()
        self.open, self.refers, self.headings, self.images, self.ids = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.refers += [attributes[k] for k in ("src", "href", "xlink:href") if k in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.images += [attributes] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def document(make_encoder, colours, tmp_path_factory):
    path = write_report(
        tmp_path_factory.mktemp("report") / "run",
        encoder=make_encoder(),
        source=colours,
        history=HISTORY,
        config={"training": {"lr": 0.1}},
        skipped=["row 7: no caption"],
        title="Colours <&> names",
    )
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_all_sections_are_there_and_every_tag_is_closed(document):
    assert Outline(document).headings == [
        "Training",
        "Results",
        "By part",
        "Retrieval gallery",
        "Embedding map",
        "Geometry",
        "The model",
        "Configuration",
        "Skipped records",
    ]


def test_nothing_is_fetched_from_outside(document):
    refers = Outline(document).refers
    assert refers
    assert all(target.startswith(("#", "data:image/")) for target in refers)
    assert "@import" not in document
    assert not re.search(r"url\((?!#)", document)
    assert "<script" not in document


def test_images_have_words_and_tables_have_captions_and_scopes(document):
    outline = Outline(document)
    assert all(image["alt"] for image in outline.images)
    assert any(image["alt"].startswith("right: ") for image in outline.images)
    assert len(re.findall("<table>", document)) == len(re.findall(r"<table><caption>[^<]", document)) >= 4
    assert document.count('scope="row"') > 10
    assert document.count('role="img"') == document.count("<svg")


def test_figures_follow_light_and_dark(document):
    assert "prefers-color-scheme: dark" in document
    assert "var(--ink)" in document
    assert not re.search(r"#010203|#040506|#070809", document)


def test_ids_are_unique_where_they_are_referred_to(document):
    outline = Outline(document)
    for target in {target for target in outline.refers if target.startswith("#")}:
        assert target[1:] in outline.ids
    headings = [name for name in outline.ids if name in ("training", "results", "geometry")]
    assert len(headings) == 3


def test_figures_shown_are_those_measured(encoder, colours, tmp_path):
    results = evaluate(encoder, colours, ("retrieval",))
    text = write_report(tmp_path, results=results).read_text(encoding="utf-8")
    metric = results["retrieval"].metrics["text_to_image_MRR"]
    assert f"<b>{metric.show(metric.value)}</b>" in text
    assert f"{metric.show(metric.low)} to {metric.show(metric.high)}" in text
    assert "retrieval text to image by domain" in text


def test_words_of_the_data_cannot_become_markup(encoder, colours, tmp_path):
    evil = '<script>alert("x")</script>'
    records = [{**record, "text": [f"{record['name']} {evil}"], "name": evil} for record in colours]
    source = Records(records, name=evil, classes=[evil, *"abcde"], domains=[evil, "b"])
    text = write_report(tmp_path, encoder=encoder, source=source, config=evil, skipped=[evil], title=evil).read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 5


def test_an_empty_folder_and_a_run_folder_alone(tmp_path):
    assert Outline(write_report(tmp_path / "new").read_text()).headings == []
    run = tmp_path / "run"
    run.mkdir()
    (run / "history.jsonl").write_text("\n".join(map(json.dumps, HISTORY)) + '\n{"step": 41, "lo')
    (run / "config.yaml").write_text("method: align\n")
    (run / "skipped.txt").write_text("1 skipped:\n  broken.png: the file is empty\n")
    eye = Embeddings(torch.eye(9), torch.eye(9), torch.arange(9))
    save_results(evaluate(None, eye, ("retrieval",)), run / "results.json")
    text = write_report(run).read_text()
    assert Outline(text).headings == ["Training", "Results", "Configuration", "Skipped records"]
    assert "1 could not be used" in text
    assert "<li>broken.png: the file is empty</li>" in text


def test_embeddings_in_place_of_an_encoder(encoder, colours, tmp_path):
    data = embed(encoder, colours)
    encoder.encode_image = None
    outline = Outline(write_report(tmp_path, embeddings=data, source=colours).read_text())
    assert "Retrieval gallery" in outline.headings
    assert "Embedding map" in outline.headings


def test_failures_are_shown_with_the_right_image_and_its_rank(tmp_path):
    from PIL import Image

    n = 30
    image = torch.nn.functional.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    source = Records([{"image": Image.new("RGB", (8, 8), (i, 0, 0)), "text": f"number {i}"} for i in range(n)])
    data = Embeddings(image, -image, torch.arange(n), names=[f"n{i}" for i in range(n)], captions=source.texts())
    text = write_report(tmp_path, embeddings=data, source=source).read_text()
    assert "Found at once" not in text
    assert "✗ rank 30" in text
    assert "right one, missed: n" in text


def test_curves_pair_training_and_validation_and_leave_out_constants():
    drawn = curves(HISTORY)
    legends = [list(legend) for _, legend in drawn]
    assert legends[0] == ["training, at the end 0.1034", "validation, at the end 0.1"]
    assert ["validation, at the end 0.6"] in legends
    assert len(drawn) == 3  # lr is constant, epoch counts
    assert curves([]) == curves(HISTORY[:1]) == []


def test_curves_survive_nan():
    assert len(curves([{"step": i, "loss": float("nan") if i == 2 else i} for i in range(5)])) == 1


def test_pairs_are_nearer_than_strangers(encoder, colours):
    cosines = pairs_and_strangers(embed(encoder, colours))
    assert cosines["its own image"].min() > cosines["another image"].mean()
    assert len(cosines["its own image"]) == 24


def test_principal_axes_keep_the_variance():
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 4, 1, 1, 1])
    points = principal_axes(x)
    values = torch.linalg.eigvalsh(torch.cov(x.double().T)).flip(0)[:2]
    torch.testing.assert_close(torch.tensor(points.var(axis=0, ddof=1)), values)
