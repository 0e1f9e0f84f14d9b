"""Five captions a picture, one a row, through the commands: a perfect model has R@1 100 % both ways, and each picture
is one item of the index, in whatever form the rows come."""

import json

import pytest

from data.five_captions import (
    CAPTIONS,
    PICTURES,
    Knows,
    as_csv,
    as_jsonl,
    as_metadata,
    as_parquet,
    as_saved,
    as_shards,
    as_tsv,
    pictures,
    rows,
)
from nearfar import cli
from nearfar.data import Loader, train_tokenizer
from nearfar.data.sources.record_text import captions
from nearfar.embedding import Embeddings
from nearfar.training.recipe.recipe_data import open_spec


def as_coco_vqa(folder):
    """Questions as VQA publishes them, with annotations and pictures beside."""
    pictures(folder / "val2014")
    for p in range(PICTURES):
        (folder / "val2014" / f"{p}.png").rename(folder / "val2014" / f"COCO_val2014_{p:012d}.jpg")
    numbered = [{"question_id": i, "image_id": p, "question": c} for i, (p, c) in enumerate(rows())]
    answers = [{"question_id": i, "image_id": p, "answers": [{"answer": "yes"}]} for i, (p, _) in enumerate(rows())]
    for kind, entries in (("OpenEnded_mscoco_val2014_questions", numbered), ("mscoco_val2014_annotations", answers)):
        content = {"data_subtype": "val2014", kind.rpartition("_")[2]: entries}
        (folder / f"v2_{kind}.json").write_text(json.dumps(content))


FORMS = {
    "csv": (as_csv, "{}/t.csv"),
    "tsv": (as_tsv, "{}/t.tsv"),
    "jsonl": (as_jsonl, "{}/t.jsonl"),
    "metadata": (as_metadata, "{}"),
    "parquet": (as_parquet, "{}/t.parquet"),
    "saved": (as_saved, "{}"),
    "shards": (as_shards, "{}/s.tar"),
    "vqa": (as_coco_vqa, "{}/v2_OpenEnded_mscoco_val2014_questions.json"),
}


@pytest.fixture(autouse=True)
def here(tmp_path, tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr("nearfar.models.loading.load", lambda name, **options: Knows())
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "forms", [*([form] for form in FORMS), ["parquet", "csv"], ["shards", "jsonl"]], ids=" + ".join
)
def test_a_perfect_model_has_all_of_them_first(tmp_path, forms, capsys):
    for form in forms:
        FORMS[form][0](tmp_path / form)
    data = " + ".join(FORMS[form][1].format(form) for form in forms)
    cli.main(["evaluate", "knows", "--on", data, "--protocols", "retrieval", "--json", "results.json"])
    retrieval = json.loads((tmp_path / "results.json").read_text())["results"]["retrieval"]
    for direction in ("text_to_image", "image_to_text"):
        measured = retrieval["metrics"][f"{direction}_R@1"]
        assert measured["value"] == 1.0
        assert measured["chance"] == pytest.approx(1 / PICTURES)
    assert retrieval["details"]["images"] == PICTURES
    assert retrieval["details"]["captions"] == len(forms) * PICTURES * CAPTIONS
    capsys.readouterr()
    cli.main(["index", "knows", data, "--out", "index"])
    assert f"index: {len(forms) * PICTURES} pictures" in capsys.readouterr().out
    cli.main(["embed", "knows", data, "--out", "e.safetensors"])
    texts = len(forms) * PICTURES * CAPTIONS
    embedded = Embeddings.load("e.safetensors")
    assert (len(set(embedded.image_group.tolist())), len(embedded.captions)) == (PICTURES, texts)
    in_training = open_spec("data.train", data)
    tokenizer = train_tokenizer(in_training.texts(), 300)
    (batch,) = Loader(in_training, batch_size=len(in_training), shuffle=False, image_size=8, tokenizer=tokenizer)
    assert len(set(batch["group"].tolist())) == PICTURES
    assert sum(len(captions(record["text"])) for record in in_training) == texts


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_captions_of_every_form_are_queries(tmp_path, form, capsys):
    FORMS[form][0](tmp_path / form)
    data = FORMS[form][1].format(form)
    cli.main(["index", "knows", data, "--out", "index"])
    cli.main(["search", "--queries", data, "--index", "index", "--top", "1", "--out", "hits.jsonl"])
    assert f"hits of {PICTURES * CAPTIONS} queries among {PICTURES} pictures" in capsys.readouterr().out
