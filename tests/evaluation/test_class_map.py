"""How classes are related, drawn: their order, what stands in the report, files that hold something else."""

import json

import numpy as np
import pytest

from nearfar.evaluation.report import write_report
from nearfar.evaluation.report.blocks import Figures, Note, Table
from nearfar.evaluation.report.class_map import class_map, nearest, side_by_side

RELATION = [[1.0, -0.2, 0.9, 0.0], [-0.2, 1.0, 0.1, 0.8], [0.9, 0.1, 1.0, 0.3], [0.0, 0.8, 0.3, 1.0]]
DATA = {
    "names": ["dog", "car", "cat & <kitten>", "bus"],
    "relation": RELATION,
    "activation": [[8.0] * 4] * 4,
    "statistics": {"activation": 8.0, "entropy": 0.25, "closed": 0.4, "open": 0.35},
    "dim": 16,
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "class_relations.json"
    path.write_text(json.dumps(DATA))
    return path


def test_neighbours_stand_side_by_side():
    assert side_by_side(np.array(RELATION)) == [0, 2, 3, 1]


def test_the_nearest_classes_come_first():
    assert nearest(DATA["names"], np.array(RELATION))[:2] == [("dog", "cat & <kitten>", 0.9), ("car", "bus", 0.8)]


def test_two_maps_a_table_and_what_the_gates_are(file):
    note, figures, table = class_map(file)
    assert isinstance(note, Note)
    assert "Of 16 dimensions a pair has 8.0 open; 40% of the gates are closed (below 0.1), 35% open" in note.text
    assert isinstance(figures, Figures)
    relation, activation = (str(figure.svg) for figure in figures.figures)
    assert 'aria-label="Relation of 4 classes; the nearest are dog and cat &amp; &lt;kitten&gt;"' in relation
    assert 'aria-label="How many of 16 dimensions are open to each pair of 4 classes"' in activation
    for name in ("dog", "car", "bus", "cat &amp; &lt;kitten&gt;"):
        assert relation.count(f">{name}<") == 2, name
    assert isinstance(table, Table)
    assert table.rows[0].name == "dog, cat & <kitten>"
    assert table.rows[0].cells[0].text == "0.900"
    assert len(table.rows) == 6


@pytest.mark.parametrize(("entropy", "undecided"), [(0.25, False), (0.59, False), (0.68, True)])
def test_gates_that_have_hardly_moved_are_named(file, entropy, undecided):
    file.write_text(json.dumps(DATA | {"statistics": DATA["statistics"] | {"entropy": entropy}}))
    assert ("They are still undecided" in class_map(file)[0].text) == undecided


def test_a_report_shows_it_where_the_folder_has_one(file, tmp_path):
    assert "Class relations" in write_report(tmp_path, results={}).read_text()
    file.unlink()
    assert "Class relations" not in write_report(tmp_path, results={}).read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["dog"]},
        {"relation": [[1.0]]},
        {"relation": [[float("nan")] * 4] * 4},
        {"activation": 3},
        {"statistics": {}},
        {"dim": None},
    ],
)
def test_a_file_that_holds_something_else_shows_nothing(file, change):
    file.write_text(json.dumps(DATA | change))
    assert class_map(file) == []
    file.write_text("no JSON")
    assert class_map(file) == []
