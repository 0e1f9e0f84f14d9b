"""What data say of themselves before they are read."""

import pytest
from PIL import Image

from nearfar.data import Records, open_source
from nearfar.data.sources.skipped import Skipped
from nearfar.errors import UserError
from nearfar.evaluation.needs import missing_in_source


@pytest.fixture
def table(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    path = tmp_path / "stock.csv"
    path.write_text("image,beschreibung,preis\na.png,ein rotes Feld,3\na.png,Feld in Rot,4\n")
    return path


def test_a_table_without_a_usual_caption_column_says_so_and_names_its_columns(table):
    remark = open_source(table).remark
    assert "pictures alone are read" in remark
    assert "beschreibung, preis" in remark
    assert "text=COLUMN" in remark
    assert open_source(table, text="beschreibung").remark is None
    assert open_source(table, captions="none").remark is None


def test_classes_are_texts_and_need_no_remark(table):
    table.write_text("image,label,preis\na.png,red,3\na.png,red,4\n")
    assert open_source(table).remark is None


def test_the_command_line_says_it(table, tmp_path, capsys, monkeypatch):
    from nearfar.console import with_remark

    source = open_source(table)
    assert with_remark(source) is source
    assert "pictures alone are read" in capsys.readouterr().err


def test_a_streamed_dict_of_splits_says_which_one_it_reads():
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    for splits in (DatasetDict, IterableDatasetDict):
        each = rows if splits is DatasetDict else rows.to_iterable_dataset()
        data = splits({"train": each, "test": each})
        assert "its split 'train' is read, and not test" in open_source(data).remark
        assert open_source(data, split="test").remark is None


def test_one_reason_is_listed_once():
    skipped = Skipped()
    for number in range(7):
        skipped.add(f"{number}.png", f"{number}.png: the file is empty")
    skipped.add("x.png", "no such file")
    with pytest.raises(UserError) as error:
        skipped.check(8, limit=0.05, name="photos")
    said = str(error.value)
    assert said.count("the file is empty") == 1
    assert "(and 6 more alike)" in said
    assert "no such file" in said


def test_probes_of_labelled_texts_point_to_the_probe_of_texts():
    texts = Records([{"text": "good", "label": 1}], name="reviews")
    for protocol in ("knn", "linear_probe"):
        assert "sentence_probe" in missing_in_source(protocol, texts)
    unlabelled = Records([{"text": "good"}], name="reviews")
    assert "sentence_probe" not in missing_in_source("knn", unlabelled)
