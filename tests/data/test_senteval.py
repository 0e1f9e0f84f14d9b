"""SentEval's transfer tasks as they are published: files of lines a class, files of labelled lines a split."""

import pytest

from nearfar.data import open_source
from nearfar.errors import UserError

HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def test_two_files_of_lines(tmp_path):
    """A blank line is left out and counted; MR has letters in Latin-1."""
    (tmp_path / "rt-polarity.pos").write_bytes("a touching film , très réussi .\r\n\nit works .".encode("latin-1"))
    (tmp_path / "rt-polarity.neg").write_text("too long .\n")
    source = open_source(tmp_path)
    assert source.classes == ["negative", "positive"]
    assert [(record["text"], record["label"]) for record in source] == [
        ("too long .", 0), ("a touching film , très réussi .", 1), ("it works .", 1)
    ]  # fmt: skip
    assert source.training() is None
    with pytest.raises(UserError, match="has no splits"):
        open_source(tmp_path, split="test")
    (tmp_path / "rt-polarity.neg").unlink()
    with pytest.raises(UserError, match=r"rt-polarity\.neg is missing"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("files", "test", "train", "classes"),
    [
        (
            {"sentiment-train": "fine\t1\n", "sentiment-dev": "so so\t0\n", "sentiment-test": 'a "good film\t1\n\n'},
            {"text": 'a "good film', "label": 1},
            {"text": "fine", "label": 1},
            ["0", "1"],
        ),
        (
            {"train_5500.label": "DESC:manner How did it go ?\n", "TREC_10.label": "NUM:dist How far is it ?\n"},
            {"text": "How far is it ?", "label": 5},
            {"text": "How did it go ?", "label": 1},
            ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"],
        ),
        (
            {
                "msr_paraphrase_train.txt": f'\ufeff{HEADER}\r\n1\t7\t8\tHe "ran.\tHe left.\r\n',
                "msr_paraphrase_test.txt": f"{HEADER}\n0\t1\t2\tA cat.\tA dog.\n",
            },
            {"text": "A cat.", "text2": "A dog.", "label": 0},
            {"text": 'He "ran.', "text2": "He left.", "label": 1},
            ["0", "1"],
        ),
    ],
    ids=["SST2", "TREC", "MRPC"],
)
def test_files_by_split(tmp_path, files, test, train, classes):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    source = open_source(tmp_path)
    assert source.classes == classes
    assert list(source) == [test]
    assert list(source.training()) == list(open_source(tmp_path, split="train")) == [train]
    assert open_source(tmp_path, split="train").training() is None, "a model is not measured on what it was fitted on"
    assert open_source(f"{tmp_path} + {tmp_path}", split="train")[1]["text"] == train["text"]
    with pytest.raises(UserError, match="there is no 'val'"):
        open_source(tmp_path, split="val")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sentiment-test", "good\t1\nbad\n"),
        ("sentiment-test", "good\t1\nbad\t4\n"),
        ("TREC_10.label", "NUM:dist How far ?\nWHO:x Who ?\n"),
        ("msr_paraphrase_test.txt", "Quality\ta\tb\tc\td\n1\t2\tone\n"),
    ],
)
def test_broken_lines_are_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: line 2 is no sentence with a label of"):
        open_source(tmp_path, split="test")
