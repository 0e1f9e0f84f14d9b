"""Questions with answers: from records, tables and VQA's files to batches."""

import json

import pytest
import torch
from PIL import Image

from nearfar.data import Loader, Records, open_source, train_tokenizer, vqa
from nearfar.data.batches.batch import rows
from nearfar.data.fields.answers import answer_counts, answer_shares
from nearfar.data.sources.skipped import BadRecord
from nearfar.errors import UserError

TOKENIZER = train_tokenizer(["what is it", "a cat", "a dog", "yes no"], 300)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(path=None):
    image = Image.new("RGB", (8, 8), "red")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return image


def question(answers):
    return Records([{"image": picture(), "text": "what is it", "answers": each} for each in answers])


def test_shares_are_the_annotators_frequencies():
    ten = ["cat"] * 6 + ["dog"] * 3 + [" cat "]
    assert answer_shares(ten) == pytest.approx({"cat": 0.7, "dog": 0.3})
    assert answer_shares({"cat": 7, "dog": 3, "cow": None}) == pytest.approx({"cat": 0.7, "dog": 0.3})
    assert answer_shares([{"answer": "cat"}, {"answer": ""}]) == {"cat": 1.0}
    assert answer_counts([3, 3, None]) == {"3": 2}
    with pytest.raises(BadRecord, match="text to count: 'text' has list"):
        answer_counts({"text": ["a span"]})


def test_a_batch_holds_as_many_answers_as_its_richest_question():
    loader = Loader(
        question(["cat", ["dog", "dog", "cat", "yes"], {"no": 2}]),
        batch_size=3,
        image_size=8,
        tokenizer=TOKENIZER,
        answers=True,
        shuffle=False,
    )
    (batch,) = loader
    expected = torch.tensor([[1.0, 0, 0], [0.5, 0.25, 0.25], [1, 0, 0]])
    assert torch.equal(batch["answer_weight"], expected)
    answers_read = [TOKENIZER.decode(ids, skip_special_tokens=True).strip() for ids in batch["answers"]["input_ids"]]
    assert answers_read == ["cat", "", "", "dog", "cat", "yes", "no", "", ""]
    part = rows(batch, 1, 2, 3)  # as a batch is cut: sample-major, with all rows of each sample
    assert torch.equal(part["answers"]["input_ids"], batch["answers"]["input_ids"][3:6])
    assert torch.equal(part["answer_weight"], expected[1:2])


def test_questions_without_an_answer_are_skipped_only_where_answers_are_wanted():
    source = question(["cat", [], ["", None], "dog"] * 20)
    settings = {"batch_size": 4, "image_size": 8, "tokenizer": TOKENIZER, "max_skipped": 0.6}
    loader = Loader(source, answers=True, **settings)
    for batch in loader:
        assert (batch["answer_weight"].sum(1) == 1).all()
    assert loader.skipped.count
    assert {problem.why for problem in loader.skipped} == {"no answer"}
    plain = Loader(source, **settings)
    assert not any("answers" in batch for batch in plain)
    assert not plain.skipped.count
    with pytest.raises(UserError, match="has no 'answers'; its columns are: image, text"):
        Loader(Records([{"image": picture(), "text": "a cat"}]), answers=True, **settings)


@pytest.mark.parametrize("world_size", [1, 2])
def test_answers_stay_with_their_questions_on_every_process(world_size):
    source = Records(
        [{"image": picture(), "text": f"number {i}", "answers": [f"{i}"] * 2 + ["no"] * (i % 3)} for i in range(12)]
    )
    settings = {"image_size": 8, "tokenizer": TOKENIZER, "answers": True, "seed": 4}
    ids_read = []
    for rank in range(world_size):
        for batch in Loader(source, batch_size=12 // world_size, rank=rank, world_size=world_size, **settings):
            first = batch["answers"]["input_ids"].unflatten(0, batch["answer_weight"].shape)[:, 0]
            for index, ids, weight in zip(batch["index"].tolist(), first, batch["answer_weight"], strict=True):
                assert TOKENIZER.decode(ids, skip_special_tokens=True).strip() == str(index)
                assert weight[0].item() == pytest.approx(2 / (2 + index % 3))
            ids_read += batch["index"].tolist()
    assert sorted(ids_read) == list(range(12))


def test_tables_name_or_guess_the_columns(tmp_path):
    (tmp_path / "qa.csv").write_text("image,question,answer\na.png,what is it?,a cat\nb.png,how many?,2\n")
    source = open_source(tmp_path / "qa.csv")
    assert source[1]["text"] == ["how many?"]
    assert answer_counts(source[1]["answers"]) == {"2": 1}
    assert [answer_counts(each) for each in source.column("answers")] == [{"a cat": 1}, {"2": 1}]
    (tmp_path / "wide.csv").write_text("image,q,first,second\na.png,what?,cat,dog\n")
    wide = open_source(tmp_path / "wide.csv", text="q", answers=["first", "second"])
    assert answer_shares(wide[0]["answers"]) == {"cat": 0.5, "dog": 0.5}
    lines = [{"image": "a.png", "question": "what?", "answers": ["cat", "cat", "dog"]}]
    lines += [{"image": "a.png", "question": "who?", "answers": ["he"]}]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert answer_counts(open_source(tmp_path / "qa.jsonl")[0]["answers"]) == {"cat": 2, "dog": 1}
    with pytest.raises(UserError, match=r"no column 'reply' for answers; its columns are: image, question, answer"):
        open_source(tmp_path / "qa.csv", answers="reply")


@pytest.fixture
def files(tmp_path):
    """Two questions about one picture, as VQA v2 names its files."""
    picture(tmp_path / "train2014" / "COCO_train2014_000000000042.jpg")
    question = [{"question_id": 420 + i, "image_id": 42, "question": q} for i, q in enumerate(("Is it red?", "What?"))]
    answered = [
        {
            "question_id": 420 + i,
            "image_id": 42,
            "question_type": kind,
            "answer_type": "other",
            "answers": [{"answer": "yes", "answer_id": n, "answer_confidence": "yes"} for n in range(9)]
            + [{"answer": "no", "answer_id": 9}],
        }
        for i, kind in enumerate(("is it", "what"))
    ]
    whole = {"data_subtype": "train2014", "data_type": "mscoco"}
    questions = tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json"
    questions.write_text(json.dumps({**whole, "questions": question}))
    (tmp_path / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({**whole, "annotations": answered}))
    return questions


def test_vqa_files_as_published(files):
    source = open_source(files)
    assert len(source) == 2
    record = source[0]
    assert record["text"] == "Is it red?"
    assert record["image"] == str(files.parent / "train2014" / "COCO_train2014_000000000042.jpg")
    assert answer_shares(record["answers"]) == pytest.approx({"yes": 0.9, "no": 0.1})
    assert (record["question_type"], record["group"]) == ("is it", 42)
    assert set(source.columns) == set(source[0])
    (batch,) = Loader(source, batch_size=2, image_size=8, tokenizer=TOKENIZER, answers=True)
    assert batch["answer_weight"].shape == (2, 2)
    assert batch["group"].tolist() == [42, 42]


def test_vqa_files_that_do_not_fit(files, tmp_path):
    named = vqa(files, images=tmp_path, pattern="{split}-{image_id}.png")
    assert named[0]["image"] == str(tmp_path / "train2014-42.png")
    with pytest.raises(UserError, match=r"may hold \{image_id\} and \{split\}"):
        vqa(files, pattern="{id}.jpg")
    annotations = tmp_path / "v2_mscoco_train2014_annotations.json"
    annotations.write_text(json.dumps({"annotations": []}))
    with pytest.raises(UserError, match="2 questions have no annotation, number 420 the first"):
        vqa(files)
    annotations.unlink()
    assert "answers" not in vqa(files).columns  # the test split is published without
    with pytest.raises(UserError, match="no such file"):
        vqa(files, annotations=tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"holds no list of 'questions'.*\.jsonl"):
        open_source(tmp_path / "list.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        open_source(tmp_path / "broken.json")
